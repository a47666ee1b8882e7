"""The node classes of `ir`, and the normal form of pointwise maps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import sympy as sp

from miras_dsl.scalar.functions import OPERANDS

from .axes import Axes, Axis, I, Role, Triangle, ordered


class _Interned(type):
    """Makes ``Class(fields…)`` return the one object with these fields."""

    _table: ClassVar[WeakValueDictionary[tuple[Any, ...], Any]] = WeakValueDictionary()

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__call__(*args, **kwargs)
        key = (cls, *(getattr(made, f.name) for f in fields(made)))
        return _Interned._table.setdefault(key, made)


class _Cached:
    """Holds what `_once` has computed."""

    __slots__ = ("_axes",)


def _cached(compute: Callable[[Any], Axes]) -> property:
    """A property computed at its first use: operands are shared, so a formula that recomputed its
    axes from theirs would take exponential time."""

    def get(node: Any) -> Axes:
        try:
            return node._axes
        except AttributeError:
            object.__setattr__(node, "_axes", compute(node))
            return node._axes

    return property(get, doc=compute.__doc__)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Node(_Cached, metaclass=_Interned):
    """A tensor.  `axes` is computed from the operands and always in canonical order."""

    @_cached
    def axes(self) -> Axes:
        raise AssertionError("every node class computes its axes")

    @property
    def operands(self) -> tuple[Node, ...]:
        """The nodes that this one is computed from."""
        return ()

    def __repr__(self) -> str:
        """What it is and its shape; the operands are not shown, there may be thousands."""
        name = f" {self.name}" if isinstance(self, Input) else ""
        return f"<{type(self).__name__}{name} [{', '.join(map(str, self.axes))}]>"

    def __add__(self, other: Node | float) -> Node:
        return elementwise(OPERANDS[0] + OPERANDS[1], self, constant(other))

    def __sub__(self, other: Node | float) -> Node:
        return elementwise(OPERANDS[0] - OPERANDS[1], self, constant(other))

    def __mul__(self, other: Node | float) -> Node:
        return elementwise(OPERANDS[0] * OPERANDS[1], self, constant(other))

    def __neg__(self) -> Node:
        return elementwise(-OPERANDS[0], self)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Input(Node):
    """A tensor that comes from outside, by name."""

    name: str
    shape: Axes
    role: Role

    @property
    def per_token(self) -> bool:
        """Whether every token has its own: by its role, or because it has an axis of tokens."""
        return self.role.per_token or I in self.shape

    @_cached
    def axes(self) -> Axes:
        return ordered(self.shape)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Number(Node):
    """A scalar constant."""

    value: sp.Expr

    @_cached
    def axes(self) -> Axes:
        return ()


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class AxisSize(Node):
    """The size of an axis, as a number."""

    axis: Axis

    @_cached
    def axes(self) -> Axes:
        return ()


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Map(Node):
    """``formula`` in `SLOTS`, elementwise: slot n is operand n.  Built by `pointwise` only."""

    formula: sp.Expr
    args: tuple[Node, ...]

    @_cached
    def axes(self) -> Axes:
        return ordered(axis for arg in self.args for axis in arg.axes)

    @property
    def operands(self) -> tuple[Node, ...]:
        return self.args


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Contract(Node):
    """Sum over the axes ``over`` (each in both operands) of ``left * right``."""

    left: Node
    right: Node
    over: Axes

    @_cached
    def axes(self) -> Axes:
        return ordered(set(self.left.axes + self.right.axes) - set(self.over))

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.left, self.right)

    @property
    def is_matrix_product(self) -> bool:
        """Whether each operand has an axis that the other lacks.  Otherwise it is a sum of a
        pointwise product: a sum over rows, or a matrix times a vector."""
        left, right = set(self.left.axes), set(self.right.axes)
        return bool(left - right) and bool(right - left)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Reduce(Node):
    """Sum or max of ``x`` over axes.  The max has no derivative: it only shifts a softmax."""

    kind: str
    x: Node
    over: Axes

    @_cached
    def axes(self) -> Axes:
        return ordered(set(self.x.axes) - set(self.over))

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.x,)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Broadcast(Node):
    """``x`` repeated along further axes."""

    x: Node
    along: Axes

    @_cached
    def axes(self) -> Axes:
        return ordered(self.x.axes + self.along)

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.x,)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Rename(Node):
    """``x`` with other names for some axes, all at once (so two axes can swap)."""

    x: Node
    names: tuple[tuple[Axis, Axis], ...]

    @_cached
    def axes(self) -> Axes:
        return ordered(dict(self.names).get(axis, axis) for axis in self.x.axes)

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.x,)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Cumsum(Node):
    """Running sum along an axis, this row included; from the end if ``reverse``."""

    x: Node
    axis: Axis
    reverse: bool = False

    @_cached
    def axes(self) -> Axes:
        return self.x.axes

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.x,)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Shift(Node):
    """Row n is row n - ``by`` of ``x`` (``by`` is 1 or -1); the row without a source is 0."""

    x: Node
    axis: Axis
    by: int

    @_cached
    def axes(self) -> Axes:
        return self.x.axes

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.x,)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class TakeLast(Node):
    """The last row of ``x`` along an axis."""

    x: Node
    axis: Axis

    @_cached
    def axes(self) -> Axes:
        return ordered(set(self.x.axes) - {self.axis})

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.x,)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class PlaceLast(Node):
    """``x`` as the last row along a new axis, zero elsewhere: the adjoint of `Last`."""

    x: Node
    axis: Axis

    @_cached
    def axes(self) -> Axes:
        return ordered((*self.x.axes, self.axis))

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.x,)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Mask(Node):
    """``x`` on a triangle, else 0."""

    x: Node
    triangle: Triangle

    @_cached
    def axes(self) -> Axes:
        return ordered((*self.x.axes, self.triangle.row, self.triangle.col))

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.x,)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Decay(Node):
    """``e^(a_row - b_col)`` on a triangle, else 0.

    The exponent is masked before the exponential: above the triangle it may be huge.
    """

    a: Node
    b: Node
    triangle: Triangle

    @_cached
    def axes(self) -> Axes:
        return ordered((*self.a.axes, *self.b.axes))

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.a, self.b)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class GatedContract(Node):
    """``sum_d x[i, d] y[j, d] e^(a[i, d] - b[j, d])`` on the triangle, else 0; d is ``over``."""

    x: Node
    y: Node
    a: Node
    b: Node
    over: Axis
    triangle: Triangle

    @_cached
    def axes(self) -> Axes:
        return ordered((set(self.x.axes) | set(self.y.axes)) - {self.over})

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.x, self.y, self.a, self.b)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class GatedApply(Node):
    """``sum_j m[i, j] y[j, d] e^(a[i, d] - b[j, d])`` over the triangle.

    ``over`` is the token axis that is summed (``col`` as written above, or ``row`` for the mirror
    image ``sum_i m[i, j] y[i, d] e^(a[i, d] - b[j, d])``); d is ``channel``.
    """

    m: Node
    y: Node
    a: Node
    b: Node
    channel: Axis
    triangle: Triangle
    over: Axis

    @_cached
    def axes(self) -> Axes:
        return ordered((set(self.m.axes) | set(self.y.axes)) - {self.over})

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.m, self.y, self.a, self.b)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Inverse(Node):
    """``(1 + x)^-1`` for an ``x[row, col]`` that is zero on and above the diagonal."""

    x: Node
    row: Axis
    col: Axis

    @_cached
    def axes(self) -> Axes:
        return self.x.axes

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.x,)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class ForwardSubstitution(Node):
    """Rows that depend on the rows before them.

        forward   r_i = p_i + sum_{j<i} A[i, j] G_ij g_j     g_i = body(r_i, rows_i)
        reverse   r_i = p_i + sum_{j>i} A[j, i] G_ji g_j     (from the last row to the first)

    with ``G_ij = e^(a[i, c] - b[j, c])`` when ``gates = (a, b)`` are given, else 1.  ``A`` has axes
    (#i, #j) and zeros on and above the diagonal, ``p`` and the result have #i.  ``body`` is a formula
    over the hole ``r`` and the holes of ``rows`` (hole, node with #i); it may look across a row.
    """

    a: Node
    p: Node
    body: Node
    r: Input
    rows: tuple[tuple[Input, Node], ...]
    gates: tuple[Node, Node] | None = None
    reverse: bool = False

    @_cached
    def axes(self) -> Axes:
        return ordered((I, *self.body.axes))

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.a, self.p, *(row for _, row in self.rows), *(self.gates or ()))


def constant(value: Node | float | sp.Expr) -> Node:
    """A number as a node; a node as itself."""
    if isinstance(value, Node):
        return value
    if isinstance(value, sp.Expr):
        return Number(value)
    return Number(sp.Integer(value) if isinstance(value, int) else sp.Float(value))


ZERO, ONE = Number(sp.Integer(0)), Number(sp.Integer(1))


_HELD = tuple(sp.Symbol(f"_{n}", real=True) for n in range(len(OPERANDS)))
"""Stand-ins while operands are renumbered."""


def elementwise(formula: sp.Expr, *args: Node) -> Node:
    """``Map(formula, args)`` in normal form: numbers folded in, equal operands shared, unused ones
    dropped (spread along, if they alone carried an axis)."""
    wanted = ordered(axis for arg in args for axis in arg.axes)
    if _is_normal(formula, args):
        return broadcast(args[0] if formula == OPERANDS[0] else Map(formula, args), wanted)
    substitution: dict[sp.Symbol, sp.Expr] = {}
    kept: list[Node] = []
    for slot, arg in zip(OPERANDS, args, strict=False):
        if isinstance(arg, Number):
            substitution[slot] = arg.value
            continue
        # What is repeated along an axis is the same with and without it.
        arg = arg.x if isinstance(arg, Broadcast) else arg
        if arg not in kept:
            kept.append(arg)
        substitution[slot] = _HELD[kept.index(arg)]
    formula = formula.xreplace(substitution)
    free = formula.free_symbols
    used = [n for n in range(len(kept)) if _HELD[n] in free]
    formula = formula.xreplace({_HELD[n]: OPERANDS[at] for at, n in enumerate(used)})
    chosen = tuple(kept[n] for n in used)
    made: Node
    if not chosen:
        made = Number(formula)
    elif formula == OPERANDS[0]:
        made = chosen[0]
    else:
        made = Map(formula, chosen)
    return broadcast(made, wanted)


def _is_normal(formula: sp.Expr, args: tuple[Node, ...]) -> bool:
    """Whether a formula uses every operand, and each is there once and not a number or repeated."""
    if not args or any(isinstance(arg, Number | Broadcast) for arg in args):
        return False
    return len(set(args)) == len(args) and formula.free_symbols == set(OPERANDS[: len(args)])


def formula(expr: sp.Expr, nodes: Mapping[sp.Symbol, Node]) -> Node:
    """A sympy formula over some of the symbols of ``nodes``, on the nodes that it uses and no other."""
    used = [slot for slot in nodes if slot in expr.free_symbols]
    renamed = expr.xreplace(dict(zip(used, OPERANDS, strict=False)))
    return elementwise(renamed, *(nodes[slot] for slot in used))


def _is_zero(node: Node) -> bool:
    return isinstance(node, Number) and node.value == 0


def is_zero(node: Node) -> bool:
    """Whether a node is the number 0 (which, like every number, has the axes of anything)."""
    return _is_zero(node)


def broadcast(x: Node, along: Iterable[Axis]) -> Node:
    """``x`` repeated along those of the axes that it does not have; a number has every axis already."""
    missing = ordered(set(along) - set(x.axes))
    return Broadcast(x, missing) if missing and not isinstance(x, Number) else x
