"""Normal form: sharing, folding, and sums that take shortcuts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import sympy as sp

from miras_dsl import ir
from miras_dsl.ir import (
    ZERO,
    Contract,
    I,
    J,
    Mask,
    Node,
    Shift,
    Spread,
    contract,
    is_zero,
    pointwise,
    postorder,
    rename,
    total,
)
from miras_dsl.ir.interpreter import Array, evaluate
from miras_dsl.scalar.functions import SLOTS
from tests.meaning.node_cases import SIZES, A, P, T, draw, leaf, shape

X, Y, Z = SLOTS[:3]


def test_the_same_formula_is_the_same_object() -> None:
    assert Contract(A, A, ("key",)) is Contract(A, A, ("key",))
    assert leaf("A", I, "key") is A
    assert pointwise(X + Y, A, P) is pointwise(X + Y, A, P)
    assert pointwise(X + Y, A, A) is pointwise(2 * X, A)
    assert Mask(T, I, J, True) is not Mask(T, I, J, False)


def test_normal_form() -> None:
    assert A * 1 is A
    assert A + 0 is A
    assert is_zero(A * 0)
    assert is_zero(contract(A, ZERO, ("key",)))
    assert rename(rename(A, {I: J}), {J: I}) is A
    assert isinstance(contract(A, leaf("u", "value"), ()), ir.Map)
    swapped = rename(rename(T, {I: J, J: I}), {I: J, J: I})
    assert swapped is T


ROW, U, C = leaf("row", I), leaf("u", "value"), leaf("C", I, "key")
SUMS = [
    (total(Spread(ROW, ("key", "value")), ("key",)), lambda r, u, a, c: 4 * r[:, None] + 0 * u),
    (total(ROW, (I, "key")), lambda r, u, a, c: 4 * r.sum()),
    (total(pointwise(3 * X * Y, A, ROW), ("key",)), lambda r, u, a, c: 3 * r * a.sum(1)),
    (total(pointwise(3 * X * Y, A, ROW), (I,)), lambda r, u, a, c: 3 * r @ a),
    (total(pointwise(X * Y * Z, A, ROW, C), ("key",)), lambda r, u, a, c: r * (a * c).sum(1)),
    (total(pointwise(X * Y, A, C), (I, "key")), lambda r, u, a, c: (a * c).sum()),
    (total(pointwise(X * Y, ROW, U), (I, "value")), lambda r, u, a, c: r.sum() * u.sum()),
    (total(pointwise(X * Y, ROW, U), (I,)), lambda r, u, a, c: r.sum() * u),
    (contract(Spread(ROW, ("key",)), A, ("key",)), lambda r, u, a, c: r * a.sum(1)),
    (contract(A, Spread(ROW, ("key",)), ("key",)), lambda r, u, a, c: r * a.sum(1)),
    (
        contract(Spread(ROW, ("key",)), Spread(U, ("key",)), ("key",)),
        lambda r, u, a, c: 4 * r[:, None] * u,
    ),
    (contract(ROW, A, ("key",)), lambda r, u, a, c: r * a.sum(1)),
    (contract(A, ROW, ("key",)), lambda r, u, a, c: r * a.sum(1)),
    (contract(A, U, (I, "key")), lambda r, u, a, c: a.sum() * u),
    (contract(U, A, (I, "value")), lambda r, u, a, c: u.sum() * a.sum(0)),
    (contract(A, U, ("value", "key")), lambda r, u, a, c: a.sum(1) * u.sum()),
    (contract(ROW, U, ("key",)), lambda r, u, a, c: 4 * r[:, None] * u),
]


@pytest.mark.parametrize(("node", "wanted"), SUMS)
def test_sums_take_shortcuts_without_changing_the_value(
    node: Node, wanted: Callable[..., Array]
) -> None:
    """Sums of a spread, of a product, and over an axis that only one operand or none has."""
    values = draw([ROW, U, A, C], np.random.default_rng(0))
    (got,) = evaluate([node], values, SIZES)
    expected = wanted(*values.values())
    assert got.shape == shape(node) == np.shape(expected)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_a_deep_formula_stays_cheap() -> None:
    """Shared operands must not be visited once per path: 2^200 of them here."""
    x: Node = A
    for _ in range(200):
        x = pointwise(sp.tanh(X) * Y, x, Shift(x, I, 1))
    assert x.axes == A.axes
    assert len(postorder([x])) == 401
