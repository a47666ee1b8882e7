"""Each operation: what it means, its derivative against differences, sharing and batching."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import sympy as sp

from miras_dsl import ir
from miras_dsl.codegen.passes.autodiff import gradient, vjp
from miras_dsl.ir import (
    KEY,
    ONE,
    Broadcast,
    ForwardSubstitution,
    GatedApply,
    GatedContract,
    I,
    Input,
    Inverse,
    J,
    Join,
    Node,
    PlaceLast,
    Rename,
    Role,
    Shift,
    Split,
    TakeLast,
    contract,
    elementwise,
    inputs_of,
    is_zero,
    nodes,
    postorder,
    reduce_sum,
    rename,
    substitute,
)
from miras_dsl.ir.interpreter import Array, evaluate
from miras_dsl.scalar.functions import OPERANDS
from tests.meaning.node_cases import (
    BLOCK,
    GATES,
    LOWER,
    NODES,
    ROW,
    SCALES,
    SIZES,
    A,
    P,
    R,
    T,
    draw,
    leaf,
    shape,
    triangle,
)

X, Y = OPERANDS[:2]
ALL = list(NODES.items())
FLAT = {
    "substitute, no slope": ("T", "p"),
    "substitute, no slope, gated": ("T", "p", "ga", "gb"),
    "substitute, reads no row": ("T", "p"),
}
"""Inputs on which a result depends by steps only or not at all: no work may be spent on them."""


def test_every_operation_is_covered() -> None:
    classes = {x for x in vars(ir).values() if isinstance(x, type)}
    operations = {x for x in classes if issubclass(x, Node)} - {Node}
    assert len(operations) == 21
    found = {type(node) for root in NODES.values() for node in postorder([root])}
    assert found == operations - {ir.GatedSpan}
    adjoints = (
        vjp({r: Input("g", r.axes, Role.COTANGENT)}, inputs_of([r])) for r in NODES.values()
    )
    made = {type(n) for found in adjoints for n in postorder(found.values())}
    assert ir.GatedSpan in made, "only reverse mode makes it"


@pytest.mark.parametrize(("name", "node"), ALL, ids=list(NODES))
def test_gradient_against_differences(name: str, node: Node) -> None:
    rng = np.random.default_rng(len(name))
    leaves = inputs_of([node])
    values = draw(leaves, rng)
    cotangent = Input("cotangent", node.axes, Role.COTANGENT)
    weight = rng.standard_normal(shape(node))
    found = vjp({node: cotangent}, leaves)

    def loss(at: dict[Input, Array]) -> float:
        return float((evaluate([node], at, SIZES)[0] * weight).sum())

    for x in leaves:
        (got,) = evaluate([found[x]], {**values, cotangent: weight}, SIZES)
        assert set(found[x].axes) <= set(x.axes)
        wanted = np.empty(values[x].shape)
        for index in np.ndindex(*wanted.shape):
            h = np.zeros(wanted.shape)
            h[index] = 1e-5
            up, down = loss({**values, x: values[x] + h}), loss({**values, x: values[x] - h})
            wanted[index] = (up - down) / 2e-5
        np.testing.assert_allclose(np.broadcast_to(got, wanted.shape), wanted, rtol=1e-6, atol=1e-8)
        if x.name in FLAT.get(name, ()):
            assert is_zero(found[x])
        else:
            assert np.abs(wanted).max() > 1e-4, f"{x.name} does nothing in {name}"


@pytest.mark.parametrize(("name", "node"), ALL, ids=list(NODES))
def test_batch_axes_are_independent(name: str, node: Node) -> None:
    """Batch and head are never written: an array may have more axes in front."""
    leaves = inputs_of([node])
    many = draw(leaves, np.random.default_rng(0), 2, 3)
    (together,) = evaluate([node], many, SIZES)
    assert together.shape == (2, 3, *shape(node))
    for b in np.ndindex(2, 3):
        (one,) = evaluate([node], {x: v[b] for x, v in many.items()}, SIZES)
        np.testing.assert_allclose(together[b], one, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "node"), ALL, ids=list(NODES))
def test_rebuilding_changes_no_value(name: str, node: Node) -> None:
    leaves = inputs_of([node])
    twins = {x: Input(f"{x.name}_twin", x.shape, x.role) for x in leaves}
    (other,) = substitute([node], twins)
    assert other is not node
    assert other.axes == node.axes
    values = draw(leaves, np.random.default_rng(0))
    first, second = (
        evaluate([n], {**values, **{twins[x]: v for x, v in values.items()}}, SIZES)[0]
        for n in (node, other)
    )
    np.testing.assert_allclose(first, second, rtol=1e-13, atol=1e-13)
    assert substitute([node], {}) == [node]


def value(node: Node, **arrays: Array) -> Array:
    leaves = {x.name: x for x in inputs_of([node])}
    return evaluate([node], {leaves[n]: v for n, v in arrays.items()}, SIZES)[0]


@pytest.mark.parametrize("strict", [True, False])
def test_meaning_on_the_triangle(strict: bool) -> None:
    """Each entry written out; above the triangle a huge exponent must not reach the exponential."""
    rng = np.random.default_rng(0)
    n, d = SIZES[I], SIZES[KEY]
    x, y, m = rng.standard_normal((n, d)), rng.standard_normal((n, d)), rng.standard_normal((n, n))
    a = -np.cumsum(rng.uniform(0, 400, (n, d)), 0)
    b = a.copy()
    contracted, down, up = np.zeros((n, n)), np.zeros((n, d)), np.zeros((n, d))
    for i in range(n):
        for t in range(i if strict else i + 1):
            w = np.exp(a[i] - b[t])
            contracted[i, t] = (x[i] * y[t] * w).sum()
            down[i] += m[i, t] * y[t] * w
            up[t] += m[i, t] * x[i] * w
    word = "strict" if strict else "with diagonal"
    nodes = triangle(strict)
    with np.errstate(over="raise", invalid="raise"):
        got = value(nodes[f"gated contract {word}"], x=x, y=y, a=a, b=b)
        np.testing.assert_allclose(got, contracted, rtol=1e-12)
        got = value(nodes[f"gated contract {word}, transposed"], x=x, y=y, a=a, b=b)
        assert not np.allclose(got, contracted) or strict
        got = value(nodes[f"gated apply {word} over col"], m=m, y=y, a=a, b=b)
        np.testing.assert_allclose(got, down, rtol=1e-12)
        got = value(nodes[f"gated apply {word} over row"], m=m, x=x, a=a, b=b)
        np.testing.assert_allclose(got, up, rtol=1e-12)
        got = value(nodes[f"decay {word}"], a=a[:, 0], b=b[:, 0])
    lower = np.tril(np.ones((n, n)), -1 if strict else 0)
    wanted = lower * np.exp(np.minimum(a[:, None, 0] - b[None, :, 0], 0))
    np.testing.assert_allclose(got, wanted, rtol=1e-12)
    np.testing.assert_array_equal(value(nodes[f"mask {word}"], T=m), lower * m)


@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize("strict", [True, False])
def test_meaning_of_a_span(strict: bool, inclusive: bool) -> None:
    """Each row written out: the pairs of the triangle whose decay holds that of the row."""
    rng = np.random.default_rng(0)
    n, d = SIZES[I], SIZES[KEY]
    m, (x, y) = rng.standard_normal((n, n)), rng.standard_normal((2, n, d))
    a = -np.cumsum(rng.uniform(0, 40, (n, d)), 0)
    wanted = np.zeros((n, d))
    for i in range(n):
        for j in range(i if strict else i + 1):
            for s in range(j + 1, i + 1 if inclusive else i):
                wanted[s] += m[i, j] * x[i] * y[j] * np.exp(a[i] - a[j])
    node = ir.GatedSpan(
        leaf("m", I, J), leaf("x", I, KEY), leaf("y", J, KEY), leaf("a", I, KEY),
        leaf("b", J, KEY), KEY, ir.Triangle(I, J, strict), inclusive,
    )  # fmt: skip
    np.testing.assert_allclose(value(node, m=m, x=x, y=y, a=a, b=a), wanted, rtol=1e-12)


def test_meaning_of_moves() -> None:
    x = np.arange(6.0)
    row = leaf("row", I)
    np.testing.assert_array_equal(value(Shift(row, I, 1), row=x), [0, 0, 1, 2, 3, 4])
    np.testing.assert_array_equal(value(Shift(row, I, -1), row=x), [1, 2, 3, 4, 5, 0])
    np.testing.assert_array_equal(value(ir.Cumsum(row, I), row=x), [0, 1, 3, 6, 10, 15])
    np.testing.assert_array_equal(value(ir.Cumsum(row, I, True), row=x), [15, 15, 14, 12, 9, 5])
    assert value(TakeLast(row, I), row=x) == 5
    put = value(PlaceLast(leaf("scalar"), I), scalar=np.array(7.0))
    np.testing.assert_array_equal(put, [0, 0, 0, 0, 0, 7])
    t = np.arange(36.0).reshape(6, 6)
    np.testing.assert_array_equal(value(Rename(T, ((I, J), (J, I))), T=t), t.T)
    np.testing.assert_array_equal(value(Broadcast(row, (J,)), row=x), np.tile(x[:, None], 6))


def test_meaning_of_blocks() -> None:
    """Row 5 of 6 is row 1 of block 2; joining undoes it, and an axis before or after it stays."""
    x = np.arange(6.0)
    cut = Split(leaf("row", I), I, BLOCK, ROW, 2)
    np.testing.assert_array_equal(value(cut, row=x), [[0, 1], [2, 3], [4, 5]])
    t = np.arange(36.0).reshape(6, 6)
    cut = Split(T, I, BLOCK, ROW, 2)
    assert cut.axes == (J, BLOCK, ROW)
    np.testing.assert_array_equal(value(cut, T=t), t.T.reshape(6, 3, 2))
    np.testing.assert_array_equal(value(Join(cut, I, BLOCK, ROW, 2), T=t), t)


def test_meaning_of_the_inverse() -> None:
    t = np.random.default_rng(0).standard_normal((6, 6))
    wanted = np.linalg.inv(np.eye(6) + np.tril(t, -1))
    np.testing.assert_allclose(value(Inverse(LOWER, I, J), T=t), wanted, atol=1e-12)


def test_meaning_of_substitution() -> None:
    rng = np.random.default_rng(0)
    t, p, rate = rng.standard_normal((6, 6)), rng.standard_normal((6, 3)), rng.standard_normal(6)
    ga, gb = rng.standard_normal((2, 6, 3))
    plain, gated = np.zeros((6, 3)), np.zeros((6, 3))
    for i in range(6):
        r, s = p[i].copy(), p[i].copy()
        for k in range(i):
            r += t[i, k] * plain[k]
            s += t[i, k] * np.exp(ga[i] - gb[k]) * gated[k]
        plain[i], gated[i] = rate[i] * np.tanh(r), rate[i] * np.tanh(s)
    got = value(NODES["substitute"], T=t, p=p, rates=rate)
    np.testing.assert_allclose(got, plain, rtol=1e-12)
    got = value(NODES["substitute, gated"], T=t, p=p, rates=rate, ga=ga, gb=gb)
    np.testing.assert_allclose(got, gated, rtol=1e-12)


def test_the_linear_substitution_is_the_inverse() -> None:
    values = draw([T, P], np.random.default_rng(0))
    solved = contract(Inverse(-LOWER, I, J), rename(P, {I: J}), (J,))
    first, second = evaluate([NODES["substitute, identity"], solved], values, SIZES)
    np.testing.assert_allclose(first, second, rtol=1e-12)


@pytest.mark.parametrize("gates", [None, GATES])
def test_a_reverse_substitution_is_the_mirror_image(gates: tuple[Node, Node] | None) -> None:
    """From the last row with A transposed = from the first row with all rows reversed."""
    body = elementwise(sp.tanh(X) * Y, R, SCALES[0])
    forward = ForwardSubstitution(LOWER, P, body, R, (SCALES,), gates)
    backward = ForwardSubstitution(LOWER, P, body, R, (SCALES,), gates, True)
    values = draw(inputs_of([forward]), np.random.default_rng(0))
    (got,) = evaluate([backward], values, SIZES)
    mirror = {x: v[::-1] for x, v in values.items()}
    mirror[T] = values[T][::-1, ::-1].T
    if gates is not None:
        mirror[GATES[0]], mirror[GATES[1]] = -mirror[GATES[1]], -mirror[GATES[0]]
    (wanted,) = evaluate([forward], mirror, SIZES)
    np.testing.assert_allclose(got, wanted[::-1], rtol=1e-12)


def test_gradient_of_a_sum_is_one_everywhere() -> None:
    slope = gradient(reduce_sum(A, (I, KEY)), A)
    assert evaluate([slope], {}, SIZES)[0] == 1
    assert is_zero(gradient(reduce_sum(A, (I, KEY)), P))


def test_gated_operations_are_adjoint_to_each_other() -> None:
    g = Input("g", (I, J), Role.COTANGENT)
    node = NODES["gated contract strict"]
    x, y = (leaf("x", I, KEY), leaf("y", J, KEY))
    found = vjp({node: g}, [x, y])
    assert all(isinstance(found[each], GatedApply) for each in (x, y))
    node = NODES["gated apply strict over col"]
    back = vjp({node: Input("g", node.axes, Role.COTANGENT)}, [leaf("m", I, J)])
    assert isinstance(back[leaf("m", I, J)], GatedContract)


def test_a_reverse_substitution_is_not_differentiated() -> None:
    node = ForwardSubstitution(LOWER, P, R, R, (), None, True)
    with pytest.raises(AssertionError, match="not read by it"):
        vjp({node: ONE}, [P])


def test_the_union_of_nodes_holds_every_node_class() -> None:
    """`assert_never` at the end of a match can only find a forgotten class if the union has it."""
    classes = {kind.__name__ for kind in nodes.TensorNode.__subclasses__()}
    assert classes == {kind.__name__ for kind in get_args(Node)}
