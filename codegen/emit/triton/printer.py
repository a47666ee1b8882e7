"""Programs of one token as straight-line Triton.

A node is a tile [BV, BK] or broadcasts to one: [BV, 1] along values, [1, BK] along keys, a number.
"""

from __future__ import annotations

import keyword
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import sympy as sp

from miras_dsl.codegen.analysis.padding import TAME_LANES, ZERO_LANES, PaddingTable
from miras_dsl.codegen.emit.scalar_printer import TRITON, print_number, print_scalar
from miras_dsl.ir import (
    KEY,
    VALUE,
    Axes,
    Axis,
    AxisSize,
    Broadcast,
    Contract,
    Input,
    Map,
    Node,
    Number,
    Reduce,
    ordered,
    postorder,
)
from miras_dsl.scalar.functions import OPERANDS

SHAPES: Mapping[Axes, str] = {
    (): "",
    (VALUE,): "[BV, 1]",
    (KEY,): "[1, BK]",
    (VALUE, KEY): "[BV, BK]",
}
PREFIX: Mapping[Axes, str] = {(): "s", (VALUE,): "v", (KEY,): "k", (VALUE, KEY): "w"}
MASKS = {VALUE: "m_v", KEY: "m_k"}
SIZES = {VALUE: "V", KEY: "K"}
DIMENSION = {VALUE: 0, KEY: 1}
TAKEN = frozenset({
    "T", "L", "H", "N", "K", "V", "BK", "BV", "SEGMENT", "PACKED", "KEEP", "tl", "tl_math",
    "triton", "range", "float", "t", "j", "y", "row", "start", "length", "segment", "share",
    "first", "last", "segments", "kept", "past", "past_v", "place", "position", "d_y", "b",
    "i_n", "i_h", "i_nh",
    "i_v", "i_s", "i_b", "o_k", "o_v", "o_w", "m_k", "m_v", "m_w", "offsets", "Recurrence",
})  # fmt: skip
"""Names that the templates use for themselves."""
WIDEST = 6
"""Operands of one printed formula."""


@dataclass(frozen=True, slots=True)
class Target:
    """A variable to assign; ``whole`` if it must have its full shape, for a loop carries it."""

    name: str
    axes: Axes
    node: Node
    whole: bool = False


@dataclass
class TritonPrinter:
    """Prints the programs of one kernel; no name is given twice."""

    lanes: PaddingTable
    taken: set[str] = field(default_factory=lambda: set(TAKEN))
    counts: dict[str, int] = field(default_factory=dict)

    def name(self, wanted: str) -> str:
        """A name of this kernel that reads like ``wanted``."""
        made = wanted.replace(".", "_")
        while keyword.iskeyword(made) or made in self.taken or made.endswith("_ptr"):
            made += "_"
        self.taken.add(made)
        return made

    def fresh(self, axes: Axes) -> str:
        """A name for a value in between: s1, v1, k1, w1 by its shape."""
        letter = PREFIX[axes]
        while True:
            self.counts[letter] = self.counts.get(letter, 0) + 1
            made = f"{letter}{self.counts[letter]}"
            if made not in self.taken:
                self.taken.add(made)
                return made

    def lines(self, results: Iterable[Target], names: Mapping[Input, str]) -> list[str]:
        """Assignments that give each target its node."""
        results = list(results)
        roots = [target.node for target in results]
        formulas, order = _fused(roots)
        targets = {target.node: target for target in results if roots.count(target.node) == 1}
        written: dict[Node, tuple[str, Axes]] = {}
        out: list[str] = []
        for node in order:
            match node:
                case Input():
                    written[node] = names[node], node.axes
                case Number(value):
                    written[node] = print_number(value), ()
                case AxisSize(axis):
                    written[node] = SIZES[axis], ()
                case Broadcast(x, _):
                    written[node] = written[x]
                case _:
                    expression, axes = self._expression(node, formulas, written)
                    target = targets.get(node)
                    if target is not None and (target.axes == axes or not target.whole):
                        made = target.name
                    else:
                        made = self.fresh(axes)
                    out.append(_line(made, expression, axes))
                    written[node] = made, axes
        for target in results:
            value, has = written[target.node]
            if value == target.name:
                continue
            if target.whole and target.axes != has:
                value, has = f"{zeros(target.axes)} + {value}", target.axes
            out.append(_line(target.name, value, has))
        return out

    def _expression(
        self,
        node: Node,
        formulas: Mapping[Node, tuple[sp.Expr, tuple[Node, ...]]],
        written: Mapping[Node, tuple[str, Axes]],
    ) -> tuple[str, Axes]:
        match node:
            case Map():
                formula, args = formulas[node]
                used = [written[a] for a in args]
                names = {s: n for s, (n, _) in zip(OPERANDS, used, strict=False)}
                return print_scalar(formula, names, TRITON), ordered(
                    a for _, axes in used for a in axes
                )
            case Contract(left, right, over):
                sides = [written[left], written[right]]
                names = [name if name.isidentifier() else f"({name})" for name, _ in sides]
                factors = " * ".join(names)
                zero = {
                    axis
                    for axis in over
                    if ZERO_LANES in (self._lane(left, axis), self._lane(right, axis))
                    and not self._wild(left, right, axis)
                }
                axes = ordered(a for _, axes in sides for a in axes)
                return self._sum(factors, axes, over, zero)
            case Reduce(kind, x, over):
                name, axes = written[x]
                if kind == "sum":
                    zero = {a for a in over if self._lane(x, a) == ZERO_LANES}
                    return self._sum(name, axes, over, zero)
                mask = " & ".join(MASKS[a] for a in over)
                rest = ordered(set(axes) - set(over))
                return _reduced(f'tl.where({mask}, {name}, float("-inf"))', "max", over, rest), rest
            case _:
                raise AssertionError(f"{type(node).__name__} is not printed as a line")

    def _lane(self, node: Node, axis: Axis) -> int:
        return self.lanes[node, axis] if axis in node.axes else TAME_LANES

    def _wild(self, left: Node, right: Node, axis: Axis) -> bool:
        return max(self._lane(left, axis), self._lane(right, axis)) > TAME_LANES

    def _sum(self, value: str, axes: Axes, over: Axes, zero: set[Axis]) -> tuple[str, Axes]:
        missing = set(over) - set(axes)
        if missing:
            axes = ordered((*axes, *missing))
            value = f"{zeros(axes)} + {value}"
            zero = set()
        rest = ordered(set(axes) - set(over))
        masked = [MASKS[a] for a in over if a not in zero]
        if masked:
            value = f"tl.where({' & '.join(masked)}, {value}, 0.0)"
        return _reduced(value, "sum", over, rest), rest


def folded(text: str, width: int = 100) -> str:
    """Code with assignments that are too long broken at spaces, inside parentheses."""
    lines: list[str] = []
    for line in text.split("\n"):
        head, equals, value = line.partition(" = ")
        if len(line) <= width or not equals or not head.strip().replace("_", "").isalnum():
            lines.append(line)
            continue
        value, _, comment = value.partition("  # ")
        indent = " " * (len(line) - len(line.lstrip()))
        inner = indent + "    "
        body = textwrap.wrap(value, width, initial_indent=inner, subsequent_indent=inner,
                             break_long_words=False, break_on_hyphens=False)  # fmt: skip
        lines += [f"{head} = (", *body, f"{indent})" + (f"  # {comment}" if comment else "")]
    return "\n".join(lines)


def _reduced(value: str, kind: str, over: Axes, rest: Axes) -> str:
    """A reduction of a tile: to a number, or with the summed axis kept as 1."""
    if not rest:
        return f"tl.{kind}({value})"
    (axis,) = over
    return f"tl.{kind}({value}, axis={DIMENSION[axis]}, keep_dims=True)"


def zeros(axes: Axes) -> str:
    """Zeros in the shape of some axes."""
    if not axes:
        return "0.0"
    sizes = ["BV" if VALUE in axes else "1", "BK" if KEY in axes else "1"]
    return f"tl.zeros([{', '.join(sizes)}], tl.float32)"


def _line(name: str, value: str, axes: Axes) -> str:
    shape = SHAPES[axes]
    return f"{name} = {value}  # {shape}" if shape else f"{name} = {value}"


def _fused(
    roots: list[Node],
) -> tuple[dict[Node, tuple[sp.Expr, tuple[Node, ...]]], list[Node]]:
    """Formulas, with signs and arithmetic that is used once written in their places; the order of
    the rest."""
    order = postorder(roots)
    uses: dict[Node, int] = {}
    for node in [*roots, *(o for n in order for o in dict.fromkeys(n.operands))]:
        uses[node] = uses.get(node, 0) + 1
    formulas: dict[Node, tuple[sp.Expr, tuple[Node, ...]]] = {}
    for node in order:
        if not isinstance(node, Map):
            continue
        formula, args = node.formula, list(node.args)
        for arg in node.args:
            if not isinstance(arg, Map) or arg in roots or formula.atoms(sp.Function):
                continue
            once = uses[arg] == 1 and arg.axes == node.axes
            if formulas[arg][0] != -OPERANDS[0] and (
                not once or formulas[arg][0].atoms(sp.Function)
            ):
                continue
            inner, below = formulas[arg]
            merged = [a for a in args if a is not arg]
            merged += [a for a in below if a not in merged]
            if len(merged) > WIDEST:
                continue
            formula = _over(formula, args, {arg: _over(inner, list(below), {}, merged)}, merged)
            args = merged
        arranged = sorted(args, key=lambda a: (len(a.axes), args.index(a)))
        formulas[node] = _over(formula, args, {}, arranged), tuple(arranged)
    needed = set(roots)
    for node in reversed(order):
        if node in needed:
            needed.update(formulas[node][1] if node in formulas else node.operands)
    return formulas, [node for node in order if node in needed]


def _over(
    formula: sp.Expr, args: list[Node], exchange: Mapping[Node, sp.Expr], onto: list[Node]
) -> sp.Expr:
    """A formula over ``args`` as one over ``onto``; ``exchange`` has operands as formulas."""
    return formula.xreplace(
        {
            slot: exchange[arg] if arg in exchange else OPERANDS[onto.index(arg)]
            for slot, arg in zip(OPERANDS, args, strict=False)
        }
    )
