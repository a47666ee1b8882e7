"""An elementwise formula as a sympy formula of one unknown number and constants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sympy as sp

from miras_dsl.ir import AxisSize, Input, Map, Node, Number, Role, elementwise
from miras_dsl.scalar import functions as scalars
from miras_dsl.scalar.functions import OPERANDS
from miras_dsl.scalar.interval import ANYWHERE, Interval
from miras_dsl.scalar.monotone_inverse import UNKNOWN

LARGE = 160
"""The most operations of a formula that is analysed here."""


class NotScalar(Exception):
    """A formula does not treat each number by itself; the message completes "this formula …"."""


@dataclass(frozen=True, slots=True)
class ScalarEquation:
    """A formula of `UNKNOWN` and constants c0, c1 …

    nodes   the nodes that the constants stand for, in order
    ranges  constant -> the interval of its values
    """

    formula: sp.Expr
    nodes: tuple[Node, ...]
    ranges: Mapping[sp.Symbol, Interval]

    def symbol(self, node: Node) -> sp.Symbol | None:
        """The constant that stands for a node."""
        return _constant(self.nodes.index(node)) if node in self.nodes else None

    def as_node(self, answer: sp.Expr, given: Mapping[sp.Symbol, Node]) -> Node:
        """A formula of the constants and of further symbols as a node; ``given``: theirs."""
        table = {_constant(n): node for n, node in enumerate(self.nodes)} | dict(given)
        exchange = dict(zip(table, OPERANDS, strict=False))
        return elementwise(answer.xreplace(exchange), *table.values())


def scalar_equation(node: Node, unknown: Node, known: Mapping[Node, Interval]) -> ScalarEquation:
    """``node`` as a formula of ``unknown``; ``known`` has the ranges of its operands.

    Raises NotScalar where it is not elementwise in the unknown (it sums over an axis, say) or has more
    than `LARGE` operations.
    """
    if _size(node, {}) > LARGE:
        raise NotScalar("is too long to be studied")
    nodes: list[Node] = []

    def visit(part: Node) -> sp.Expr:
        if part is unknown:
            return UNKNOWN
        match part:
            case Number(value):
                return value
            case Map(formula, args):
                return formula.xreplace({s: visit(a) for s, a in zip(OPERANDS, args, strict=False)})
            case _ if not _holds(part, unknown):
                if part not in nodes:
                    nodes.append(part)
                return _constant(nodes.index(part))
            case _:
                raise NotScalar("is not a formula of each number by itself")

    formula = in_our_functions(visit(node))
    ranges = {_constant(n): known.get(x) or _range(x) for n, x in enumerate(nodes)}
    return ScalarEquation(formula, tuple(nodes), ranges)


def in_our_functions(formula: sp.Expr) -> sp.Expr:
    """The formula with sympy's `Abs` and `sign`, which sympy makes of powers of squares, replaced by the
    functions of `miras_dsl.scalar`."""
    formula = formula.replace(sp.Abs, scalars.absolute).replace(sp.sign, scalars.sign)
    return formula.replace(
        lambda p: (
            isinstance(p, sp.Pow)
            and isinstance(p.base, scalars.absolute)
            and not p.exp.has(UNKNOWN)
        ),
        lambda p: scalars.abs_pow(p.base.args[0], p.exp),
    )


def cheap_to_simplify(formula: sp.Expr) -> bool:
    """Whether a formula is so small that sympy rewrites it in no noticeable time."""
    powers = [p.exp for p in formula.atoms(sp.Pow)]
    small = all(p.is_number and abs(p) <= 4 for p in powers) and len(formula.free_symbols) <= 4
    return small and formula.count_ops() <= 40


def slope_of(formula: sp.Expr) -> sp.Expr:
    """The derivative by the unknown, simplified where that is cheap."""
    slope = in_our_functions(formula.diff(UNKNOWN))
    as_quotient = slope.replace(scalars.hypot_slope, lambda x, c: x / scalars.hypot(x, c))
    if not as_quotient.has(scalars.hypot):
        slope = as_quotient
    if cheap_to_simplify(slope):
        short = sp.cancel(slope)
        slope = short if short.count_ops() <= slope.count_ops() else slope
    return slope


def _constant(number: int) -> sp.Symbol:
    return sp.Symbol(f"c{number}", real=True)


def _holds(node: Node, unknown: Node) -> bool:
    seen: set[Node] = set()
    stack = [node]
    while stack:
        here = stack.pop()
        if here is unknown:
            return True
        if here not in seen:
            seen.add(here)
            stack.extend(here.operands)
    return False


def _size(node: Node, done: dict[Node, int]) -> int:
    """The number of operations of nested maps, written out as one formula."""
    if not isinstance(node, Map):
        return 0
    if node not in done:
        inner = zip(OPERANDS, node.args, strict=False)
        count = sum(_size(arg, done) * int(node.formula.count(slot)) for slot, arg in inner)
        done[node] = int(node.formula.count_ops()) + count
    return done[node]


def _range(node: Node) -> Interval:
    """The range of a node that is in no table: sizes and positions are taken to be between 1 and 64."""
    counts = isinstance(node, AxisSize) or (isinstance(node, Input) and node.role is Role.POSITION)
    return Interval(1.0, 64.0) if counts else ANYWHERE
