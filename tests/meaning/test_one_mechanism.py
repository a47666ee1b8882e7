"""One mechanism: other names and formulas in place of the library give the same at every stage."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from miras_dsl.check import read
from miras_dsl.check.library.load import standard
from miras_dsl.codegen.pipeline import compile_memory
from miras_dsl.codegen.stage_digests import STAGES, nameless, stage_digests
from miras_dsl.source import Source
from miras_dsl.spec import MemorySpec
from tests.meaning.derived import compiled, of_text, shipped
from tests.meaning.twin import names_of, twin_of
from tests.shipped_specs import spanning_case

ROOT = Path(__file__).resolve().parents[2]
RENAMED = Path(__file__).with_name("renamed.mem").read_text(encoding="utf-8")
BY_HAND = dict(re.findall(r"# (\w+)\n(?:(?:architecture|algorithm) .*\n)?memory (\w+)", RENAMED))
"""A memory -> the same one with other names and with formulas in place, written by hand."""
TWINS = {name: f"Other{name}" for name in shipped()} | BY_HAND
"""The same for every shipped memory; where nobody wrote one, names are changed by `twin_of`."""
LIBRARY = """
memory PlainNetwork(d) {
  architecture mlp(hidden = 4 * d, activation = tanh, bias, residual)
  bias         huber(delta)
  retention    none
  algorithm    momentum(eta, 1 / 2), anchored(16, sweeps = 2)
  order        predict, write, read
  gates        { eta, delta = sigmoid(linear(x)) }
}
memory GatedUnits(d) {
  architecture glu(2 * d)
  bias         lp(3)
  retention    soft(alpha, 1 / 10) at chunk
  algorithm    gd(eta), anchored(16)
  order        predict, decay, write, read
  gates        { alpha, eta = sigmoid(linear(x)) }
}
"""
"""Words of the library that no shipped memory uses."""


@cache
def digests(name: str) -> dict[str, str]:
    if name in shipped():
        return stage_digests(compiled(name))
    return stage_digests(compile_memory(others()[name]))


@cache
def others() -> dict[str, MemorySpec]:
    found: dict[str, MemorySpec] = {}
    for path in sorted((ROOT / "specs").glob("*.mem")):
        text = twin_of(path.read_text(encoding="utf-8"))
        found |= read(Source(path.name, text)).memories
    found |= read(Source("renamed.mem", RENAMED)).memories
    return found | read(Source("library.mem", LIBRARY)).memories


def test_every_shipped_memory_has_a_twin_and_hand_written_ones_are_used() -> None:
    assert set(shipped()) < set(TWINS)
    hand = set(read(Source("renamed.mem", RENAMED)).memories)
    assert hand == set(BY_HAND.values()) <= set(TWINS.values())
    assert set(TWINS.values()) <= set(others())


@pytest.mark.parametrize("name", [name for name in shipped() if name not in BY_HAND])
def test_a_twin_shares_no_name_with_its_memory(name: str) -> None:
    """But for tokens that every memory has, and for weights that an `mlp` names by itself."""
    here, there = shipped()[name], others()[TWINS[name]]
    assert not names_of(here) & names_of(there)
    if not any(re.fullmatch(r"[Wb]\d", s.name) for s in here.states):
        assert not {s.name for s in here.states} & {s.name for s in there.states}


@pytest.mark.parametrize("name", [spanning_case(name, [name]) for name in TWINS])
def test_twins_have_equal_digests(name: str) -> None:
    here, there = digests(name), digests(TWINS[name])
    chunked = name not in shipped() or compiled(name).form is not None
    stages = set(STAGES) - ({"chunk", "adjoint"} if not chunked else set())
    assert tuple(here) == STAGES and all(here[stage] for stage in stages)
    assert here == there


def test_different_rules_have_different_digests() -> None:
    """The digests are blind to names and to nothing else."""
    every = {name: digests(name) for name in TWINS}
    assert len({found["spec"] for found in every.values()}) == len(every)
    for name, like in (("HGRN2", "GLA"), ("Raven", "GSA")):
        assert every.pop(name)["text"] == every[like]["text"], "they differ in a token's formula"
    assert len({found["text"] for found in every.values()}) == len(every)


CHANGES = [
    ("order        predict, write, read", "order        read, predict, write"),
    ("sum((W @ key - value)^2) / 2", "sum((W @ key - value)^2)"),
    ("sum((W @ key - value)^2) / 2", "sum((W @ key + value)^2) / 2"),
    ("sum((W @ key - value)^2) / 2", "sum((W @ query - value)^2) / 2"),
    ("keep(W) - eta * grad", "keep(W) + eta * grad"),
    ("keep(W) - eta * grad", "keep(W) - eta * eta * grad"),
    ("retention    none", "retention    decay 0.99"),
]
RULE = """
memory Rule(dk, dv) {
  architecture W: matrix[value, key]
  bias         sum((W @ key - value)^2) / 2
  retention    none
  algorithm    { W = keep(W) - eta * grad }, exact
  order        predict, write, read
  gates        { eta = sigmoid(linear(x)) }
}
"""


@pytest.mark.parametrize(("old", "new"), CHANGES)
def test_a_change_of_meaning_is_seen_at_every_stage_after_it(old: str, new: str) -> None:
    assert old in RULE
    text = RULE.replace(old, new)
    if "decay 0.99" in new:
        text = text.replace("predict, write", "predict, decay, write")
    here, there = stage_digests(of_text(RULE)), stage_digests(of_text(text))
    for stage in ("spec", "rule", "chunk", "adjoint", "text"):
        assert here[stage] != there[stage], stage


def test_text_without_names() -> None:
    text = 'def f(a, b):\n    """What."""\n    return torch.exp(a) + b  # why\n'
    other = "def g(p, q):\n    return torch.exp(p) + q\n"
    assert nameless(text) == nameless(other)
    for old, new in (("exp", "log"), ("(p) + q", "(q) + p"), ("(p) + q", "(p) + p")):
        assert nameless(text) != nameless(other.replace(old, new))


def test_no_stage_depends_on_hashes_or_on_the_process() -> None:
    """The generated text of a file is the same in a process with other hashes."""
    code = (
        "from tests.meaning.derived import compiled\n"
        "print(compiled('Yaad').text + compiled('RWKV7').text)"
    )
    environment = os.environ | {"PYTHONHASHSEED": "11"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip("\n") == (compiled("Yaad").text + compiled("RWKV7").text).rstrip("\n")


PUBLISHED = {
    "comba", "deltanet", "lattice", "longhorn", "mamba", "mesanet", "moneta", "retnet", "rwkv",
    "ttt", "xlstm",
}  # fmt: skip
"""Models that are not shipped under this name, but might have been built in."""
MATHEMATICS = {"bounded", "dot", "logcosh", "soft"}
"""Biases and retentions that are called like a word or a function of mathematics."""


def words_of_models() -> set[str]:
    """Names of shipped memories and their files, and of library biases and retentions."""
    found = {name.lower() for name in shipped()} | PUBLISHED
    found |= {path.stem for path in (ROOT / "specs").glob("*.mem")}
    found |= {name for kind, name in standard() if kind in ("bias", "retention")}
    return found - MATHEMATICS


def test_the_compiler_names_no_model_and_no_bias() -> None:
    words = words_of_models()
    assert {"yaad", "deltanet", "huber", "kl", "l2"} <= words
    named = re.compile(r"(?<![a-z0-9])(" + "|".join(sorted(words)) + r")(?![a-z])", re.IGNORECASE)
    assert named.search("def yaad_rule():") and named.search("class RWKV7:")
    places = [*(ROOT / "codegen").rglob("*.py"), *(ROOT / "templates").rglob("*.j2")]
    assert len(places) > 20
    for path in sorted(places):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert not named.search(line), f"{path.name}:{number}: {line.strip()}"
