"""An inverse opened into blocks is the inverse: alone, in every shipped program, in random ones."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from random import Random

import numpy as np
import pytest

from miras_dsl.check import read
from miras_dsl.codegen.passes import lower_blocks as module
from miras_dsl.codegen.passes.autodiff import adjoint
from miras_dsl.codegen.passes.lower_blocks import NotLowered, block_sizes, lower_blocks
from miras_dsl.codegen.pipeline import CompiledMemory
from miras_dsl.diagnostics import SpecErrors
from miras_dsl.ir import (
    Axis,
    ForwardSubstitution,
    I,
    Input,
    Inverse,
    J,
    L,
    M,
    Mask,
    Program,
    Role,
    Triangle,
    contract,
    postorder,
)
from miras_dsl.ir.interpreter import Array, evaluate
from miras_dsl.source import Source
from tests.judge.random_specs.draw import SpecRecipe, sample, text
from tests.meaning.derived import compiled, extents, of_text, shipped, shipped_names
from tests.meaning.test_passes import MANY, RANDOM, difference

CHUNK = 48
"""One joining in threes; `test_an_inverse_alone` has the other chunks."""


def inverse(row: Axis = I, col: Axis = J) -> Program:
    a = Input("a", (I, J), Role.CONSTANT)
    return Program((a,), (("y", Inverse(Mask(a, Triangle(row, col, True)), row, col)),), ())


def run(program: Program, a: Array) -> Array:
    sizes = {**dict.fromkeys((I, J, L, M), len(a)), **block_sizes(len(a))}
    return evaluate([n for _, n in program], {program.inputs[0]: a}, sizes)[0]


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
    """Whether every inverse is of 16 rows."""
    sizes = {**dict.fromkeys((I, J, L, M), tokens), **block_sizes(tokens)}
    nodes = postorder(n for _, n in program)
    return all(sizes[n.row] == 16 for n in nodes if isinstance(n, Inverse))


def test_a_forgotten_product_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group joined as if no block read another."""
    monkeypatch.setattr(module, "contract", lambda x, y, over: contract(x, y, over) * 0)
    with pytest.raises(AssertionError, match="Not equal"):
        test_an_inverse_alone(64, I, J)


def has(program: Program, kind: type) -> bool:
    return any(isinstance(n, kind) for n in postorder(n for _, n in program))


def check(memory: CompiledMemory) -> None:
    assert memory.form is not None
    sizes: dict[Axis, int] = {**extents(memory.rule), **block_sizes(CHUNK)}
    sizes |= dict.fromkeys((I, J, L, M), CHUNK)
    logs = [feed.name for feed in memory.rule.inputs if feed.log]
    for program in (memory.form.program, adjoint(memory.form.program)):
        if has(program, ForwardSubstitution):
            with pytest.raises(NotLowered, match="ForwardSubstitution"):
                lower_blocks(program, CHUNK)
            continue
        lowered = lower_blocks(program, CHUNK)
        assert opened(lowered, CHUNK)
        assert difference(program, lowered, sizes, logs) < 1e-9


def test_many_shipped_programs_have_an_inverse() -> None:
    """So that what the next test compares is not only programs that stay as they are."""
    forms = [form for name in shipped() if (form := compiled(name).form)]
    assert sum(has(form.program, Inverse) for form in forms) >= 4


@pytest.mark.parametrize("name", shipped_names("form"))
def test_shipped_programs(name: str) -> None:
    check(compiled(name))


@cache
def random_inverse(number: int) -> CompiledMemory:
    """A random memory whose chunk form has an inverse.  One in sixty has; so what decides it is
    chosen, and order, retention, sizes and the decay are drawn."""
    random = Random(number)
    while True:
        drawn = sample(random)
        recipe = replace(
            drawn,
            architecture="matrix",
            bias="l2",
            schedule="exact",
            rule="gd",
            retention=random.choice(("none", "constant", "l2", "decay in place")),
            alpha=random.choice(("scalar", "key")),
            eta="scalar",
        )
        if not is_accepted(recipe):
            continue
        memory = of_text(text(recipe))
        if memory.form is not None and has(memory.form.program, Inverse):
            return memory


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
    check(random_inverse(number))


@pytest.mark.parametrize("tokens", [0, 8, 24, 63])
def test_other_lengths_are_refused(tokens: int) -> None:
    with pytest.raises(ValueError, match="multiple of 16"):
        lower_blocks(inverse(), tokens)
