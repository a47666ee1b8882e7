"""Tensors with named axes: the one language of stages 3 to 6.

A node is immutable and interned: two nodes that say the same thing are the same object, so equality
is identity, sharing is automatic and a formula of any size hashes in constant time.

Axes are names.  A contraction names the axes it sums, everything else is united by name, and there is
no transpose.  Batch, head and chunk are never written: every node is computed for each of them.  Axes
that start with `#` count tokens of a chunk (`#i`, `#j` …, all of the chunk's length); a rule that runs
token by token has the same operations without them.

The operations
    Input · Number · Extent                 leaves; Extent is the size of an axis as a number
    Map                                     a sympy formula, elementwise; operands broadcast by name
    Contract                                sum of products over shared axes
    Reduce · Spread · Rename                sum or max over axes; repeat along axes; other names
    Cumsum · Shift · Last · Put             along tokens: running sum, one token later, the last row
    Mask · Decay                            lower triangle of [i, j]; e^(a_i - b_j) on it
    GatedContract · GatedApply              products with a decay per channel, each other's adjoint
    Inverse                                 (1 + A)^-1 for a strictly lower A
    Substitute                              g_i = body(p_i + sum_j A_ij g_j), row after row
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any
from weakref import WeakValueDictionary

import sympy as sp

from .scalars import SLOTS

Axis = str
Axes = tuple[Axis, ...]

I, J, L, M = "#i", "#j", "#l", "#m"
"""Axes over the tokens of one chunk."""


def is_token_axis(axis: Axis) -> bool:
    """Whether an axis counts tokens of a chunk."""
    return axis.startswith("#")


def _rank(axis: Axis) -> tuple[int, str]:
    if is_token_axis(axis):
        return (0, axis)
    return ({"pair": 1, "value": 2, "key": 4}.get(axis, 3), axis)


def ordered(axes: Iterable[Axis]) -> Axes:
    """Axes in the one order in which arrays store them: tokens, pairs, value, hidden, key."""
    return tuple(sorted(set(axes), key=_rank))


class _Interned(type):
    """Makes ``Class(fields…)`` return the one object with these fields."""

    _table: WeakValueDictionary[tuple[Any, ...], Any] = WeakValueDictionary()

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__call__(*args, **kwargs)
        key = (cls, *(getattr(made, f.name) for f in fields(made)))
        return _Interned._table.setdefault(key, made)


class _Memo:
    """Holds what `_once` has computed."""

    __slots__ = ("_axes",)


def _once(compute: Callable[[Any], Axes]) -> property:
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
class Node(_Memo, metaclass=_Interned):
    """A tensor.  `axes` is computed from the operands and always in stored order."""

    @_once
    def axes(self) -> Axes:
        raise AssertionError("every node class computes its axes")

    @property
    def operands(self) -> tuple[Node, ...]:
        """The nodes that this one is computed from."""
        return ()

    def __repr__(self) -> str:
        """What it is and its shape; the operands are not shown, there may be thousands."""
        name = f" {self.name}" if isinstance(self, Input) else ""
        return f"<{type(self).__name__}{name} [{', '.join(self.axes)}]>"

    def __add__(self, other: Node | float) -> Node:
        return pointwise(SLOTS[0] + SLOTS[1], self, constant(other))

    def __sub__(self, other: Node | float) -> Node:
        return pointwise(SLOTS[0] - SLOTS[1], self, constant(other))

    def __mul__(self, other: Node | float) -> Node:
        return pointwise(SLOTS[0] * SLOTS[1], self, constant(other))

    def __neg__(self) -> Node:
        return pointwise(-SLOTS[0], self)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Input(Node):
    """A tensor that comes from outside, by name.

    kind  token (one per token), state (carried), saved (a state as it was at the chunk's start),
          constant (per head), cotangent, or hole (a row of a Substitute's body)
    """

    name: str
    shape: Axes
    kind: str

    @_once
    def axes(self) -> Axes:
        return ordered(self.shape)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Number(Node):
    """A scalar constant."""

    value: sp.Expr

    @_once
    def axes(self) -> Axes:
        return ()


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Extent(Node):
    """The size of an axis, as a number."""

    axis: Axis

    @_once
    def axes(self) -> Axes:
        return ()


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Map(Node):
    """``formula`` in `SLOTS`, elementwise: slot n is operand n.  Built by `pointwise` only."""

    formula: sp.Expr
    args: tuple[Node, ...]

    @_once
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

    @_once
    def axes(self) -> Axes:
        return ordered(set(self.left.axes + self.right.axes) - set(self.over))

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.left, self.right)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Reduce(Node):
    """Sum or max of ``x`` over axes.  The max has no derivative: it only shifts a softmax."""

    kind: str
    x: Node
    over: Axes

    @_once
    def axes(self) -> Axes:
        return ordered(set(self.x.axes) - set(self.over))

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.x,)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Spread(Node):
    """``x`` repeated along further axes."""

    x: Node
    along: Axes

    @_once
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

    @_once
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

    @_once
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

    @_once
    def axes(self) -> Axes:
        return self.x.axes

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.x,)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Last(Node):
    """The last row of ``x`` along an axis."""

    x: Node
    axis: Axis

    @_once
    def axes(self) -> Axes:
        return ordered(set(self.x.axes) - {self.axis})

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.x,)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Put(Node):
    """``x`` as the last row along a new axis, zero elsewhere: the adjoint of `Last`."""

    x: Node
    axis: Axis

    @_once
    def axes(self) -> Axes:
        return ordered((*self.x.axes, self.axis))

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.x,)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Mask(Node):
    """``x`` where row >= col (row > col if ``strict``), else 0."""

    x: Node
    row: Axis
    col: Axis
    strict: bool

    @_once
    def axes(self) -> Axes:
        return ordered((*self.x.axes, self.row, self.col))

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.x,)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Decay(Node):
    """``e^(a_row - b_col)`` where row >= col (row > col if ``strict``), else 0.

    The exponent is masked before the exponential: above the triangle it may be huge.
    """

    a: Node
    b: Node
    row: Axis
    col: Axis
    strict: bool

    @_once
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
    row: Axis
    col: Axis
    strict: bool

    @_once
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
    row: Axis
    col: Axis
    strict: bool
    over: Axis

    @_once
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

    @_once
    def axes(self) -> Axes:
        return self.x.axes

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.x,)


@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Substitute(Node):
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

    @_once
    def axes(self) -> Axes:
        return ordered((I, *self.body.axes))

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.a, self.p, *(row for _, row in self.rows), *(self.gates or ()))


# ---------------------------------------------------------------- building


def constant(value: Node | float | sp.Expr) -> Node:
    """A number as a node; a node as itself."""
    if isinstance(value, Node):
        return value
    if isinstance(value, sp.Expr):
        return Number(value)
    return Number(sp.Integer(value) if isinstance(value, int) else sp.Float(value))


ZERO, ONE = Number(sp.Integer(0)), Number(sp.Integer(1))


def pointwise(formula: sp.Expr, *args: Node) -> Node:
    """``Map(formula, args)`` in normal form: numbers folded in, equal operands shared, unused ones
    dropped (spread along, if they alone carried an axis)."""
    substitution: dict[sp.Symbol, sp.Expr] = {}
    kept: list[Node] = []
    for slot, arg in zip(SLOTS, args, strict=False):
        if isinstance(arg, Number):
            substitution[slot] = arg.value
            continue
        if arg not in kept:
            kept.append(arg)
        substitution[slot] = sp.Symbol(f"_{kept.index(arg)}", real=True)
    formula = formula.xreplace(substitution)
    wanted = ordered(axis for arg in args for axis in arg.axes)
    used = [n for n in range(len(kept)) if sp.Symbol(f"_{n}", real=True) in formula.free_symbols]
    formula = formula.xreplace({sp.Symbol(f"_{n}", real=True): SLOTS[at] for at, n in enumerate(used)})
    chosen = tuple(kept[n] for n in used)
    made: Node
    if not chosen:
        made = Number(formula)
    elif formula == SLOTS[0]:
        made = chosen[0]
    else:
        made = Map(formula, chosen)
    return spread(made, wanted)


def formula(expr: sp.Expr, nodes: Mapping[sp.Symbol, Node]) -> Node:
    """A sympy formula over some of the symbols of ``nodes``, on the nodes that it uses and no other."""
    used = [slot for slot in nodes if slot in expr.free_symbols]
    renamed = expr.xreplace(dict(zip(used, SLOTS, strict=False)))
    return pointwise(renamed, *(nodes[slot] for slot in used))


def _is_zero(node: Node) -> bool:
    return isinstance(node, Number) and node.value == 0


def is_zero(node: Node) -> bool:
    """Whether a node is the number 0 (which, like every number, has the axes of anything)."""
    return _is_zero(node)


def spread(x: Node, along: Iterable[Axis]) -> Node:
    """``x`` repeated along those of the axes that it does not have; a number has every axis already."""
    missing = ordered(set(along) - set(x.axes))
    return Spread(x, missing) if missing and not isinstance(x, Number) else x


def total(x: Node, over: Iterable[Axis]) -> Node:
    """The sum of ``x`` over axes; an axis that ``x`` lacks multiplies by its size."""
    axes = ordered(over)
    if _is_zero(x) or not axes:
        return x
    if isinstance(x, Spread):
        kept = tuple(a for a in x.along if a not in axes)
        result = total(x.x, [a for a in axes if a in x.x.axes])
        for axis in axes:
            if axis in x.along:
                result = result * Extent(axis)
        return spread(result, kept)
    inside = ordered(set(axes) & set(x.axes))
    result = _sum(x, inside) if inside else x
    for axis in axes:
        if axis not in x.axes:
            result = result * Extent(axis)
    return result


def _sum(x: Node, over: Axes) -> Node:
    """A sum over axes of ``x``; of a product, factors without these axes leave the sum and two
    factors with them become a contraction."""
    if not isinstance(x, Map):
        return Reduce("sum", x, over)
    number, factors = x.formula.as_coeff_Mul()
    slots = factors.args if isinstance(factors, sp.Mul) else (factors,)
    nodes = dict(zip(SLOTS, x.args, strict=False))
    if not all(slot in nodes for slot in slots):
        return Reduce("sum", x, over)
    inside = [nodes[slot] for slot in slots if set(nodes[slot].axes) & set(over)]
    outside = [nodes[slot] for slot in slots if not set(nodes[slot].axes) & set(over)]
    *first, last = inside
    if first:
        left = pointwise(sp.Mul(*SLOTS[: len(first)]), *first)
        summed = contract(left, last, over)
    else:
        summed = total(last, over) if last is not x else Reduce("sum", x, over)
    for factor in outside:
        summed = summed * factor
    return pointwise(number * SLOTS[0], summed)


def mean(x: Node, over: Axes) -> Node:
    """The mean over axes."""
    result = total(x, over)
    for axis in over:
        result = pointwise(SLOTS[0] / SLOTS[1], result, Extent(axis))
    return result


def contract(left: Node, right: Node, over: Iterable[Axis]) -> Node:
    """Sum of products over ``over``; an axis that only one operand has is summed there first."""
    if _is_zero(left) or _is_zero(right):
        return ZERO
    if isinstance(left, Spread) and set(left.along) <= set(right.axes):
        left = left.x
    if isinstance(right, Spread) and set(right.along) <= set(left.axes):
        right = right.x
    axes = set(over)
    has = set(left.axes)
    shared = axes & has & set(right.axes)
    left = total(left, axes & has - shared)
    right = total(right, axes - has)
    return Contract(left, right, ordered(shared)) if shared else left * right


def rename(x: Node, names: Mapping[Axis, Axis]) -> Node:
    """``x`` with other axis names; leaves that lack them stay as they are."""
    here = tuple(sorted((a, b) for a, b in names.items() if a in x.axes and a != b))
    if not here:
        return x
    if isinstance(x, Rename):
        back = {new: old for old, new in x.names}
        merged = {old: dict(here).get(new, new) for old, new in x.names}
        merged |= {a: b for a, b in here if a not in back}
        return rename(x.x, {a: b for a, b in merged.items() if a != b})
    return Rename(x, here)


def postorder(roots: Iterable[Node]) -> list[Node]:
    """Every node that the roots need, operands first, each once; bodies of substitutions excluded."""
    seen: set[Node] = set()
    order: list[Node] = []
    stack: list[tuple[Node, bool]] = [(root, False) for root in reversed(list(roots))]
    while stack:
        node, opened = stack.pop()
        if node in seen:
            continue
        if opened:
            seen.add(node)
            order.append(node)
        else:
            stack.append((node, True))
            stack.extend((operand, False) for operand in reversed(node.operands) if operand not in seen)
    return order


def rebuild(node: Node, operand: Mapping[Node, Node]) -> Node:
    """``node`` with its operands exchanged, in normal form again."""
    if all(operand[o] is o for o in node.operands):
        return node
    match node:
        case Map(formula, args):
            return pointwise(formula, *(operand[a] for a in args))
        case Contract(left, right, over):
            return contract(operand[left], operand[right], over)
        case Reduce("sum", x, over):
            return total(operand[x], over)
        case Reduce(kind, x, over):
            return Reduce(kind, operand[x], over)
        case Spread(x, along):
            return spread(operand[x], along)
        case Rename(x, names):
            return rename(operand[x], dict(names))
        case Cumsum(x, axis, reverse):
            return Cumsum(operand[x], axis, reverse)
        case Shift(x, axis, by):
            return Shift(operand[x], axis, by)
        case Last(x, axis):
            return Last(operand[x], axis)
        case Put(x, axis):
            return Put(operand[x], axis)
        case Mask(x, row, col, strict):
            return Mask(operand[x], row, col, strict)
        case Decay(a, b, row, col, strict):
            return Decay(operand[a], operand[b], row, col, strict)
        case GatedContract(x, y, a, b, over, row, col, strict):
            return GatedContract(operand[x], operand[y], operand[a], operand[b], over, row, col, strict)
        case GatedApply(m, y, a, b, channel, row, col, strict, over):
            return GatedApply(
                operand[m], operand[y], operand[a], operand[b], channel, row, col, strict, over
            )
        case Inverse(x, row, col):
            return Inverse(operand[x], row, col)
        case Substitute(a, p, body, r, rows, gates, reverse):
            new_rows = tuple((hole, operand[row]) for hole, row in rows)
            new_gates = (operand[gates[0]], operand[gates[1]]) if gates else None
            return Substitute(operand[a], operand[p], body, r, new_rows, new_gates, reverse)
        case _:
            raise AssertionError(f"{type(node).__name__} has no operands to exchange")


def replace(roots: Iterable[Node], exchange: Mapping[Node, Node]) -> list[Node]:
    """The roots with some nodes exchanged for others, everywhere."""
    roots = list(roots)
    made: dict[Node, Node] = {}
    for node in postorder(roots):
        made[node] = exchange[node] if node in exchange else rebuild(node, made) if node.operands else node
    return [made[root] for root in roots]


def inputs_of(roots: Iterable[Node]) -> list[Input]:
    """The inputs that the roots read, in order of first use."""
    return [node for node in postorder(roots) if isinstance(node, Input)]


@dataclass(frozen=True, slots=True)
class Program:
    """A computation for one chunk (or one token): inputs in, named results out.

    inputs   tokens and gates, carried states, constants
    results  outputs and new states by name
    carried  (state input, name of the result that is its next value)
    reverse  whether chunks are walked from the last to the first
    """

    inputs: tuple[Input, ...]
    results: tuple[tuple[str, Node], ...]
    carried: tuple[tuple[Input, str], ...]
    reverse: bool = False

    def result(self, name: str) -> Node:
        """A result by name."""
        return dict(self.results)[name]

    def parts(self) -> dict[Node, str]:
        """Where each node runs: ``before`` (no carried state in it), ``loop`` (a carried state needs
        it), ``after`` (it needs a carried state, and no carried state needs it)."""
        order = postorder(node for _, node in self.results)
        states = {state for state, _ in self.carried}
        sequential: set[Node] = set()
        for node in order:
            if node in states or any(o in sequential for o in node.operands):
                sequential.add(node)
        next_states = [self.result(name) for _, name in self.carried]
        looped = set(postorder(next_states)) & sequential
        return {
            node: "before" if node not in sequential else "loop" if node in looped else "after"
            for node in order
        }

    def __iter__(self) -> Iterator[tuple[str, Node]]:
        return iter(self.results)


__all__ = [name for name in dir() if not name.startswith("_") and name not in ("annotations", "Any")]
