"""Nodes as readable torch text.

Every array has its batch axes first and the axes of its node last, in stored order; so one text serves
a chunk, all chunks at once, or one token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import assert_never

import sympy as sp

from miras_dsl.codegen.emit.scalar_printer import print_number, print_scalar
from miras_dsl.codegen.plan.kernel_plan import Value
from miras_dsl.codegen.plan.partition import stored_as
from miras_dsl.ir import (
    KEY,
    PAIR,
    VALUE,
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
    I,
    Input,
    Inverse,
    J,
    Join,
    L,
    M,
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
)
from miras_dsl.scalar.functions import OPERANDS

from .exponents import TORCH_WITH_LOGS, Exponent, outside_exponents


class TorchPrinter:
    """Prints the values of one scope, which it knows by their nodes."""

    def __init__(
        self, values: Iterable[Value], rows: Mapping[tuple[Node, tuple[Input, ...]], str]
    ) -> None:
        values = list(values)
        self.names = {value.node: value.name for value in values}
        self.logs = {v.node for v in values if v.dtype == "float64"}
        self.careful = {v.node for v in values if v.accumulate == "float64"}
        self.rows = rows

    def ref(self, node: Node) -> str:
        """The text that stands for a node's value."""
        here = stored_as(node)
        match here:
            case Number(value):
                return print_number(value)
            case AxisSize(axis):
                return f'size["{axis}"]'
            case _:
                return self.names[here]

    def arg(self, node: Node) -> str:
        """The text of a value as an argument of a call, where it needs no brackets of its own."""
        text = self.ref(node)
        depth = 0
        for at, letter in enumerate(text):
            depth += (letter in "([") - (letter in ")]")
            if depth == 0:
                return text[1:-1] if text[0] == "(" and at == len(text) - 1 else text
        return text

    def aligned(self, node: Node, axes: Axes) -> str:
        """A node's value with an axis of size 1 for each axis that it lacks."""
        here = stored_as(node)
        if isinstance(here, Number | AxisSize):
            return self.ref(here)
        have = node.axes
        if have == axes:
            return self.ref(here)
        slots = [":" if axis in have else "None" for axis in axes]
        return f"{self.ref(here)}[..., {', '.join(slots)}]"

    def place(self, axis: Axis, axes: Axes) -> int:
        """The position of an axis, from the end."""
        return axes.index(axis) - len(axes)

    def expression(self, node: Node) -> str:
        """The torch expression that computes ``node``."""
        match node:
            case Map():
                return self._map(node)
            case Contract():
                return self._contract(node)
            case Reduce(kind, x, over):
                places = ", ".join(str(self.place(axis, x.axes)) for axis in over)
                tail = "," if len(over) == 1 else ""
                return f"{self.ref(x)}.{'sum' if kind == 'sum' else 'amax'}(({places}{tail}))"
            case Broadcast(x):
                return f"ops.broadcast({self.aligned(x, node.axes)}, {self._sizes(node.axes)})"
            case Rename(x, names):
                new = tuple(dict(names).get(axis, axis) for axis in x.axes)
                if len(new) == 2 and new != node.axes:
                    return f"{self.ref(x)}.mT"
                return _permuted(self.arg(x), new, node.axes)
            case Cumsum(x, axis, reverse):
                at = self.place(axis, x.axes)
                if reverse:
                    return f"{self.ref(x)}.flip({at}).cumsum({at}).flip({at})"
                return f"{self.ref(x)}.cumsum({at})"
            case Shift(x, axis, by):
                return f"ops.shift({self.arg(x)}, {self.place(axis, x.axes)}, {by})"
            case TakeLast(x, axis):
                return f"{self.ref(x)}.select({self.place(axis, x.axes)}, -1)"
            case PlaceLast(x, axis):
                at = self.place(axis, node.axes)
                return f"ops.pad_to_last({self.arg(x)}, {at}, size['{axis}'])".replace("'", '"')
            case Split(x, axis, block, row, size):
                at = x.axes.index(axis)
                wide = (*x.axes[:at], block, row, *x.axes[at + 1 :])
                parts = f"{self.ref(x)}.unflatten({self.place(axis, x.axes)}, (-1, {size}))"
                return _permuted(parts, wide, node.axes)
            case Join(x, axis, block, row, _):
                at = node.axes.index(axis)
                wide = (*node.axes[:at], block, row, *node.axes[at + 1 :])
                last = self.place(axis, node.axes)
                parts = self.ref(x) if wide == x.axes else _permuted(self.arg(x), x.axes, wide)
                return f"{parts}.flatten({last - 1}, {last})"
            case Mask(x, triangle):
                where = self._triangle(triangle, node.axes)
                sizes = self._sizes(node.axes)
                here = stored_as(x)
                if isinstance(here, Number):
                    return f"ops.tril(ops.everywhere({print_number(here.value)}, {sizes}, size), {where})"
                if len(x.axes) < len(node.axes):
                    return (
                        f"ops.tril(ops.broadcast({self.aligned(x, node.axes)}, {sizes}), {where})"
                    )
                return f"ops.tril({self.arg(x)}, {where})"
            case Decay(a, b, triangle):
                where = self._triangle(triangle, node.axes)
                later, earlier = (self.aligned(x, node.axes) for x in (a, b))
                return f"ops.masked_decay({later} - {earlier}, {where}, size)"
            case GatedContract(x, y, a, b, _, triangle):
                return f"ops.gated_contract({self._refs(x, y, a, b)}, {triangle.strict})"
            case GatedApply(m, y, a, b, _, triangle, over):
                mirrored = over == triangle.row
                return f"ops.gated_apply({self._refs(m, y, a, b)}, {triangle.strict}, {mirrored})"
            case GatedSpan(m, x, y, a, b, _, triangle, inclusive):
                how = f"{triangle.strict}, {inclusive}"
                return f"ops.gated_span({self._refs(m, x, y, a, b)}, {how})"
            case Inverse(x):
                return f"ops.unit_lower_inverse({self.arg(x)})"
            case ForwardSubstitution(a, p, _, r, rows, gates, reverse):
                holes = (r, *(hole for hole, _ in rows))
                given = self._refs(*(row for _, row in rows)) + ("," if len(rows) == 1 else "")
                gated = f"({self._refs(*gates)})" if gates else "None"
                how = f"{self.rows[node.body, holes]}, ({given}), {gated}, {reverse}"
                return f"ops.substitute({self._refs(a, p)}, {how}, size)"
            case Input() | Number() | AxisSize():
                raise AssertionError(f"{type(node).__name__} is read, not computed")
            case _:
                assert_never(node)

    def _triangle(self, triangle: Triangle, axes: Axes) -> str:
        row, col = (self.place(axis, axes) for axis in (triangle.row, triangle.col))
        return f"{row}, {col}, {triangle.strict}"

    def _refs(self, *nodes: Node) -> str:
        return ", ".join(self.arg(n) for n in nodes)

    def _sizes(self, axes: Axes) -> str:
        inner = ", ".join(f'size["{axis}"]' for axis in axes)
        return f"({inner}{',' if len(axes) == 1 else ''})"

    def _map(self, node: Map) -> str:
        formula = node.formula
        slots = dict(zip(OPERANDS, node.args, strict=False))
        names = {slot: self.aligned(arg, node.axes) for slot, arg in slots.items()}
        formula = self._means(formula, slots, names, node.axes)
        sizes = {slot for slot, arg in slots.items() if isinstance(stored_as(arg), AxisSize)}
        alone = {s for f in formula.atoms(sp.Function) for s in f.free_symbols & sizes
                 if f.free_symbols <= sizes}  # fmt: skip
        if len(sizes) == len(slots) or alone:
            # A size by itself is Python's number; a function of one, or nothing but sizes, needs torch's.
            names |= {slot: f"ops.full({names[slot]}, (), size)" for slot in sizes}
        logs = {slot for slot, arg in slots.items() if stored_as(arg) in self.logs}
        if logs and node not in self.logs:
            formula = formula.replace(
                lambda part: isinstance(part, sp.exp) and bool(part.free_symbols & logs),
                lambda part: Exponent(part.args[0]),
            )
            bare = outside_exponents(formula) & logs
            names |= {slot: f"{names[slot]}.to(size.dtype)" for slot in bare}
        return print_scalar(formula, names, TORCH_WITH_LOGS)

    def _means(
        self,
        formula: sp.Expr,
        slots: Mapping[sp.Symbol, Node],
        names: dict[sp.Symbol, str],
        axes: Axes,
    ) -> sp.Expr:
        """The formula with a sum over an axis, divided by the size of the axis, as a mean."""
        sizes = {arg.axis: slot for slot, arg in slots.items() if isinstance(arg, AxisSize)}
        for slot, arg in slots.items():
            if not isinstance(arg, Reduce) or arg.kind != "sum" or len(arg.over) != 1:
                continue
            size, text = sizes.get(arg.over[0]), self.names.get(arg, "")
            if size is None or ".sum((" not in text or text.count(".sum((") > 1:
                continue
            meant = formula.xreplace({slot: slot * size})
            if size not in meant.free_symbols:
                formula = meant
                names[slot] = names[slot].replace(".sum((", ".mean((")
        return formula

    def _contract(self, node: Contract) -> str:
        left, right, over = node.left, node.right, node.over
        a, b = self.ref(left), self.ref(right)
        if left.axes == right.axes:
            places = ", ".join(str(self.place(axis, left.axes)) for axis in over)
            return f"({a} * {b}).sum(({places}{',' if len(over) == 1 else ''}))"
        if len(over) == 1 and len(left.axes) == len(right.axes) == len(node.axes) == 2:
            (c,) = over
            first, second = (left, right) if node.axes[0] in left.axes else (right, left)
            one = self.ref(first) if first.axes[1] == c else f"{self.ref(first)}.mT"
            two = self.ref(second) if second.axes[0] == c else f"{self.ref(second)}.mT"
            if node in self.careful:
                return f"ops.matmul_fp64({one}, {two}, size)"
            return f"{one} @ {two}"
        pair = sorted((left, right), key=lambda x: len(x.axes))
        if len(over) == 1 and [len(x.axes) for x in pair] == [1, 2] and len(node.axes) == 1:
            matrix = self.ref(pair[1]) if pair[1].axes[1] == over[0] else f"{self.ref(pair[1])}.mT"
            return f"ops.matvec({matrix}, {self.ref(pair[0])})"
        table: dict[Axis, str] = {}
        spec = "->".join(
            (
                ",".join("..." + _letters(n.axes, table) for n in (left, right)),
                "..." + _letters(node.axes, table),
            )
        )
        return f'torch.einsum("{spec}", {a}, {b})'


_LETTERS = {I: "i", J: "j", L: "l", M: "m", KEY: "k", VALUE: "v", PAIR: "p"}


def _permuted(text: str, have: Axes, want: Axes) -> str:
    """The text of an array with the axes ``have``, in the order of ``want``."""
    order = tuple(have.index(axis) - len(have) for axis in want)
    return text if have == want else f"ops.permute({text}, {order})"


def _letters(axes: Axes, table: dict[Axis, str]) -> str:
    out = ""
    for axis in axes:
        if axis not in table:
            free = (c for c in "hgfedcbanopqrstuwxyz" if c not in table.values())
            table[axis] = _LETTERS.get(axis) or next(free)
        out += table[axis]
    return out
