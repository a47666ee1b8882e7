"""The node classes of `ir`, their union `Node`, and the normal form of elementwise maps.

To add an operation: a class here and its name in `Node`.  pyright then reports every `match` that does
not know it (the interpreter, `with_operands`, the adjoint …), because they end in `assert_never`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import sympy as sp

from miras_dsl.scalar.functions import OPERANDS

from .axes import Axes, Axis, I, J, Role, Triangle, ordered
from .interning import Cached, Interned, cached


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class TensorNode(Cached, metaclass=Interned):
    """What every node has.  Annotations say `Node`, the union of the classes below."""

    @cached
    def axes(self) -> Axes:
        """The axes of the result, in the order of `ordered`: computed from the operands."""
        raise AssertionError("every node class computes its axes")

    @property
    def operands(self) -> tuple[Node, ...]:
        """The nodes that this one is computed from."""
        return ()

    def __repr__(self) -> str:
        """The class, the name of an input and the axes; not the operands, which may be thousands."""
        name = f" {self.name}" if isinstance(self, Input) else ""
        return f"<{type(self).__name__}{name} [{', '.join(map(str, self.axes))}]>"

    def __add__(self, other: Node | float) -> Node:
        return elementwise(OPERANDS[0] + OPERANDS[1], cast("Node", self), constant(other))

    def __sub__(self, other: Node | float) -> Node:
        return elementwise(OPERANDS[0] - OPERANDS[1], cast("Node", self), constant(other))

    def __mul__(self, other: Node | float) -> Node:
        return elementwise(OPERANDS[0] * OPERANDS[1], cast("Node", self), constant(other))

    def __neg__(self) -> Node:
        return elementwise(-OPERANDS[0], cast("Node", self))


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Input(TensorNode):
    """A tensor that a program is given, with its name, axes and role."""

    name: str
    shape: Axes
    role: Role

    @property
    def per_token(self) -> bool:
        """Whether there is one value per token: by its role, or because it has the axis `I`."""
        return self.role.per_token or I in self.shape

    @cached
    def axes(self) -> Axes:
        return ordered(self.shape)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Number(TensorNode):
    """A scalar constant."""

    value: sp.Expr

    @cached
    def axes(self) -> Axes:
        return ()


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class AxisSize(TensorNode):
    """The size of an axis, as a number."""

    axis: Axis

    @cached
    def axes(self) -> Axes:
        return ()


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Map(TensorNode):
    """``formula`` over `OPERANDS`, elementwise: symbol n is operand n.  Built by `elementwise` only."""

    formula: sp.Expr
    args: tuple[Node, ...]

    @cached
    def axes(self) -> Axes:
        return ordered(axis for arg in self.args for axis in arg.axes)

    @property
    def operands(self) -> tuple[Node, ...]:
        return self.args


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Contract(TensorNode):
    """Sum over the axes ``over`` (each in both operands) of ``left * right``."""

    left: Node
    right: Node
    over: Axes

    @cached
    def axes(self) -> Axes:
        return ordered(set(self.left.axes + self.right.axes) - set(self.over))

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.left, self.right)

    @property
    def is_matrix_product(self) -> bool:
        """Whether each operand has an axis that the other lacks.  Otherwise it is the sum of an
        elementwise product: a dot product of rows, or a matrix times a vector."""
        left, right = set(self.left.axes), set(self.right.axes)
        return bool(left - right) and bool(right - left)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Reduce(TensorNode):
    """Sum or max of ``x`` over axes.  The max has no derivative: it only shifts a softmax."""

    kind: str
    x: Node
    over: Axes

    @cached
    def axes(self) -> Axes:
        return ordered(set(self.x.axes) - set(self.over))

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.x,)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Broadcast(TensorNode):
    """``x`` repeated along further axes."""

    x: Node
    along: Axes

    @cached
    def axes(self) -> Axes:
        return ordered(self.x.axes + self.along)

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.x,)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Rename(TensorNode):
    """``x`` with other names for some axes, all at once (so two axes can swap)."""

    x: Node
    names: tuple[tuple[Axis, Axis], ...]

    @cached
    def axes(self) -> Axes:
        return ordered(dict(self.names).get(axis, axis) for axis in self.x.axes)

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.x,)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Cumsum(TensorNode):
    """Running sum along an axis, this row included; from the end if ``reverse``."""

    x: Node
    axis: Axis
    reverse: bool = False

    @cached
    def axes(self) -> Axes:
        return self.x.axes

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.x,)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Shift(TensorNode):
    """Row n is row n - ``by`` of ``x`` (``by`` is 1 or -1); the row without a source is 0."""

    x: Node
    axis: Axis
    by: int

    @cached
    def axes(self) -> Axes:
        return self.x.axes

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.x,)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class TakeLast(TensorNode):
    """The last row of ``x`` along an axis."""

    x: Node
    axis: Axis

    @cached
    def axes(self) -> Axes:
        return ordered(set(self.x.axes) - {self.axis})

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.x,)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class PlaceLast(TensorNode):
    """``x`` as the last row along a new axis, zero elsewhere: the adjoint of `TakeLast`."""

    x: Node
    axis: Axis

    @cached
    def axes(self) -> Axes:
        return ordered((*self.x.axes, self.axis))

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.x,)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Split(TensorNode):
    """``x`` with one axis as two: row ``n`` of ``axis`` is row ``n % size`` of block ``n // size``.
    The length of ``axis`` is a multiple of ``size``."""

    x: Node
    axis: Axis
    block: Axis
    row: Axis
    size: int

    @cached
    def axes(self) -> Axes:
        return ordered((set(self.x.axes) - {self.axis}) | {self.block, self.row})

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.x,)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Join(TensorNode):
    """``x`` with two axes as one, block after block: undoes a `Split` with the same fields."""

    x: Node
    axis: Axis
    block: Axis
    row: Axis
    size: int

    @cached
    def axes(self) -> Axes:
        return ordered((set(self.x.axes) - {self.block, self.row}) | {self.axis})

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.x,)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Mask(TensorNode):
    """``x`` on a triangle, 0 outside it."""

    x: Node
    triangle: Triangle

    @cached
    def axes(self) -> Axes:
        return ordered((*self.x.axes, self.triangle.row, self.triangle.col))

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.x,)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Decay(TensorNode):
    """``e^(a_row - b_col)`` on a triangle, 0 outside it.

    The exponent is masked before the exponential is taken: outside the triangle it may be so large
    that the exponential is infinite, and infinity times 0 would make the gradient NaN.
    """

    a: Node
    b: Node
    triangle: Triangle

    @cached
    def axes(self) -> Axes:
        return ordered((*self.a.axes, *self.b.axes))

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.a, self.b)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class GatedContract(TensorNode):
    """``sum_d x[i, d] y[j, d] e^(a[i, d] - b[j, d])`` on the triangle, 0 outside it; d is ``over``."""

    x: Node
    y: Node
    a: Node
    b: Node
    over: Axis
    triangle: Triangle

    @cached
    def axes(self) -> Axes:
        return ordered((set(self.x.axes) | set(self.y.axes)) - {self.over})

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.x, self.y, self.a, self.b)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class GatedApply(TensorNode):
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

    @cached
    def axes(self) -> Axes:
        return ordered((set(self.m.axes) | set(self.y.axes)) - {self.over})

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.m, self.y, self.a, self.b)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class GatedSpan(TensorNode):
    """Row s is the sum of ``m[i, j] x[i, d] y[j, d] e^(a[i, d] - b[j, d])`` over the pairs of the
    triangle whose decay holds that of token s: ``i >= s > j``, or ``i > s > j`` unless ``inclusive``.

    The gradient of the logarithm of a decay per channel.  Every term has the decay of token s as a
    factor, so the sum is as small as that decay; a difference of sums over all pairs would not be.
    """

    m: Node
    x: Node
    y: Node
    a: Node
    b: Node
    channel: Axis
    triangle: Triangle
    inclusive: bool

    @cached
    def axes(self) -> Axes:
        held = {axis for part in self.operands for axis in part.axes}
        return ordered(held - {self.triangle.col})

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.m, self.x, self.y, self.a, self.b)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Inverse(TensorNode):
    """``(1 + x)^-1`` for an ``x[row, col]`` that is zero on and above the diagonal; for every index
    of the other axes of ``x``."""

    x: Node
    row: Axis
    col: Axis

    @cached
    def axes(self) -> Axes:
        return self.x.axes

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.x,)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class ForwardSubstitution(TensorNode):
    """A triangular system whose rows are nonlinear formulas, solved row after row.

        forward   r_i = p_i + sum_{j<i} A[i, j] G_ij g_j     g_i = body(r_i, rows_i)
        reverse   r_i = p_i + sum_{j>i} A[j, i] G_ji g_j     (from the last row to the first)

    with ``G_ij = e^(a[i, c] - b[j, c])`` when ``gates = (a, b)`` are given, else 1; i is ``row``, and
    j is ``col``, which only ``A`` has.  The result has the axis i and the axes of ``body``.

    a        ``A`` [i, j], zero on and above the diagonal
    p        [i, *axes of r]
    body     a formula over ``r`` and the inputs of ``rows``; it may sum over the axes of a row
    r        the input of role HOLE that stands for the right-hand side of a row
    rows     (hole, node with the axis i): what else ``body`` reads, row by row
    gates    (a, b), each [i, c] with c the only axis of a row
    """

    a: Node
    p: Node
    body: Node
    r: Input
    rows: tuple[tuple[Input, Node], ...]
    gates: tuple[Node, Node] | None = None
    reverse: bool = False
    row: Axis = I
    col: Axis = J

    @cached
    def axes(self) -> Axes:
        return ordered((self.row, *self.body.axes))

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.a, self.p, *(row for _, row in self.rows), *(self.gates or ()))


Node = (
    Input | Number | AxisSize | Map | Contract | Reduce | Broadcast | Rename | Cumsum | Shift | TakeLast
    | PlaceLast | Split | Join | Mask | Decay | GatedContract | GatedApply | GatedSpan | Inverse
    | ForwardSubstitution
)  # fmt: skip
"""A tensor: every operation of the intermediate representation."""


def constant(value: Node | float | sp.Expr) -> Node:
    """A number as a node; a node as itself."""
    if isinstance(value, Node):
        return value
    if isinstance(value, sp.Expr):
        return Number(value)
    return Number(sp.Integer(value) if isinstance(value, int) else sp.Float(value))


ZERO, ONE = Number(sp.Integer(0)), Number(sp.Integer(1))

_HELD = tuple(sp.Symbol(f"_{n}", real=True) for n in range(len(OPERANDS)))
"""Symbols that hold the places of operands while these are renumbered."""


def elementwise(formula: sp.Expr, *args: Node) -> Node:
    """``Map(formula, args)`` in normal form: numbers are written into the formula, equal operands are
    one operand, and operands that the formula does not use are dropped.  If a dropped operand was the
    only one with some axis, the result is broadcast along it."""
    wanted = ordered(axis for arg in args for axis in arg.axes)
    if _is_normal(formula, args):
        return broadcast(args[0] if formula == OPERANDS[0] else Map(formula, args), wanted)
    substitution: dict[sp.Symbol, sp.Expr] = {}
    kept: list[Node] = []
    for slot, arg in zip(OPERANDS, args, strict=False):
        if isinstance(arg, Number):
            substitution[slot] = arg.value
            continue
        # The operands of a map broadcast anyway, so a `Broadcast` around one of them adds nothing.
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
    """Whether a formula uses every operand, no operand occurs twice, and none is a number or a
    `Broadcast`."""
    if not args or any(isinstance(arg, Number | Broadcast) for arg in args):
        return False
    return len(set(args)) == len(args) and formula.free_symbols == set(OPERANDS[: len(args)])


def broadcast(x: Node, along: Iterable[Axis]) -> Node:
    """``x`` repeated along those of the axes that it lacks; a number stays as it is, for numbers
    broadcast anyway."""
    missing = ordered(set(along) - set(x.axes))
    return Broadcast(x, missing) if missing and not isinstance(x, Number) else x
