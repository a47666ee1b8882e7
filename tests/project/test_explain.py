"""What `miras explain` prints is the derivation, spelled so that a person can check it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

import miras_dsl as miras
from miras_dsl.codegen.explain import STAGES, explain, flops, state_size
from miras_dsl.codegen.pipeline import compile_memory
from miras_dsl.ir import KEY, I, Input, J, Mask, Program, Role, Triangle, contract, rename
from miras_dsl.ir.printer import LATEX, TEXT, print_program
from tests.project.command import GOOD

ROOT = Path(__file__).resolve().parents[2]
SPECS = sorted(p.stem for p in (ROOT / "specs").glob("*.mem"))
PRINTED = [stage for stage in STAGES if stage not in ("code", "all")]

DELTA = GOOD


def test_the_delta_rule_reads_as_the_delta_rule():
    """The expected text was written by hand, from the rule."""
    text = explain(miras.parse(DELTA), stage="update")
    assert "W' = W + eta*key*(value - sum[key](W * key))" in text
    assert "y = sum[key](W' * query)" in text


def test_its_latex_is_the_same_formula():
    text = explain(miras.parse(DELTA), stage="update", form="latex")
    assert r"W' &= W + \eta \mathrm{key} \left(\mathrm{value} - \sum_{\mathrm{key}}" in text


def test_latex_knows_logarithms_from_the_model_and_not_from_their_names():
    named, meant = (Input(name, (), Role.GATE) for name in ("log_book", "speed"))
    program = Program((named, meant), (("y", named * meant),), ())
    style = replace(LATEX, logs=(("speed", "alpha"),))
    text = print_program(program, style)
    assert r"\log \alpha" in text and r"\mathrm{log}_{\mathrm{book}}" in text
    gated = explain(miras.parse(ROOT / "specs/gated_deltanet.mem"), stage="update", form="latex")
    assert r"\log \alpha" in gated and "log_" not in gated


def test_what_is_used_twice_gets_a_name_and_what_is_used_once_does_not():
    """Scores that two results share are one line; a formula used once stays in place."""
    q, k = Input("q", (I, KEY), "token"), Input("k", (I, KEY), Role.TOKEN)
    scores = Mask(contract(q, rename(k, {I: J}), (KEY,)), Triangle(I, J, False))
    program = Program((q, k), (("a", scores + 1), ("b", scores * 2)), ())
    assert print_program(program, TEXT).splitlines() == [
        "before: every chunk by itself",
        "  t1 = sum[key](q * k[i→j]) [i >= j]",
        "  a = t1 + 1",
        "  b = 2*t1",
    ]
    assert r"t_{1} &= \sum_{\mathrm{key}} q\,{k}_{i\to j} [i \ge j]" in print_program(
        program, LATEX
    )


def test_brackets_stand_where_they_must():
    """A sum inside a product keeps its brackets, in both spellings."""
    a, b, c = (Input(n, (KEY,), Role.TOKEN) for n in "abc")
    program = Program((a, b, c), (("y", contract(a + b, c, (KEY,))), ("z", (a + b) * c)), ())
    text = print_program(program, TEXT)
    assert "z = c*t1" in text
    assert "t1 = a + b" in text
    once = Program((a, b, c), (("y", contract(a + b, c, (KEY,))),), ())
    assert "sum[key]((a + b) * c)" in print_program(once, TEXT)
    assert r"\left(a + b\right)\,c" in print_program(once, LATEX)


@pytest.mark.parametrize("stage", PRINTED)
@pytest.mark.parametrize("spec", SPECS)
def test_every_stage_of_every_spec_prints(spec, stage):
    """Balanced, without a name of ours in it, and as LaTeX that a compiler would take."""
    meant = miras.parse(spec)
    text = explain(meant, stage=stage)
    assert len(text) > 40
    assert text.count("(") == text.count(")")
    assert not re.search(r"Symbol|Node|Map\(|Contract|object at", text)
    latex = explain(meant, stage=stage, form="latex")
    assert latex.count("{") == latex.count("}")
    assert latex.count(r"\left") == latex.count(r"\right")
    assert latex.count(r"\begin{") == latex.count(r"\end{")
    assert not re.search(r"_\{[^{}]*\}_", latex)


@pytest.mark.parametrize("spec", SPECS)
def test_json_holds_every_memory(spec):
    meant = miras.parse(spec)
    told = json.loads(explain(meant, form="json"))
    assert list(told) == list(meant.memories)
    for memory in told.values():
        assert memory["evidence"]
        assert memory["state_bytes_per_head"] > 0
        assert memory["flops_per_token_and_head"] > 0


def test_costs_of_the_delta_rule_are_what_one_counts_by_hand():
    """One matrix is carried; two products with it cost 2 d^2 each, the rest up to 3 d^2."""
    (memory,) = miras.parse(DELTA).memories.values()
    derived = compile_memory(memory)
    assert str(state_size(derived)) == "d**2"
    found = flops(derived.rule.program, memory)
    assert 4 <= found.coeff(next(iter(found.free_symbols)), 2) <= 7


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
