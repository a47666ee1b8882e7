"""Passes from program to program leave the values of every result as they are."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

import numpy as np
import pytest

from miras_dsl.codegen.passes import simplify as module
from miras_dsl.codegen.passes.autodiff import adjoint
from miras_dsl.codegen.passes.simplify import is_zero_outside, simplify
from miras_dsl.codegen.pipeline import CompiledMemory
from miras_dsl.ir import (
    KEY,
    VALUE,
    Axis,
    Contract,
    I,
    Input,
    J,
    L,
    M,
    Mask,
    Node,
    Program,
    Role,
    Triangle,
    contract,
    hidden,
    postorder,
)
from miras_dsl.ir.interpreter import evaluate
from tests.judge.random_specs.draw import sample, text
from tests.meaning.cases import CASES, Case
from tests.meaning.derived import compiled, extents, of_text, shipped

TOKENS, RANDOM = 6, 12
Q, K = Input("q", (I, KEY), Role.TOKEN), Input("k", (J, KEY), Role.TOKEN)
LOWER, STRICT = Triangle(I, J, False), Triangle(I, J, True)


def difference(before: Program, after: Program, sizes: Mapping[Axis, int]) -> float:
    """The largest difference of a result, relative to its size, on random inputs."""
    rng = np.random.default_rng(0)
    env = {x: rng.uniform(0.1, 0.5, [sizes[a] for a in x.axes]) for x in before.inputs}
    old, new = (evaluate([n for _, n in p], env, sizes) for p in (before, after))
    return max(
        float(np.max(np.abs(x - y))) / max(1.0, float(np.max(np.abs(x))))
        for x, y in zip(old, new, strict=True)
    )


def sizes_of(memory: CompiledMemory) -> dict[Axis, int]:
    return extents(memory.rule) | dict.fromkeys((I, J, L, M), TOKENS)


def programs(name: str) -> list[Program]:
    form = compiled(name).form
    assert form is not None
    return [form.program, adjoint(form.program)]


@pytest.mark.parametrize("name", sorted(shipped()))
def test_simplified_programs_have_the_same_results(name: str) -> None:
    for program in programs(name):
        made = simplify(program)
        assert difference(program, made, sizes_of(compiled(name))) < 1e-11
        assert not any(idle(node) for node in postorder(n for _, n in made))


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_simplified_hand_written_programs(case: Case) -> None:
    sizes = dict(zip((VALUE, hidden("hidden"), KEY), case.sizes, strict=True))
    sizes |= dict.fromkeys((I, J, L, M), case.chunk)
    for program in (case.program, adjoint(case.program)):
        assert difference(program, simplify(program), sizes) < 1e-11


def test_simplified_random_memories() -> None:
    """Programs of random specs; those without a chunk form are drawn again."""
    random, checked = Random(7), 0
    while checked < RANDOM:
        memory = of_text(text(sample(random)))
        if memory.form is None:
            continue
        checked += 1
        for program in (memory.form.program, adjoint(memory.form.program)):
            assert difference(program, simplify(program), sizes_of(memory)) < 1e-11


def idle(node: Node) -> bool:
    return isinstance(node, Mask) and is_zero_outside(node.x, node.triangle)


def test_a_wrong_rewrite_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every mask dropped, whatever its operand: the comparison sees it."""
    monkeypatch.setattr(module, "is_zero_outside", lambda x, triangle: True)
    program = programs("DeltaNet")[0]
    assert difference(program, simplify(program), sizes_of(compiled("DeltaNet"))) > 1e-3


def simplified(node: Node) -> Node:
    return simplify(Program((), (("y", node),), ())).result("y")


def test_signs_move_outwards_and_cancel() -> None:
    score = contract(Q, K, (KEY,))
    assert simplified(contract(-Q, K, (KEY,))) is -score
    assert simplified(contract(-Q, -K, (KEY,))) is score
    assert simplified(-Mask(-score, LOWER)) is Mask(score, LOWER)


def test_idle_and_nested_masks() -> None:
    score = contract(Q, K, (KEY,))
    assert simplified(Mask(Mask(score, STRICT), LOWER)) is Mask(score, STRICT)
    assert simplified(Mask(Mask(score, LOWER), STRICT)) is Mask(score, STRICT)


def test_matrix_products_and_row_sums() -> None:
    v = Input("v", (I, VALUE), Role.TOKEN)
    w = Input("w", (VALUE,), Role.CONSTANT)
    for node, product in ((contract(Q, K, (KEY,)), True), (contract(v, w, (VALUE,)), False)):
        assert isinstance(node, Contract) and node.is_matrix_product == product
