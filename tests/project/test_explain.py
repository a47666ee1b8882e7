"""What `miras explain` prints is the derivation, spelled so that a person can check it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

import miras_dsl as miras
import miras_dsl.codegen.explain as explain_module
from miras_dsl.codegen.explain import STAGES, explain
from miras_dsl.codegen.pipeline import RenderedModule, compile_file
from miras_dsl.ir import KEY, I, Input, J, Mask, Program, Role, Triangle, contract, rename
from miras_dsl.ir.notation.program_lines import print_program
from miras_dsl.ir.notation.style import LATEX, TEXT
from miras_dsl.spec import FileSpec
from tests.project.command import GOOD
from tests.shipped_specs import by_file, spanning_case

ROOT = Path(__file__).resolve().parents[2]
SPECS = sorted(p.stem for p in (ROOT / "specs").glob("*.mem"))
PRINTED = [stage for stage in STAGES if stage not in ("code", "all")]

RENDERED = ("gla", "gated_deltanet", "logcosh_momentum")
"""Specs whose adjoints are rendered too: a decay per channel, an inverse, a substitution."""

DELTA = GOOD
parsed = cache(miras.parse)
compiled = cache(lambda name: compile_file(parsed(name)))


@pytest.fixture(autouse=True)
def _compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shipped specs are compiled once for all tests of a process."""
    by_spec = {id(parsed(name)): name for name in SPECS}

    def compile_cached(spec: FileSpec) -> RenderedModule:
        name = by_spec.get(id(spec))
        return compiled(name) if name is not None else compile_file(spec)

    monkeypatch.setattr(explain_module, "compile_file", compile_cached)


def test_the_delta_rule_reads_as_the_delta_rule():
    """The expected text was written by hand, from the rule."""
    text = explain(miras.parse(DELTA), stage="update")
    assert "W' = W + eta * outer(value - W @ key, key)" in text
    assert "y = W' @ query" in text


def test_its_latex_is_the_same_formula():
    text = explain(miras.parse(DELTA), stage="update", form="latex")
    assert r"\left(\mathrm{value} - W\,\mathrm{key}\right)\,{\mathrm{key}}^{\top}" in text


@pytest.mark.parametrize("name, most", [("gated_deltanet", 35), ("yaad", 65), ("memora", 50)])
def test_a_summary_fits_on_a_page(name, most):
    text = explain(parsed(name))
    assert len(text.splitlines()) <= most
    assert not re.search(r"\bt\d|erf\(.*t\d|sum\[", text), "names and sums that nobody wrote"


def test_functions_are_named_as_in_the_spec():
    """Written out they would be ten lines; the formula of each stands once below."""
    text = explain(parsed("yaad"))
    assert "error = key + layernorm(z2, norm_weight, norm_shift) - value" in text
    assert "grad_W1 = outer(gelu'(z1) * (d_z2 @ W2), key)" in text
    assert "where(norm(error) <= delta, error, delta * sign(error))" in text
    assert text.count("gelu(z) = ") == 1
    assert "YaadSweeps" in text and "the formulas of a token are those of Yaad" in text


def test_what_the_checker_named_is_shown_as_written():
    text = explain(parsed("rwkv7"))
    assert "learned_1 = dot(query, insert * param[key]) * value" in text
    assert not re.search(r"(?<![a-z])_1\b", text)


def test_latex_knows_logarithms_from_the_model_and_not_from_their_names():
    named, meant = (Input(name, (), Role.GATE) for name in ("log_book", "speed"))
    program = Program((named, meant), (("y", named * meant),), ())
    style = replace(LATEX, logs=(("speed", "alpha"),))
    text = print_program(program, style)
    assert r"\alpha" in text and r"\mathrm{log}_{\mathrm{book}}" in text
    gated = explain(parsed("gated_deltanet"), stage="update", form="latex")
    assert r"\alpha\,W" in gated and "log" not in gated


def test_what_is_used_twice_gets_a_name_and_what_is_used_once_does_not():
    """Scores that two results share are one line; a formula used once stays in place."""
    q, k = Input("q", (I, KEY), Role.TOKEN), Input("k", (I, KEY), Role.TOKEN)
    scores = Mask(contract(q, rename(k, {I: J}), (KEY,)), Triangle(I, J, False))
    program = Program((q, k), (("a", scores + 1), ("b", scores * 2)), ())
    assert print_program(program, TEXT).splitlines() == [
        "before: every chunk by itself",
        "  t1 = tril(q @ kᵀ)",
        "  a = t1 + 1",
        "  b = 2 * t1",
    ]
    assert r"t_{1} &= \operatorname{tril}\left(q\,{k}^{\top}\right)" in print_program(
        program, LATEX
    )


def test_brackets_stand_where_they_must():
    """A sum inside a product keeps its brackets, in both spellings."""
    a, b, c = (Input(n, (KEY,), Role.TOKEN) for n in "abc")
    program = Program((a, b, c), (("y", contract(a + b, c, (KEY,))), ("z", (a + b) * c)), ())
    text = print_program(program, TEXT)
    assert "z = t1 * c" in text
    assert "t1 = a + b" in text
    once = Program((a, b, c), (("y", contract(a + b, c, (KEY,))),), ())
    assert "y = dot(a + b, c)" in print_program(once, TEXT)
    assert r"{\left(a + b\right)}^{\top}\,c" in print_program(once, LATEX)


@pytest.mark.parametrize("stage", PRINTED)
@pytest.mark.parametrize("spec", by_file(case=spanning_case))
def test_every_stage_of_every_spec_prints(spec, stage):
    """Balanced, without a name of ours in it, and as LaTeX that a compiler would take."""
    meant = parsed(spec)
    text = explain(meant, stage=stage)
    assert len(text) > 40
    assert text.count("(") == text.count(")")
    assert not re.search(r"Symbol|Node|Map\(|Contract|object at", text)
    latex = explain(meant, stage=stage, form="latex")
    assert latex.count("{") == latex.count("}")
    assert latex.count(r"\left") == latex.count(r"\right")
    assert latex.count(r"\begin{") == latex.count(r"\end{")
    assert not re.search(r"_\{[^{}]*\}_", latex)


@pytest.mark.parametrize("spec", by_file(case=spanning_case))
def test_json_holds_every_memory(spec):
    meant = parsed(spec)
    told = json.loads(explain(meant, form="json"))
    assert list(told) == list(meant.memories)
    for memory in told.values():
        assert memory["card"]["reasons"]
        assert memory["events"][-1]["lines"] or memory["events"][-2]["lines"]


@pytest.mark.parametrize("stage", ["gradient", "update", "chunk", "adjoint"])
def test_formulas_of_a_stage_are_displayed(stage):
    """LaTeX knows `aligned` in display mode only."""
    latex = explain(miras.parse(DELTA), stage=stage, form="latex")
    title = rf"\subsection*{{Delta: {stage}}}"
    assert latex.startswith(title + "\n\\[\n\\begin{aligned}\n")
    assert latex.endswith("\n\\end{aligned}\n\\]")


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "all"])
def test_json_of_a_stage_is_that_stage(stage):
    """The same content as in the whole, and nothing of the other stages."""
    meant = miras.parse(DELTA)
    whole = json.loads(explain(meant, stage="all", form="json"))["Delta"]
    one = json.loads(explain(meant, stage=stage, form="json"))["Delta"]
    if stage == "summary":
        assert set(whole) - set(one) == {"spec", "layer", "code"}
        assert one == {name: whole[name] for name in one}
    else:
        assert one == {stage: whole[stage], "warnings": []}
        assert whole[stage]


def test_json_says_why_there_is_no_chunk_form():
    """A rule that runs token by token has an obstacle in place of a program."""
    text = DELTA.replace("retention    none", "retention    link tanh(a) at token")
    (told,) = json.loads(explain(miras.parse(text), stage="chunk", form="json")).values()
    assert told["chunk"] is None
    assert told["obstacle"]


def equations(latex: str) -> Iterator[str]:
    """Both sides of every equation of a LaTeX text."""
    for block in re.findall(r"\\begin\{aligned\}\n(.*?)\n\\end\{aligned\}", latex, re.S):
        for line in block.split(" \\\\\n"):
            yield from (side.strip() for side in line.split("&"))


@pytest.mark.parametrize("spec", by_file(case=spanning_case))
def test_latex_renders(spec):
    """matplotlib's own TeX parser reads every side of every equation."""
    from matplotlib.mathtext import MathTextParser

    parser = MathTextParser("agg")
    stages = (
        ("summary", "gradient", "chunk", "adjoint") if spec in RENDERED else ("summary", "chunk")
    )
    sides = {
        side
        for stage in stages
        for side in equations(explain(parsed(spec), stage=stage, form="latex"))
    }
    assert len(sides) > 4
    for side in sides:
        parser.parse(f"${side}$")
        assert not re.search(r"_\{\}|(?<![A-Za-z}])_", side.replace(r"\_", "")), "an empty index"
