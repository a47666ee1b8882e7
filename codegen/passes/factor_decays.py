"""How far the decays of a chunk reach, and the one product that this allows.

A product with a decay per channel holds `e^(a_i - b_j)`.  Where the ranges of the gates keep both
sums small over a whole chunk, `e^a` and `e^-b` are ordinary numbers, and one matrix product of
scaled operands does it, masked afterwards; they are the same for every product of the chunk.  The
exponents count from the chunk's start, never from a later token.  Where a gate may forget
everything, the product keeps its own operation, which halves the triangle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isinf, isnan

import sympy as sp

from miras_dsl.codegen.analysis.log_precision import log_decay_nodes
from miras_dsl.codegen.model.inputs import VALID
from miras_dsl.codegen.model.types import MemoryInput
from miras_dsl.ir import (
    Broadcast,
    Cumsum,
    GatedApply,
    GatedContract,
    GatedSpan,
    I,
    Input,
    Map,
    Mask,
    Node,
    Number,
    Program,
    Reduce,
    Rename,
    Shift,
    TakeLast,
    Triangle,
    contract,
    elementwise,
    postorder,
    reduce_sum,
    rename,
    with_operands,
)
from miras_dsl.ir import formula as as_node
from miras_dsl.scalar.functions import OPERANDS
from miras_dsl.scalar.interval import ANYWHERE, Interval

from .simplify import is_zero_outside

LIMIT = 60.0
"""Exponents up to this one leave float32 room for what they multiply: e^60 is 1e26 of 3e38."""


@dataclass(frozen=True, slots=True)
class DecayRange:
    """The decays of one input of logarithms, over a chunk.

    feed    the input, and the weight whose rows it steers if it steers one
    reach   the largest size of a sum of its logarithms, inf if nothing bounds it
    """

    feed: MemoryInput
    reach: float

    @property
    def factor(self) -> bool:
        """Whether products with this decay are one product each."""
        return self.reach < LIMIT

    def __str__(self) -> str:
        of = f"{self.feed.of} of {self.feed.weight}" if self.feed.weight else self.feed.of
        if isinf(self.reach):
            return f"decays by {of} have no bound over a chunk: products halve the triangle"
        how = "one product each" if self.factor else "products halve the triangle"
        return f"decays by {of} stay within e^{self.reach:.3g} over a chunk: {how}"


def decay_ranges(
    program: Program, feeds: Iterable[MemoryInput], tokens: int
) -> tuple[DecayRange, ...]:
    """The decays that products of this program hold, each with its reach over ``tokens`` tokens."""
    given = {feed.name: feed for feed in feeds}
    known = {name: feed.range for name, feed in given.items() if feed.log}
    found: dict[str, float] = {}
    for node in postorder(root for _, root in program.results):
        if isinstance(node, GatedContract | GatedApply):
            reach = max_abs_exponent(node.a, node.b, known, tokens)
            for x in postorder([node.a, node.b]):
                if isinstance(x, Input) and x.name in known:
                    found[x.name] = max(found.get(x.name, 0.0), reach)
    return tuple(DecayRange(given[name], reach) for name, reach in found.items())


def factor_decay_products(program: Program, known: Mapping[str, Interval], tokens: int) -> Program:
    """The program with every product whose decays stay near 1 as a product of scaled operands.

    known  where each input of logarithms lies
    """
    order = postorder(root for _, root in program.results)
    logs = log_decay_nodes(order, known)
    made: dict[Node, Node] = {}
    for node in order:
        here = with_operands(node, made) if node.operands else node
        match here:
            case GatedContract(x, y, a, b, over, triangle) if _near(a, b, known, tokens):
                score = contract(x * _grown(a), y * _undone(b), (over,))
                here = _lower(score, triangle)
            case GatedApply(a=a, b=b) if _near(a, b, known, tokens):
                here = _factored(here)
            case GatedSpan(a=a, b=b) if _near(a, b, known, tokens):
                here = _difference(here)
            case Map(formula, (x,)) if formula == sp.exp(OPERANDS[0]) and x in logs:
                here = _parted(here, x, known, tokens)
            case Map(formula, args) if not isinstance(formula, sp.exp):
                here = _shared(formula, args, logs, known, tokens)
        made[node] = here
    return program.with_results(made)


def _factored(node: GatedApply) -> Node:
    m, y, a, b, triangle, over = node.m, node.y, node.a, node.b, node.triangle, node.over
    inner, outer = (_undone(b), _grown(a)) if over == triangle.col else (_grown(a), _undone(b))
    return contract(_lower(m, triangle), y * inner, (over,)) * outer


def _difference(node: GatedSpan) -> Node:
    """Pairs that span a token: those that end at it or later, without those that begin there.

    Where no decay is near 0 the difference keeps its digits, and its parts are there already.
    """
    m, x, y, a, b, triangle = node.m, node.x, node.y, node.a, node.b, node.triangle
    row, col = triangle.row, triangle.col
    ending = x * _factored(GatedApply(m, y, a, b, node.channel, triangle, col))
    begun = rename(y * _factored(GatedApply(m, x, a, b, node.channel, triangle, row)), {col: row})
    spanning = Cumsum(ending - begun, row, True)
    return spanning if node.inclusive else spanning - ending


def _shared(
    formula: sp.Expr,
    args: tuple[Node, ...],
    logs: set[Node],
    known: Mapping[str, Interval],
    tokens: int,
) -> Node:
    """A map whose exponentials of logarithms are nodes: computed once, whoever uses them."""
    nodes = dict(zip(OPERANDS, args, strict=False))
    held: dict[sp.Basic, Node] = {**nodes}
    exchange: dict[sp.Basic, sp.Symbol] = {}
    for part in sorted(formula.atoms(sp.exp), key=str):
        if all(held.get(symbol) in logs for symbol in part.free_symbols):
            made = as_node(part, nodes)
            exponent = held.get(part.args[0])
            if exponent is not None:
                made = _parted(made, exponent, known, tokens)
            exchange[part] = OPERANDS[len(nodes)]
            nodes[exchange[part]] = made
    changed = formula.xreplace(exchange)
    assert isinstance(changed, sp.Expr)
    return elementwise(changed, *nodes.values())


def _parted(whole: Node, exponent: Node, known: Mapping[str, Interval], tokens: int) -> Node:
    """`e^(x - y)` as a product, where both stay small and x is one for the whole chunk.

    What is left at the chunk's end is such a difference: of the whole sum and of that to a token.
    """
    match exponent:
        case Map(formula, (x, y)) if formula == OPERANDS[0] - OPERANDS[1]:
            pass
        case Map(formula, (y, x)) if formula == OPERANDS[1] - OPERANDS[0]:
            pass
        case Shift(Cumsum(log, axis, True), _, -1):
            x, y = reduce_sum(log, (axis,)), Cumsum(log, axis)
        case _:
            return whole
    apart = I not in x.axes and I in y.axes and _near(x, y, known, tokens)
    return _grown(x) * _undone(y) if apart else whole


def _near(a: Node, b: Node, known: Mapping[str, Interval], tokens: int) -> bool:
    return max_abs_exponent(a, b, known, tokens) < LIMIT


def _grown(a: Node) -> Node:
    return _exponential(sp.exp(OPERANDS[0]), a)


def _undone(b: Node) -> Node:
    return _exponential(sp.exp(-OPERANDS[0]), b)


def _exponential(formula: sp.Expr, x: Node) -> Node:
    """Names of axes go outside: one array, however its tokens are called."""
    if isinstance(x, Rename):
        return rename(_exponential(formula, x.x), dict(x.names))
    return elementwise(formula, x)


def _lower(x: Node, triangle: Triangle) -> Node:
    """``x`` on the triangle; itself, if it is 0 elsewhere already."""
    return x if is_zero_outside(x, triangle) else Mask(x, triangle)


def max_abs_exponent(a: Node, b: Node, known: Mapping[str, Interval], tokens: int) -> float:
    """The largest size of ``a``, of ``b``, and of their difference above the triangle."""
    lows, highs = zip(*(_ends(x, known, tokens) for x in (a, b)), strict=True)
    return max(highs[0] - lows[1], *(abs(end) for end in (*lows, *highs)))


def _ends(root: Node, known: Mapping[str, Interval], tokens: int) -> tuple[float, float]:
    """Where a sum of logarithms lies, by interval arithmetic."""
    found: dict[Node, Interval] = {}
    for node in postorder([root]):
        match node:
            case Number(value):
                found[node] = Interval(float(value), float(value))
            case Input(name) if name in known:
                found[node] = known[name]
            case Broadcast(x) | Rename(x) | TakeLast(x):
                found[node] = found[x]
            case Shift(x):
                found[node] = _with_zero(found[x], 1)
            case Cumsum(x) | Reduce("sum", x, _):
                found[node] = _with_zero(found[x], tokens)
            case Map(formula, args):
                found[node] = _linear(formula, args, found)
            case _:
                found[node] = Interval(0.0, 1.0) if node is VALID else ANYWHERE
    return found[root].low, found[root].high


def _with_zero(x: Interval, times: int) -> Interval:
    return Interval(times * min(x.low, 0.0), times * max(x.high, 0.0))


def _linear(formula: sp.Expr, args: tuple[Node, ...], found: Mapping[Node, Interval]) -> Interval:
    """A sum of terms, each a number times an operand, which `VALID` may multiply."""
    nodes: dict[sp.Basic, Node] = dict(zip(OPERANDS, args, strict=False))
    low = high = 0.0
    for term in sp.Add.make_args(sp.expand(formula)):
        number, rest = term.as_coeff_Mul()
        factors = sp.Mul.make_args(rest)
        others = [nodes[f] for f in factors if f in nodes and nodes[f] is not VALID]
        if not all(f in nodes for f in factors) or len(others) > 1:
            return ANYWHERE
        x = found[others[0]] if others else Interval(1.0, 1.0)
        x = _with_zero(x, 1) if len(factors) > len(others) else x
        ends = sorted(float(number) * end for end in (x.low, x.high))
        low, high = low + ends[0], high + ends[1]
    return ANYWHERE if isnan(low) or isnan(high) else Interval(low, high)
