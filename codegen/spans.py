"""How far the decays of a chunk reach, and the one product that this allows.

A product with a decay per channel holds `e^(a_i - b_j)`.  Where the ranges of the gates keep both sums
small over a whole chunk, `e^a` and `e^-b` are ordinary numbers, and one matrix product of scaled
operands does it, masked afterwards; they are the same for every product of the chunk.  The exponents
count from the chunk's start, never from a later token.  Where a gate may forget everything, the
product keeps its own operation, which halves the triangle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf, isinf, isnan, log

import sympy as sp

from miras_dsl.ir import (
    Cumsum,
    Decay,
    GatedApply,
    GatedContract,
    Input,
    Last,
    Map,
    Mask,
    Node,
    Number,
    Program,
    Reduce,
    Rename,
    Shift,
    Spread,
    contract,
    pointwise,
    postorder,
    rebuild,
)
from miras_dsl.model import Feed
from miras_dsl.scalars import SLOTS
from miras_dsl.spec import Interval, MemorySpec

from .paths import VALID

LIMIT = 60.0
"""Exponents up to this one leave float32 room for what they multiply: e^60 is 1e26 of 3e38."""

NOWHERE_NEAR = Interval()


@dataclass(frozen=True, slots=True)
class Span:
    """The decays of one input of logarithms, over a chunk.

    feed    the input, and the weight whose rows it steers if it steers one
    reach   the largest size of a sum of its logarithms, inf if nothing bounds it
    factor  whether products with this decay are one product each
    """

    feed: Feed
    reach: float

    @property
    def factor(self) -> bool:
        return self.reach < LIMIT

    def __str__(self) -> str:
        of = f"{self.feed.of} of {self.feed.weight}" if self.feed.weight else self.feed.of
        if isinf(self.reach):
            return f"decays by {of} have no bound over a chunk: products halve the triangle"
        how = "one product each" if self.factor else "products halve the triangle"
        return f"decays by {of} stay within e^{self.reach:.3g} over a chunk: {how}"


def logarithms_of(spec: MemorySpec, feeds: Iterable[Feed]) -> dict[str, Interval]:
    """Where each input of logarithms lies, by name, from the range of its gate."""
    gates = {gate.name: gate.range for gate in spec.gates}
    return {feed.name: _log(gates[feed.of]) for feed in feeds if feed.log and feed.of in gates}


def spans(program: Program, spec: MemorySpec, feeds: Iterable[Feed], tokens: int) -> tuple[Span, ...]:
    """The decays that products of this program hold, each with its reach over ``tokens`` tokens."""
    given = {feed.name: feed for feed in feeds}
    known = logarithms_of(spec, given.values())
    found: dict[str, float] = {}
    for node in postorder(root for _, root in program.results):
        if isinstance(node, GatedContract | GatedApply):
            reach = _reach(node.a, node.b, known, tokens)
            for x in postorder([node.a, node.b]):
                if isinstance(x, Input) and x.name in known:
                    found[x.name] = max(found.get(x.name, 0.0), reach)
    return tuple(Span(given[name], reach) for name, reach in found.items())


def factored(program: Program, known: Mapping[str, Interval], tokens: int) -> Program:
    """The program with every product whose decays stay near 1 as a product of scaled operands.

    known  where each input of logarithms lies
    """
    roots = [root for _, root in program.results]
    made: dict[Node, Node] = {}
    for node in postorder(roots):
        here = rebuild(node, made) if node.operands else node
        match here:
            case GatedContract(x, y, a, b, over, row, col, strict) if _near(a, b, known, tokens):
                score = contract(x * _grown(a), y * _undone(b), (over,))
                here = _lower(score, row, col, strict)
            case GatedApply(m, y, a, b, _, row, col, strict, over) if _near(a, b, known, tokens):
                inner, outer = (_undone(b), _grown(a)) if over == col else (_grown(a), _undone(b))
                here = contract(_lower(m, row, col, strict), y * inner, (over,)) * outer
        made[node] = here
    results = tuple((name, made[root]) for name, root in program.results)
    return Program(program.inputs, results, program.carried, program.reverse)


def _near(a: Node, b: Node, known: Mapping[str, Interval], tokens: int) -> bool:
    return _reach(a, b, known, tokens) < LIMIT


def _grown(a: Node) -> Node:
    return pointwise(sp.exp(SLOTS[0]), a)


def _undone(b: Node) -> Node:
    return pointwise(sp.exp(-SLOTS[0]), b)


def _lower(x: Node, row: str, col: str, strict: bool) -> Node:
    """``x`` on the triangle; itself, if it is 0 elsewhere already."""
    return x if _is_lower(x, row, col, strict) else Mask(x, row, col, strict)


def _is_lower(x: Node, row: str, col: str, strict: bool) -> bool:
    match x:
        case Mask(_, r, c, s) | Decay(_, _, r, c, s):
            return (r, c) == (row, col) and (s or not strict)
        case GatedContract(_, _, _, _, _, r, c, s):
            return (r, c) == (row, col) and (s or not strict)
        case Spread(inner):
            return _is_lower(inner, row, col, strict)
        case Map(formula, args):
            factors = sp.Mul.make_args(formula)
            held = zip(SLOTS, args, strict=False)
            return any(slot in factors and _is_lower(arg, row, col, strict) for slot, arg in held)
        case _:
            return False


def _reach(a: Node, b: Node, known: Mapping[str, Interval], tokens: int) -> float:
    """The largest size of ``a``, of ``b``, and of what may stand between them above the triangle."""
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
            case Spread(x) | Rename(x) | Last(x):
                found[node] = found[x]
            case Shift(x):
                found[node] = _with_zero(found[x], 1)
            case Cumsum(x) | Reduce("sum", x, _):
                found[node] = _with_zero(found[x], tokens)
            case Map(formula, args):
                found[node] = _linear(formula, args, found)
            case _:
                found[node] = Interval(0.0, 1.0) if node is VALID else NOWHERE_NEAR
    return found[root].low, found[root].high


def _with_zero(x: Interval, times: int) -> Interval:
    return Interval(times * min(x.low, 0.0), times * max(x.high, 0.0))


def _linear(formula: sp.Expr, args: tuple[Node, ...], found: Mapping[Node, Interval]) -> Interval:
    """A sum of terms, each a number times an operand, which `VALID` may multiply."""
    nodes = dict(zip(SLOTS, args, strict=False))
    low = high = 0.0
    for term in sp.Add.make_args(sp.expand(formula)):
        number, rest = term.as_coeff_Mul()
        held = [nodes[slot] for slot in rest.free_symbols]
        others = [x for x in held if x is not VALID]
        if not rest.is_Symbol and sp.Mul(*rest.free_symbols) != rest or len(others) > 1:
            return NOWHERE_NEAR
        x = found[others[0]] if others else Interval(1.0, 1.0)
        x = _with_zero(x, 1) if VALID in held else x
        ends = sorted(float(number) * end for end in (x.low, x.high))
        low, high = low + ends[0], high + ends[1]
    return NOWHERE_NEAR if isnan(low) or isnan(high) else Interval(low, high)


def _log(x: Interval) -> Interval:
    return Interval(log(x.low) if x.low > 0 else -inf, log(x.high) if 0 < x.high < inf else inf)
