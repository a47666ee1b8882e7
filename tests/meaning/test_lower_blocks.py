"""Inverses and substitutions opened into blocks are what they were: alone, in every shipped program,
in those written by hand, in random ones; and so is what is derived from them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import cache
from random import Random
from types import UnionType

import numpy as np
import pytest
import sympy as sp

from miras_dsl.check import read
from miras_dsl.codegen.passes.autodiff import adjoint
from miras_dsl.codegen.passes.blocks import inverse as inverse_module
from miras_dsl.codegen.passes.blocks import substitution as substitution_module
from miras_dsl.codegen.passes.blocks.axes import NotLowered, block_sizes
from miras_dsl.codegen.passes.drop_valid import drop_valid
from miras_dsl.codegen.passes.lower_blocks import lower_blocks
from miras_dsl.codegen.passes.merge_sums import merge_sums
from miras_dsl.codegen.passes.simplify import simplify
from miras_dsl.codegen.pipeline import CompiledMemory
from miras_dsl.diagnostics import SpecErrors
from miras_dsl.ir import (
    KEY,
    VALUE,
    Axis,
    ForwardSubstitution,
    I,
    Input,
    Inverse,
    J,
    Join,
    L,
    M,
    Mask,
    Node,
    Program,
    Role,
    Shift,
    Split,
    TakeLast,
    Triangle,
    contract,
    elementwise,
    hidden,
    inputs_of,
    postorder,
)
from miras_dsl.ir.interpreter import Array, evaluate
from miras_dsl.source import Source
from tests.judge.random_specs.draw import SpecRecipe, sample, text
from tests.meaning.cases import CASES, Case
from tests.meaning.compare_programs import difference
from tests.meaning.derived import compiled, extents, of_text, shipped, shipped_names
from tests.meaning.node_cases import SIZES, X, Y, substitutions
from tests.meaning.test_passes import MANY, RANDOM

CHUNK = 48
"""One joining in threes; `test_an_inverse_alone` has the other chunks."""


def has(program: Program, kind: type | UnionType) -> bool:
    return any(isinstance(n, kind) for n in postorder(n for _, n in program))


def inverse(row: Axis = I, col: Axis = J) -> Program:
    a = Input("a", (I, J), Role.CONSTANT)
    return Program((a,), (("y", Inverse(Mask(a, Triangle(row, col, True)), row, col)),), ())


def run(program: Program, a: Array) -> Array:
    return evaluate([n for _, n in program], {program.inputs[0]: a}, sizes_of(len(a)))[0]


@pytest.mark.parametrize("tokens", [16, 32, 48, 64, 96, 128])
@pytest.mark.parametrize(("row", "col"), [(I, J), (J, I)])
def test_an_inverse_alone(tokens: int, row: Axis, col: Axis) -> None:
    """Scores of keys that are nearly parallel: powers of ``A`` are huge, its inverse is not."""
    rng = np.random.default_rng(tokens)
    keys = rng.standard_normal(8) + 0.2 * rng.standard_normal((tokens, 8))
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    a = keys @ keys.T
    lowered = lower_blocks(inverse(row, col), tokens)
    np.testing.assert_allclose(run(lowered, a), run(inverse(row, col), a), atol=1e-12)
    assert opened(lowered, tokens)


def opened(program: Program, tokens: int) -> bool:
    """Whether every inverse and every substitution is of 16 rows."""
    sizes = sizes_of(tokens)
    nodes = postorder(n for _, n in program)
    return all(sizes[n.row] == 16 for n in nodes if isinstance(n, Inverse | ForwardSubstitution))


def sizes_of(tokens: int) -> dict[Axis, int]:
    return {**dict.fromkeys((I, J, L, M), tokens), **block_sizes(tokens)}


def test_a_forgotten_product_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group joined as if no block read another."""
    monkeypatch.setattr(inverse_module, "contract", lambda x, y, over: contract(x, y, over) * 0)
    with pytest.raises(AssertionError, match="Not equal"):
        test_an_inverse_alone(64, I, J)


def compare(program: Program, sizes: dict[Axis, int], logs: Collection[str] = ()) -> Program:
    """The program in blocks, which has the same results."""
    lowered = lower_blocks(program, CHUNK)
    assert opened(lowered, CHUNK)
    assert difference(program, lowered, {**sizes, **sizes_of(CHUNK)}, logs) < 1e-11
    return lowered


def check(memory: CompiledMemory) -> None:
    assert memory.form is not None
    logs = [feed.name for feed in memory.rule.inputs if feed.log]
    for program in (memory.form.program, adjoint(memory.form.program)):
        compare(program, extents(memory.rule), logs)


SUBSTITUTIONS: dict[str, ForwardSubstitution] = {
    f"{name}, {'reverse' if reverse else 'forward'}": replace(node, reverse=reverse)
    for name, node in substitutions().items()
    for reverse in (False, True)
    if isinstance(node, ForwardSubstitution)
}


@pytest.mark.parametrize("node", SUBSTITUTIONS.values(), ids=SUBSTITUTIONS)
def test_a_substitution_alone(node: ForwardSubstitution) -> None:
    """Bodies of one channel and of a whole row, gates that are decays and others, both ways."""
    program = of_node(node)
    compare(program, SIZES, [x.name for gate in node.gates or () for x in inputs_of([gate])])


def of_node(node: Node) -> Program:
    return Program(tuple(inputs_of([node])), (("y", node),), ())


@pytest.mark.parametrize("tokens", [16, 32, 64, 96])
def test_substitutions_of_other_lengths(tokens: int) -> None:
    for name in ("substitute, coupled, forward", "substitute, gated by the decays before, reverse"):
        program = of_node(SUBSTITUTIONS[name])
        lowered = lower_blocks(program, tokens)
        assert opened(lowered, tokens)
        assert difference(program, lowered, SIZES | sizes_of(tokens), ["ga", "gb"]) < 1e-12


@pytest.mark.parametrize("reverse", [False, True])
def test_decays_between_blocks_stay_finite(reverse: bool) -> None:
    """Each token keeps between nothing that a float holds and all: exponents are of any size."""
    way = "reverse" if reverse else "forward"
    node = SUBSTITUTIONS[f"substitute, gated by a decay, {way}"]
    rng = np.random.default_rng(1)
    sizes = SIZES | sizes_of(CHUNK)
    env = {x: rng.standard_normal([sizes[a] for a in x.axes]) for x in inputs_of([node])}
    logs = next(x for x in env if x.name == "ga")
    env[logs] = -(10.0 ** rng.uniform(-3, 3, env[logs].shape))
    program = of_node(node)
    wanted, found = (
        evaluate([p.result("y")], env, sizes)[0] for p in (program, lower_blocks(program, CHUNK))
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("substitute", ("contract", lambda x, y, over: contract(x, y, over) * 0)),
        ("substitute, gated", ("_decay", lambda a, b: elementwise(sp.exp(X - Y), b, a))),
        ("substitute, gated by a decay", ("TakeLast", lambda x, axis: TakeLast(Shift(x, axis, 1), axis))),
        ("substitute, coupled", ("Shift", lambda x, axis, by: x)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("way", ["forward", "reverse"])
def test_a_wrong_product_between_blocks_is_caught(
    monkeypatch: pytest.MonkeyPatch, name: str, fault: tuple[str, object], way: str
) -> None:
    """No product; the inverse decay; a block taken for the one before; the blocks all alike."""
    monkeypatch.setattr(substitution_module, *fault)
    with pytest.raises(AssertionError):
        test_a_substitution_alone(SUBSTITUTIONS[f"{name}, {way}"])


HELD = [case for case in CASES if has(case.program, Inverse | ForwardSubstitution)]


@pytest.mark.parametrize("case", HELD, ids=lambda case: case.name)
def test_hand_written_programs(case: Case) -> None:
    sizes = dict(zip((VALUE, hidden("hidden"), KEY), case.sizes, strict=True))
    for program in (case.program, adjoint(case.program)):
        compare(program, sizes)


def test_shipped_programs_have_what_is_opened() -> None:
    """So that what the next test compares is not only programs that stay as they are."""
    forms = [form for name in shipped() if (form := compiled(name).form)]
    assert sum(has(form.program, Inverse) for form in forms) >= 4
    assert sum(has(form.program, ForwardSubstitution) for form in forms) >= 1
    assert sum(has(case.program, ForwardSubstitution) for case in HELD) >= 20


@pytest.mark.parametrize("name", shipped_names("form"))
def test_shipped_programs(name: str) -> None:
    check(compiled(name))


@cache
def random_opened(number: int) -> CompiledMemory:
    """A random memory whose chunk form has an inverse, or for odd numbers a substitution."""
    random, kind = Random(number), ForwardSubstitution if number % 2 else Inverse
    while True:
        recipe = random_substitution(random) if number % 2 else random_inverse(random)
        if not is_accepted(recipe):
            continue
        memory = of_text(text(recipe))
        if memory.form is not None and has(memory.form.program, kind):
            return memory


def random_substitution(random: Random) -> SpecRecipe:
    while "substitution" not in (recipe := sample(random)).kind:
        pass
    return recipe


def random_inverse(random: Random) -> SpecRecipe:
    """One recipe in sixty has one.  So what decides it is chosen, and order, retention, sizes and the
    decay are drawn."""
    return replace(
        sample(random),
        architecture="matrix",
        bias="l2",
        schedule="exact",
        rule="gd",
        retention=random.choice(("none", "constant", "l2", "decay in place")),
        alpha=random.choice(("scalar", "key")),
        eta="scalar",
    )


def is_accepted(recipe: SpecRecipe) -> bool:
    """Whether a changed recipe is still one that can be written."""
    try:
        read(Source("random.mem", text(recipe)))
    except SpecErrors:
        return False
    return True


@pytest.mark.parametrize(
    "number",
    [n if n < RANDOM else pytest.param(n, marks=pytest.mark.thorough) for n in range(MANY)],
)
def test_random_memories(number: int) -> None:
    check(random_opened(number))


@pytest.mark.parametrize("name", ["GatedDeltaNet", "LogCoshMomentum"])
def test_passes_after_one_another(name: str) -> None:
    """In blocks before and after `valid` is dropped, and simplified before and after."""
    memory = compiled(name)
    assert memory.form is not None
    sizes = extents(memory.rule) | sizes_of(CHUNK)
    logs = [feed.name for feed in memory.rule.inputs if feed.log]
    for program in (memory.form.program, adjoint(memory.form.program)):
        for made in (
            simplify(lower_blocks(drop_valid(program), CHUNK)),
            drop_valid(lower_blocks(program, CHUNK)),
            lower_blocks(merge_sums(simplify(program)), CHUNK),
        ):
            assert opened(made, CHUNK)
            assert difference(program, made, sizes, logs) < 1e-11


def test_the_adjoint_of_an_opened_program() -> None:
    """Blocks are differentiated as any operation is: the gradients are those of the program."""
    for name in ("GatedDeltaNet", "LogCoshMomentum"):
        memory = compiled(name)
        assert memory.form is not None
        program = memory.form.program
        sizes = extents(memory.rule) | sizes_of(CHUNK)
        back = adjoint(lower_blocks(program, CHUNK))
        assert has(back, Split) and has(back, Join)
        logs = [feed.name for feed in memory.rule.inputs if feed.log]
        assert difference(adjoint(program), back, sizes, logs) < 1e-11


@pytest.mark.parametrize("tokens", [0, 8, 24, 63])
def test_other_lengths_are_refused(tokens: int) -> None:
    with pytest.raises(ValueError, match="multiple of 16"):
        lower_blocks(inverse(), tokens)


def test_other_axes_are_refused() -> None:
    node = SUBSTITUTIONS["substitute, forward"]
    inner = lower_blocks(of_node(node), 32)
    with pytest.raises(NotLowered, match="substitution over the axes i and j"):
        lower_blocks(inner, 32)
    with pytest.raises(NotLowered, match="inverse over the axes i and j"):
        lower_blocks(lower_blocks(inverse(), 32), 32)
