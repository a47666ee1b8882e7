"""Normal form: equal nodes are shared, numbers are folded, and sums are simplified."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import sympy as sp

from miras_dsl import ir
from miras_dsl.ir import (
    KEY,
    VALUE,
    ZERO,
    Broadcast,
    Contract,
    I,
    J,
    Mask,
    Node,
    Shift,
    Triangle,
    contract,
    elementwise,
    is_zero,
    postorder,
    reduce_sum,
    rename,
)
from miras_dsl.ir.interpreter import Array, evaluate
from miras_dsl.scalar.functions import OPERANDS
from tests.meaning.node_cases import SIZES, A, P, T, draw, leaf, shape

X, Y, Z = OPERANDS[:3]


def test_the_same_formula_is_the_same_object() -> None:
    assert Contract(A, A, (KEY,)) is Contract(A, A, (KEY,))
    assert leaf("A", I, KEY) is A
    assert elementwise(X + Y, A, P) is elementwise(X + Y, A, P)
    assert elementwise(X + Y, A, A) is elementwise(2 * X, A)
    assert Mask(T, Triangle(I, J, True)) is not Mask(T, Triangle(I, J, False))


def test_normal_form() -> None:
    assert A * 1 is A
    assert A + 0 is A
    assert is_zero(A * 0)
    assert is_zero(contract(A, ZERO, (KEY,)))
    assert rename(rename(A, {I: J}), {J: I}) is A
    assert isinstance(contract(A, leaf("u", VALUE), ()), ir.Map)
    swapped = rename(rename(T, {I: J, J: I}), {I: J, J: I})
    assert swapped is T


ROW, U, C = leaf("row", I), leaf("u", VALUE), leaf("C", I, KEY)
SUMS = [
    (
        reduce_sum(Broadcast(ROW, (KEY, VALUE)), (KEY,)),
        lambda r, u, a, c: 4 * r[:, None] + 0 * u,
    ),
    (reduce_sum(ROW, (I, KEY)), lambda r, u, a, c: 4 * r.sum()),
    (reduce_sum(elementwise(3 * X * Y, A, ROW), (KEY,)), lambda r, u, a, c: 3 * r * a.sum(1)),
    (reduce_sum(elementwise(3 * X * Y, A, ROW), (I,)), lambda r, u, a, c: 3 * r @ a),
    (
        reduce_sum(elementwise(X * Y * Z, A, ROW, C), (KEY,)),
        lambda r, u, a, c: r * (a * c).sum(1),
    ),
    (reduce_sum(elementwise(X * Y, A, C), (I, KEY)), lambda r, u, a, c: (a * c).sum()),
    (reduce_sum(elementwise(X * Y, ROW, U), (I, VALUE)), lambda r, u, a, c: r.sum() * u.sum()),
    (reduce_sum(elementwise(X * Y, ROW, U), (I,)), lambda r, u, a, c: r.sum() * u),
    (contract(Broadcast(ROW, (KEY,)), A, (KEY,)), lambda r, u, a, c: r * a.sum(1)),
    (contract(A, Broadcast(ROW, (KEY,)), (KEY,)), lambda r, u, a, c: r * a.sum(1)),
    (
        contract(Broadcast(ROW, (KEY,)), Broadcast(U, (KEY,)), (KEY,)),
        lambda r, u, a, c: 4 * r[:, None] * u,
    ),
    (contract(ROW, A, (KEY,)), lambda r, u, a, c: r * a.sum(1)),
    (contract(A, ROW, (KEY,)), lambda r, u, a, c: r * a.sum(1)),
    (contract(A, U, (I, KEY)), lambda r, u, a, c: a.sum() * u),
    (contract(U, A, (I, VALUE)), lambda r, u, a, c: u.sum() * a.sum(0)),
    (contract(A, U, (VALUE, KEY)), lambda r, u, a, c: a.sum(1) * u.sum()),
    (contract(ROW, U, (KEY,)), lambda r, u, a, c: 4 * r[:, None] * u),
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
        x = elementwise(sp.tanh(X) * Y, x, Shift(x, I, 1))
    assert x.axes == A.axes
    assert len(postorder([x])) == 401
