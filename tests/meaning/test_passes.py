"""Passes from program to program leave the values of every result as they are."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from random import Random

import pytest
import sympy as sp

from miras_dsl.codegen.model.inputs import VALID
from miras_dsl.codegen.passes import drop_valid as drop_valid_module
from miras_dsl.codegen.passes import simplify as module
from miras_dsl.codegen.passes.autodiff import adjoint
from miras_dsl.codegen.passes.drop_valid import drop_valid
from miras_dsl.codegen.passes.merge_sums import merge_sums
from miras_dsl.codegen.passes.simplify import is_zero_outside, simplify
from miras_dsl.codegen.pipeline import CompiledMemory
from miras_dsl.ir import (
    KEY,
    VALUE,
    ZERO,
    Axis,
    Broadcast,
    Contract,
    Cumsum,
    GatedApply,
    GatedContract,
    GatedSpan,
    I,
    Input,
    J,
    L,
    M,
    Map,
    Mask,
    Node,
    Number,
    Program,
    Reduce,
    Role,
    Shift,
    Triangle,
    contract,
    hidden,
    inputs_of,
    postorder,
)
from miras_dsl.scalar.functions import OPERANDS
from tests.judge.random_specs.draw import sample, text
from tests.meaning.cases import CASES, Case
from tests.meaning.compare_programs import difference
from tests.meaning.derived import compiled, extents, of_text, shipped_names

TOKENS = 6
RANDOM, MANY = 12, 200
"""Random specs of a usual run, and of `make test-all`."""
Pass = Callable[[Program], Program]
PASSES: dict[str, Pass] = {
    "simplify": simplify,
    "drop_valid": drop_valid,
    "merge_sums": merge_sums,
}
Q, K = Input("q", (I, KEY), Role.TOKEN), Input("k", (J, KEY), Role.TOKEN)
QK = contract(Q, K, (KEY,))
LOWER, STRICT = Triangle(I, J, False), Triangle(I, J, True)


def sizes_of(memory: CompiledMemory) -> dict[Axis, int]:
    return extents(memory.rule) | dict.fromkeys((I, J, L, M), TOKENS)


def programs(name: str) -> list[Program]:
    form = compiled(name).form
    assert form is not None
    return [form.program, adjoint(form.program)]


@pytest.mark.parametrize("name", shipped_names("form"))
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


@pytest.mark.parametrize("name", shipped_names("form"))
def test_full_chunks_of_shipped_programs(name: str) -> None:
    for program in programs(name):
        made = drop_valid(program)
        assert VALID not in (*made.inputs, *inputs_of(n for _, n in made))
        assert difference(program, made, sizes_of(compiled(name))) < 1e-11


@cache
def random_memory(number: int) -> CompiledMemory:
    """A random memory; specs without a chunk form are drawn again."""
    random = Random(number)
    while (memory := of_text(text(sample(random)))).form is None:
        pass
    return memory


@pytest.mark.parametrize(
    "number",
    [n if n < RANDOM else pytest.param(n, marks=pytest.mark.thorough) for n in range(MANY)],
)
def test_passes_on_random_memories(number: int) -> None:
    memory = random_memory(number)
    assert memory.form is not None
    for program in (memory.form.program, adjoint(memory.form.program)):
        for name, rewrite in PASSES.items():
            assert difference(program, rewrite(program), sizes_of(memory)) < 1e-11, name


def idle(node: Node) -> bool:
    return isinstance(node, Mask) and is_zero_outside(node.x, node.triangle)


def test_a_wrong_rewrite_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every mask dropped, whatever its operand: the comparison sees it."""
    monkeypatch.setattr(module, "is_zero_outside", lambda x, triangle: True)
    program = programs("DeltaNet")[0]
    assert difference(program, simplify(program), sizes_of(compiled("DeltaNet"))) > 1e-3


def test_a_wrong_value_of_valid_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """`valid` replaced by 0 instead of 1: the comparison sees it."""
    monkeypatch.setattr(drop_valid_module, "ONE", ZERO)
    program = programs("DeltaNet")[0]
    assert difference(program, drop_valid(program), sizes_of(compiled("DeltaNet"))) > 1e-3


def test_an_axis_of_valid_alone_is_kept() -> None:
    """The running sum of a constant, and a constant itself, still have a row for each token."""
    half = Number(sp.Rational(1, 2))
    w = Input("w", (VALUE,), Role.CONSTANT)
    results = (("count", Cumsum(VALID * half, I)), ("row", w * VALID))
    made = drop_valid(Program((VALID, w), results, ()))
    assert made.result("count") is Cumsum(Broadcast(half, (I,)), I)
    assert made.result("row") is Broadcast(w, (I,))
    assert difference(Program((VALID, w), results, ()), made, {I: 5, VALUE: 3}) == 0


def test_sums_of_one_operation_are_merged() -> None:
    """Level by level, with numbers, and only what nothing else reads."""
    a, b, c = (Input(name, (I, KEY), Role.TOKEN) for name in "abc")

    def total(x: Node) -> Node:
        return Reduce("sum", Shift(Cumsum(x, I), I, 1), (KEY,))

    found = total(a) - total(b) * 2 + Reduce("sum", c, (KEY,))
    program = Program((a, b, c), (("y", found),), ())
    made = merge_sums(program)
    linear = [x for x in postorder([made.result("y")]) if isinstance(x, Cumsum | Shift | Reduce)]
    assert [type(x) for x in linear] == [Cumsum, Shift, Reduce]
    assert difference(program, made, {I: 5, KEY: 3}) < 1e-14
    read = Cumsum(a, I)
    twice = Program((a, b), (("y", read + Cumsum(b, I)), ("z", read)), ())
    assert merge_sums(twice) is twice
    other = Program((a, b), (("y", Cumsum(a, I) + Cumsum(b, I, reverse=True)),), ())
    assert merge_sums(other) is other
    squared = Map(OPERANDS[0] + OPERANDS[0] * OPERANDS[1], (Cumsum(a, I), Cumsum(b, I)))
    both = Program((a, b), (("y", squared),), ())
    assert merge_sums(both) is both


def simplified(node: Node) -> Node:
    return simplify(Program((), (("y", node),), ())).result("y")


def test_signs_move_outwards_and_cancel() -> None:
    score = contract(Q, K, (KEY,))
    assert simplified(contract(-Q, K, (KEY,))) is -score
    assert simplified(contract(-Q, -K, (KEY,))) is score
    assert simplified(-Mask(-score, LOWER)) is Mask(score, LOWER)


@pytest.mark.parametrize("triangle", [LOWER, STRICT])
def test_numbers_leave_gated_operations(triangle: Triangle) -> None:
    """From what is multiplied; an exponent keeps its own, even if it is the same node."""
    a, b, m = Input("a", (I, KEY), Role.TOKEN), Input("b", (J, KEY), Role.TOKEN), Mask(QK, LOWER)
    over_col, over_row = (
        partial(GatedApply, channel=KEY, triangle=triangle, over=t) for t in (J, I)
    )
    span = partial(GatedSpan, channel=KEY, triangle=triangle, inclusive=True)
    pairs: list[tuple[Node, Node]] = [
        (
            GatedContract(-Q, K * 3, a, b, KEY, triangle),
            GatedContract(Q, K, a, b, KEY, triangle) * -3,
        ),
        (GatedContract(-a, -b, -a, -b, KEY, triangle), GatedContract(a, b, -a, -b, KEY, triangle)),
        (over_col(-m, K * 2, -a, b), over_col(m, K, -a, b) * -2),
        (over_row(-m, -a, -a, b), over_row(m, a, -a, b)),
        (span(-m, Q * 2, K * 3, a, b), span(m, Q, K, a, b) * -6),
    ]
    for node, wanted in pairs:
        assert simplified(node) is wanted
        program = Program(tuple(inputs_of([node])), (("y", node),), ())
        assert difference(program, simplify(program), {I: 5, J: 5, KEY: 3}) < 1e-14


def test_sums_of_sums_are_one() -> None:
    """As are maxima of maxima; not a sum of maxima, nor a sum that something else reads."""
    x = Input("x", (I, J, KEY, VALUE), Role.TOKEN)

    def twice(outer: str, inner: str) -> Node:
        return Reduce(outer, Reduce(inner, x, (VALUE,)), (I,))

    for kind in ("sum", "max"):
        assert simplified(twice(kind, kind)) is Reduce(kind, x, (I, VALUE))
        assert simplified(Reduce(kind, twice(kind, kind), (KEY,))) is Reduce(
            kind, x, (I, VALUE, KEY)
        )
    assert simplified(Reduce("sum", -Reduce("sum", x, (VALUE,)), (I,))) is -Reduce(
        "sum", x, (I, VALUE)
    )
    for node in (
        twice("sum", "max"),
        twice("max", "sum"),
        Reduce("max", -twice("max", "max"), (J,)),
    ):
        assert sum(isinstance(n, Reduce) for n in postorder([simplified(node)])) == 2
    inner = Reduce("sum", x, (VALUE,))
    read = Program((x,), (("y", Reduce("sum", inner, (I,))), ("z", inner)), ())
    assert simplify(read).results == read.results
    sizes = {I: 5, J: 5, KEY: 3, VALUE: 2}
    for node in (twice("sum", "sum"), twice("max", "max"), twice("sum", "max")):
        program = Program((x,), (("y", node),), ())
        assert difference(program, simplify(program), sizes) < 1e-14


def test_a_number_left_behind_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sign of a gated product's operand dropped: the comparison sees it."""
    made = module._scaled
    monkeypatch.setattr(module, "_scaled", lambda x: (abs(made(x)[0]), made(x)[1]))
    (case,) = (case for case in CASES if case.name == "row gates")
    with pytest.raises(AssertionError):
        test_simplified_hand_written_programs(case)


def test_idle_and_nested_masks() -> None:
    score = contract(Q, K, (KEY,))
    assert simplified(Mask(Mask(score, STRICT), LOWER)) is Mask(score, STRICT)
    assert simplified(Mask(Mask(score, LOWER), STRICT)) is Mask(score, STRICT)


def test_matrix_products_and_row_sums() -> None:
    v = Input("v", (I, VALUE), Role.TOKEN)
    w = Input("w", (VALUE,), Role.CONSTANT)
    for node, product in ((contract(Q, K, (KEY,)), True), (contract(v, w, (VALUE,)), False)):
        assert isinstance(node, Contract) and node.is_matrix_product == product
