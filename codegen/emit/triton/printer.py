"""Values of a plan as straight-line Triton: one statement for each.

A value is a tile [BV, BK] or broadcasts to one: [BV, 1] along values, [1, BK] along keys, a number.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Mapping
from typing import cast

import sympy as sp

from miras_dsl.codegen.emit.scalar_printer import TRITON, print_number, print_scalar
from miras_dsl.codegen.plan.kernel_plan import Carry, KernelPlan, Value
from miras_dsl.ir import (
    KEY,
    VALUE,
    Axes,
    AxisSize,
    Broadcast,
    Contract,
    Input,
    Map,
    Node,
    Number,
    Reduce,
    ordered,
)
from miras_dsl.scalar.functions import OPERANDS

SHAPES: Mapping[Axes, str] = {
    (): "",
    (VALUE,): "[BV, 1]",
    (KEY,): "[1, BK]",
    (VALUE, KEY): "[BV, BK]",
}
MASKS = {VALUE: "m_v", KEY: "m_k"}
SIZES = {VALUE: "V", KEY: "K"}
DIMENSION = {VALUE: 0, KEY: 1}

Written = tuple[str, Axes]
"""An expression and the axes along which it really varies: others are broadcast."""


class TritonPrinter:
    """Prints the values of one kernel; what has been printed is read by its name."""

    def __init__(self, plan: KernelPlan) -> None:
        self.plan = plan
        self.written: dict[tuple[str, Node], Written] = {}
        self.used_names = {value.name for value in plan.values}

    def fresh(self, word: str) -> str:
        """A name that no value has."""
        while word in self.used_names:
            word += "_"
        self.used_names.add(word)
        return word

    def lines(self, ids: Iterable[int], whole: Collection[int] = ()) -> list[str]:
        """An assignment to each value; those in ``whole`` get the full shape of their axes."""
        out: list[str] = []
        for id in ids:
            value = self.plan.values[id]
            expression, axes = self._expression(value)
            if axes != value.node.axes and (id in whole or isinstance(value.node, Broadcast)):
                expression, axes = filled(expression, value.node.axes), value.node.axes
            out.append(_line(value.name, expression, axes))
            self.written[value.scope, value.node] = value.name, axes
        return out

    def carried(self, carry: Iterable[Carry]) -> list[str]:
        """Assignments after which carried values are what has been computed for them."""
        pairs: list[tuple[str, str]] = []
        for state, text in (
            (self.plan.values[c.state], self.whole(c.next, c.state)) for c in carry
        ):
            if text != state.name:
                pairs.append((state.name, text))
        names = {name for name, _ in pairs}
        if any(text in names for _, text in pairs):
            # One of them is what another one becomes: all are assigned together.
            left, right = zip(*pairs, strict=True)
            return [f"{', '.join(left)} = {', '.join(right)}"]
        return [f"{name} = {text}" for name, text in pairs]

    def whole(self, id: int, like: int) -> str:
        """A value in the full shape of another."""
        wanted = self.plan.values[like].node.axes
        text, axes = self.operand(self.plan.values[id].scope, self.plan.values[id].node)
        return text if axes == wanted else filled(text, wanted)

    def operand(self, scope: str, node: Node) -> Written:
        """How a statement writes what it reads."""
        if (scope, node) in self.written:
            return self.written[scope, node]
        match node:
            case Input():
                return self._name(scope, node), node.axes
            case Number(value):
                return print_number(value), ()
            case AxisSize(axis):
                return SIZES[axis], ()
            case Broadcast(x, _):
                return self.operand(scope, x)
            case _:
                raise AssertionError(f"{node} is read before it is computed")

    def _name(self, scope: str, x: Input) -> str:
        return next(v.name for v in self.plan.values if v.scope == scope and v.node is x)

    def _expression(self, value: Value) -> Written:
        scope, node = value.scope, value.node
        match node:
            case Broadcast(x, _):
                return self.operand(scope, x)
            case Map(formula, args):
                # Products are taken from left to right: the smallest operands first.
                used = sorted(
                    ((slot, a) for slot, a in zip(OPERANDS, args, strict=False)),
                    key=lambda pair: len(pair[1].axes),
                )
                slots = {slot: OPERANDS[at] for at, (slot, _) in enumerate(used)}
                given = [self.operand(scope, a) for _, a in used]
                names = {s: text for s, (text, _) in zip(OPERANDS, given, strict=False)}
                ordered_formula = cast(sp.Expr, formula.xreplace(slots))
                text = print_scalar(ordered_formula, names, TRITON)
                return text, ordered(axis for _, axes in given for axis in axes)
            case Contract(left, right, over):
                sides = [self.operand(scope, left), self.operand(scope, right)]
                factors = " * ".join(t if t.isidentifier() else f"({t})" for t, _ in sides)
                axes = ordered(axis for _, axes in sides for axis in axes)
                return _sum(factors, axes, over, value.masked)
            case Reduce("sum", x, over):
                return _sum(*self.operand(scope, x), over, value.masked)
            case Reduce(_, x, over):
                text, axes = self.operand(scope, x)
                mask = " & ".join(MASKS[axis] for axis in value.masked)
                rest = ordered(set(axes) - set(over))
                text = f'tl.where({mask}, {text}, float("-inf"))'
                return _reduced(text, "max", over, rest), rest
            case _:
                raise AssertionError(f"{type(node).__name__} is not printed as a line")


def _sum(text: str, axes: Axes, over: Axes, masked: Axes) -> Written:
    missing = set(over) - set(axes)
    if missing:
        axes = ordered((*axes, *missing))
        text = f"{zeros(axes)} + {text}"
    rest = ordered(set(axes) - set(over))
    if masked:
        text = f"tl.where({' & '.join(MASKS[axis] for axis in masked)}, {text}, 0.0)"
    return _reduced(text, "sum", over, rest), rest


def _reduced(text: str, kind: str, over: Axes, rest: Axes) -> str:
    """A reduction of a tile: to a number, or with the summed axis kept as 1."""
    if not rest:
        return f"tl.{kind}({text})"
    (axis,) = over
    return f"tl.{kind}({text}, axis={DIMENSION[axis]}, keep_dims=True)"


def folded(text: str, width: int = 100) -> str:
    """Code with assignments that are too long broken at spaces, inside parentheses."""
    lines: list[str] = []
    for line in text.split("\n"):
        head, equals, value = line.partition(" = ")
        name = head.strip().replace("_", "").replace(", ", "")
        if len(line) <= width or not equals or not name.isalnum():
            lines.append(line)
            continue
        value, _, comment = value.partition("  # ")
        indent = " " * (len(line) - len(line.lstrip()))
        inner = indent + "    "
        body = textwrap.wrap(value, width, initial_indent=inner, subsequent_indent=inner,
                             break_long_words=False, break_on_hyphens=False)  # fmt: skip
        lines += [f"{head} = (", *body, f"{indent})" + (f"  # {comment}" if comment else "")]
    return "\n".join(lines)


def zeros(axes: Axes) -> str:
    """Zeros in the shape of some axes."""
    if not axes:
        return "0.0"
    sizes = ["BV" if VALUE in axes else "1", "BK" if KEY in axes else "1"]
    return f"tl.zeros([{', '.join(sizes)}], tl.float32)"


def filled(text: str, axes: Axes) -> str:
    """An expression repeated to the shape of some axes."""
    return zeros(axes) if text in ("0", "0.0") else f"{zeros(axes)} + {text}"


def _line(name: str, text: str, axes: Axes) -> str:
    shape = SHAPES[axes]
    return f"{name} = {text}  # {shape}" if shape else f"{name} = {text}"
