"""Rounding: bit for bit torch's casts, and the error that a plan brings to a program."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from miras_dsl.ir import KEY, I, Input, Role, contract
from miras_dsl.ir.interpreter import EXACT, Array, Rounding, evaluate, rounded
from tests.meaning import forms
from tests.meaning.cases import Case, values_of
from tests.meaning.run_program import run_program
from tests.meaning.token_loops import delta

TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def numbers() -> Array:
    """Random floats of every size, ties, halves of ties, subnormals, the ends, and not numbers."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 20000, dtype=np.uint32)
    ties = np.arange(0, 2**17, dtype=np.uint32) << np.uint32(15)
    near = np.concatenate([ties + np.uint32(1), ties - np.uint32(1)])
    small = rng.standard_normal(5000).astype(np.float32)
    ends = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 65504, 65519.9, 65520, 3.4e38], np.float32)
    pieces = (bits.view(np.float32), ties.view(np.float32), near.view(np.float32), small, ends)
    return np.concatenate(pieces)


@pytest.mark.parametrize("kind", TYPES)
def test_rounding_is_torchs_cast(kind: str) -> None:
    with np.errstate(all="ignore"):
        x = numbers().astype(np.float64)
        found = rounded(x, kind)
    wanted = torch.tensor(x).float().to(TYPES[kind]).double().numpy()
    np.testing.assert_array_equal(found, wanted)
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(np.signbit(found[finite]), np.signbit(wanted[finite]))
    assert found.dtype == np.float64


@pytest.mark.parametrize("kind", ["float64", *TYPES])
@pytest.mark.parametrize("shape", [(), (1,), (3, 2), (0, 4)])
def test_rounding_keeps_the_shape(kind: str, shape: tuple[int, ...]) -> None:
    assert rounded(np.full(shape, 1.1), kind).shape == shape


def test_rounding_takes_views() -> None:
    x = np.random.default_rng(0).standard_normal((6, 8))
    np.testing.assert_array_equal(rounded(x.T[::2], "bfloat16"), rounded(x, "bfloat16").T[::2])


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(ValueError, match="float8"):
        rounded(np.zeros(1), "float8")


def test_only_operands_of_products_are_rounded() -> None:
    a, b = Input("a", (I, KEY), Role.TOKEN), Input("b", (I, KEY), Role.TOKEN)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 4, 5))
    found, summed = evaluate(
        [contract(a, b, (KEY,)), a + b], {a: x, b: y}, {}, Rounding("bfloat16", "float64")
    )
    low = [rounded(z, "bfloat16") for z in (x, y)]
    np.testing.assert_allclose(found, (low[0] * low[1]).sum(1), rtol=1e-12)
    np.testing.assert_array_equal(summed, x + y)


def keys(kind: str, values: dict[str, Array]) -> dict[str, Array]:
    """Keys as drawn, or with cosine 0.95 to one direction."""
    if kind == "random":
        return values
    k = values["k"]
    common = np.zeros(k.shape[1])
    common[0] = 1.0
    k = k - np.outer(k @ common, common)
    k = 0.95 * common + np.sqrt(1 - 0.95**2) * k / np.linalg.norm(k, axis=1, keepdims=True)
    return values | {"k": k}


@pytest.mark.parametrize("kind", ["random", "correlated"])
@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize(
    ("plan", "low", "high"),
    [
        (Rounding("bfloat16", "float32"), 1e-4, 2e-2),
        (Rounding("float16", "float32"), 1e-5, 3e-3),
        (Rounding("float32", "float32"), 1e-9, 2e-6),
    ],
    ids=lambda x: x.operand if isinstance(x, Rounding) else "",
)
def test_error_of_the_delta_rule(
    kind: str, split: bool, plan: Rounding, low: float, high: float
) -> None:
    case = Case("delta", forms.delta(True, split), delta(True), 96, 32, (16, 1, 24))
    values = keys(kind, values_of(case))
    exact, found = (run_program(case.program, values, 32, r).results for r in (EXACT, plan))
    for name, x in exact.items():
        error = np.sqrt(np.mean((found[name] - x) ** 2) / np.mean(x**2))
        assert low < error < high, (name, error)
