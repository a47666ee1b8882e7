"""The interpreter: the value of a node in numpy and float64, on request with rounding.

The last axes of an array are those of its node, in the node's order; any axes before them are batch
axes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import assert_never

import numpy as np

from miras_dsl.scalar.functions import OPERANDS
from miras_dsl.scalar.numpy_values import eval_scalar

from . import (
    Axes,
    Axis,
    AxisSize,
    Broadcast,
    Contract,
    Cumsum,
    Decay,
    ForwardSubstitution,
    GatedApply,
    GatedContract,
    GatedSpan,
    Input,
    Inverse,
    Join,
    Map,
    Mask,
    Node,
    Number,
    PlaceLast,
    Reduce,
    Rename,
    Shift,
    Split,
    TakeLast,
    Triangle,
    ordered,
    postorder,
)

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Rounding:
    """To which floating-point types the interpreter rounds.

    operand  type of the operands of products: "float64" (exact), "float32", "bfloat16" or "float16"
    result   type of everything else: accumulations, states, gates, inverses ("float64" or "float32")
    """

    operand: str = "float64"
    result: str = "float64"


EXACT = Rounding()


def rounded(x: Array, kind: str) -> Array:
    """``x`` rounded to a type (to nearest, ties to even), as float64."""
    match kind:
        case "float64":
            return x
        case "float32":
            return x.astype(np.float32).astype(np.float64)
        case "float16":
            return x.astype(np.float16).astype(np.float64)
        case "bfloat16":
            bits = np.asarray(x, np.float32).view(np.uint32)
            odd = (bits >> 16) & 1
            bits = (bits + 0x7FFF + odd) & np.uint32(0xFFFF0000)
            return np.where(np.isfinite(x), bits.view(np.float32), x).astype(np.float64)
        case _:
            raise ValueError(f"no rounding to {kind!r}; float64, float32, float16 or bfloat16")


def align(x: Array, have: Axes, want: Axes) -> Array:
    """``x`` with axes of size 1 where ``want`` has an axis that ``have`` lacks."""
    batch = x.ndim - len(have)
    shape = list(x.shape[:batch])
    at = batch
    for axis in want:
        if axis in have:
            shape.append(x.shape[at])
            at += 1
        else:
            shape.append(1)
    return x.reshape(shape)


def evaluate(
    roots: Iterable[Node],
    values: Mapping[Input, Array],
    sizes: Mapping[Axis, int],
    rounding: Rounding = EXACT,
) -> list[Array]:
    """The values of ``roots``, each of shape [*batch, *axes of the root].

    values  of the inputs, [*batch, *axes]; batch shapes broadcast
    sizes   of the axes

    Raises KeyError when an input has no value or an axis no size.
    """
    roots = list(roots)
    done: dict[Node, Array] = {}
    for node in postorder(roots):
        done[node] = apply(node, done, values, sizes, rounding)
    return [done[root] for root in roots]


def apply(
    node: Node,
    done: Mapping[Node, Array],
    values: Mapping[Input, Array],
    sizes: Mapping[Axis, int],
    rounding: Rounding = EXACT,
) -> Array:
    """The value of one node; ``done`` holds those of its operands."""
    return rounded(_one(node, done, values, sizes, rounding), rounding.result)


def _reordered(x: Array, have: Axes, want: Axes) -> Array:
    """``x`` with its last axes, which are ``have``, in the order of ``want``."""
    batch = x.ndim - len(have)
    return x.transpose(*range(batch), *(batch + have.index(axis) for axis in want))


def _letters(axes: Iterable[Axis], table: dict[Axis, str]) -> str:
    return "".join(table.setdefault(axis, chr(ord("a") + len(table))) for axis in axes)


def _product(left: Node, right: Node, axes: Axes, a: Array, b: Array) -> Array:
    table: dict[Axis, str] = {}
    spec = f"...{_letters(left.axes, table)},...{_letters(right.axes, table)}->...{_letters(axes, table)}"
    return np.einsum(spec, a, b, optimize=True)


def _triangle(where: Triangle, axes: Axes, size: int) -> Array:
    row, col = where.row, where.col
    lower = np.tril(np.ones((size, size), bool), -1 if where.strict else 0)
    if axes.index(row) > axes.index(col):
        lower = lower.T
    return align(lower, tuple(axis for axis in axes if axis in (row, col)), axes)


def _weights(a: Node, b: Node, x: Array, y: Array, where: Triangle) -> tuple[Array, Axes]:
    """``e^(a - b)`` on the triangle, 0 outside it, and its axes; ``x`` and ``y`` are the arrays of a, b."""
    axes = ordered((*a.axes, *b.axes))
    exponent = align(x, a.axes, axes) - align(y, b.axes, axes)
    size = x.shape[x.ndim - len(a.axes) + a.axes.index(where.row)]
    keep = _triangle(where, axes, size)
    return np.where(keep, np.exp(np.where(keep, exponent, 0.0)), 0.0), axes


def _one(
    node: Node,
    done: Mapping[Node, Array],
    values: Mapping[Input, Array],
    sizes: Mapping[Axis, int],
    rounding: Rounding,
) -> Array:
    def operand(x: Node) -> Array:
        return rounded(done[x], rounding.operand)

    match node:
        case Input():
            return np.asarray(values[node], np.float64)
        case Number(value):
            return eval_scalar(value, {}, {})
        case AxisSize(axis):
            return np.asarray(float(sizes[axis]))
        case Map(formula, args):
            axes = node.axes
            env = {s: align(done[x], x.axes, axes) for s, x in zip(OPERANDS, args, strict=False)}
            return eval_scalar(formula, env, {})
        case Contract(left, right):
            return _product(left, right, node.axes, operand(left), operand(right))
        case Reduce(kind, x, over):
            first = done[x].ndim - len(x.axes)
            places = tuple(first + x.axes.index(axis) for axis in over)
            return done[x].sum(places) if kind == "sum" else done[x].max(places)
        case Broadcast(x):
            out = align(done[x], x.axes, node.axes)
            batch = out.shape[: out.ndim - len(node.axes)]
            return np.broadcast_to(out, batch + tuple(sizes[axis] for axis in node.axes))
        case Rename(x, names):
            new = tuple(dict(names).get(axis, axis) for axis in x.axes)
            return _reordered(done[x], new, node.axes)
        case Cumsum(x, axis, reverse):
            at = done[x].ndim - len(x.axes) + x.axes.index(axis)
            if reverse:
                return np.flip(np.cumsum(np.flip(done[x], at), at), at)
            return np.cumsum(done[x], at)
        case Shift(x, axis, by):
            at = done[x].ndim - len(x.axes) + x.axes.index(axis)
            moved = np.roll(done[x], by, at)
            index: list[object] = [slice(None)] * moved.ndim
            index[at] = slice(0, by) if by > 0 else slice(by, None)
            moved[tuple(index)] = 0.0
            return moved
        case TakeLast(x, axis):
            return np.take(done[x], -1, done[x].ndim - len(x.axes) + x.axes.index(axis))
        case PlaceLast(x, axis):
            out = align(done[x], x.axes, node.axes)
            at = out.ndim - len(node.axes) + node.axes.index(axis)
            shape = list(out.shape)
            shape[at] = sizes[axis]
            result = np.zeros(shape)
            index = [slice(None)] * result.ndim
            index[at] = slice(-1, None)
            result[tuple(index)] = out
            return result
        case Split(x, axis, block, row, size):
            at = x.axes.index(axis)
            first = done[x].ndim - len(x.axes) + at
            made = done[x].reshape(*done[x].shape[:first], -1, size, *done[x].shape[first + 1 :])
            wide = (*x.axes[:at], block, row, *x.axes[at + 1 :])
            return _reordered(made, wide, node.axes)
        case Join(x, axis, block, row, _):
            at = node.axes.index(axis)
            wide = (*node.axes[:at], block, row, *node.axes[at + 1 :])
            made = _reordered(done[x], x.axes, wide)
            first = made.ndim - len(wide) + at
            return made.reshape(*made.shape[:first], -1, *made.shape[first + 2 :])
        case Mask(x, triangle):
            keep = _triangle(triangle, node.axes, sizes[triangle.row])
            return np.where(keep, align(done[x], x.axes, node.axes), 0.0)
        case Decay(a, b, triangle):
            return _weights(a, b, done[a], done[b], triangle)[0]
        case GatedContract(x, y, a, b, over, triangle):
            weight, axes = _weights(a, b, done[a], done[b], triangle)
            full = ordered((*axes, *node.axes, over))
            terms = align(operand(x), x.axes, full) * align(operand(y), y.axes, full)
            return (terms * align(weight, axes, full)).sum(full.index(over) - len(full))
        case GatedApply(m, y, a, b, _, triangle, over):
            weight, axes = _weights(a, b, done[a], done[b], triangle)
            full = ordered((*axes, *m.axes, *y.axes))
            terms = align(operand(m), m.axes, full) * align(operand(y), y.axes, full)
            return (terms * align(weight, axes, full)).sum(full.index(over) - len(full))
        case GatedSpan(m, x, y, a, b, _, triangle, inclusive):
            weight, axes = _weights(a, b, done[a], done[b], triangle)
            full = ordered((*axes, *m.axes))
            terms = align(operand(m), m.axes, full) * align(operand(x), x.axes, full)
            pairs = terms * align(operand(y), y.axes, full) * align(weight, axes, full)
            row, col = (full.index(each) - len(full) for each in (triangle.row, triangle.col))
            pairs = np.moveaxis(pairs, (row, col), (-2, -1))  # [.., i, j]
            begun = np.zeros_like(pairs)  # [.., i, s]: pairs of i that begin before s
            begun[..., 1:] = np.cumsum(pairs, -1)[..., :-1]
            spanning = np.tril(begun, 0 if inclusive else -1).sum(-2)
            return np.moveaxis(spanning, -1, node.axes.index(triangle.row) - len(node.axes))
        case Inverse(x, row, col):
            last = (*(axis for axis in x.axes if axis not in (row, col)), row, col)
            a = np.tril(_reordered(done[x], x.axes, last), -1)
            return _reordered(np.linalg.inv(np.eye(a.shape[-1]) + a), last, x.axes)
        case ForwardSubstitution():
            return _substitute(node, done, sizes)
        case _:
            assert_never(node)


def _substitute(
    node: ForwardSubstitution, done: Mapping[Node, Array], sizes: Mapping[Axis, int]
) -> Array:
    p, a = done[node.p], done[node.a]
    width = len(node.p.axes) - 1
    size = p.shape[p.ndim - len(node.p.axes)]
    batch = np.broadcast_shapes(a.shape[:-2], p.shape[: p.ndim - width - 1])
    result: list[Array | None] = [None] * size
    for i in reversed(range(size)) if node.reverse else range(size):
        r = np.broadcast_to(_row(p, width, i), batch + p.shape[p.ndim - width :]).copy()
        for j in range(i + 1, size) if node.reverse else range(i):
            low, high = (i, j) if node.reverse else (j, i)
            factor = a[..., high, low].reshape(a.shape[:-2] + (1,) * width)
            if node.gates is not None:
                first, second = (done[gate] for gate in node.gates)
                gap = _row(first, 1, high) - _row(second, 1, low)
                factor = factor * np.exp(gap)
            r = r + factor * result[j]
        env: dict[Input, Array] = {node.r: r}
        for hole, row in node.rows:
            env[hole] = _row(done[row], len(row.axes) - 1, i)
        (g,) = evaluate([node.body], env, sizes)
        result[i] = np.broadcast_to(g, batch + g.shape[g.ndim - len(node.body.axes) :])
    stacked = np.stack([x for x in result if x is not None], axis=len(batch))
    return stacked


def _row(x: Array, width: int, i: int) -> Array:
    return np.take(x, i, x.ndim - width - 1)
