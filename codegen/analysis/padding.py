"""What a tile holds beyond the size of its axes.

Tiles are powers of two.  A sum may run over the lanes that stand for nothing only if they are zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import sympy as sp

from miras_dsl.ir import (
    Axes,
    Axis,
    Broadcast,
    Contract,
    Input,
    Map,
    Node,
    Program,
    Reduce,
    is_zero,
    postorder,
)
from miras_dsl.scalar.functions import OPERANDS

ZERO_LANES, TAME_LANES, WILD_LANES = 0, 1, 2
"""What the lanes beyond an axis' size hold: zeros; finite numbers; anything, NaN too."""

PaddingTable = dict[tuple[Node, Axis], int]


def padding_values(programs: Iterable[Program]) -> PaddingTable:
    """What each node holds in its padded lanes, along each of its axes.

    Inputs are loaded with zeros there, and formulas may turn those into anything.  Carried states
    start with zeros and may lose them, so this is a fixed point.
    """
    programs = list(programs)
    carried: dict[tuple[str, Axis], int] = {}
    while True:
        known: PaddingTable = {}
        for program in programs:
            for node in postorder(node for _, node in program.results):
                for axis in node.axes:
                    known[node, axis] = _lane(node, axis, known, carried)
        worse = dict(carried)
        for program in programs:
            for state, name in program.carried:
                node = program.result(name)
                for axis in state.axes:
                    here = known[node, axis] if axis in node.axes else _flat(node)
                    key = state.name, axis
                    worse[key] = max(worse.get(key, ZERO_LANES), here)
        if worse == carried:
            return known
        carried = worse


def _flat(node: Node) -> int:
    """A result without the axis is spread along it."""
    return ZERO_LANES if is_zero(node) else TAME_LANES


def _lane(
    node: Node, axis: Axis, known: PaddingTable, carried: Mapping[tuple[str, Axis], int]
) -> int:
    def of(operand: Node) -> int:
        return known[operand, axis] if axis in operand.axes else TAME_LANES

    match node:
        case Input(name, _, _):
            return carried.get((name, axis), ZERO_LANES)
        case Broadcast(x, along):
            return TAME_LANES if axis in along else of(x)
        case Contract(left, right, _):
            pair = {of(left), of(right)}
            return WILD_LANES if WILD_LANES in pair else min(pair)
        case Reduce(_, x, _):
            return of(x)
        case Map(formula, args):
            here = [of(a) for a in args]
            if WILD_LANES in here or not _total(formula):
                return WILD_LANES
            zeros = {
                s: sp.Integer(0)
                for s, lane in zip(OPERANDS, here, strict=False)
                if lane == ZERO_LANES
            }
            return ZERO_LANES if formula.xreplace(zeros) == 0 else TAME_LANES
        case _:
            raise AssertionError(f"{type(node).__name__} has no lanes")


def _total(formula: sp.Expr) -> bool:
    """Whether a formula is finite for every finite operand: no division, no logarithm."""
    divides = any(not p.exp.is_Integer or p.exp.is_negative for p in formula.atoms(sp.Pow))
    return not divides and not formula.has(sp.log)


def masked_axes(node: Node, lanes: PaddingTable) -> Axes:
    """The axes of a sum or maximum whose padded lanes must be left out."""

    def of(operand: Node, axis: Axis) -> int:
        return lanes[operand, axis] if axis in operand.axes else TAME_LANES

    match node:
        case Contract(left, right, over):
            pairs = {axis: (of(left, axis), of(right, axis)) for axis in over}
            return tuple(
                axis for axis, pair in pairs.items() if ZERO_LANES not in pair or WILD_LANES in pair
            )
        case Reduce("sum", x, over):
            return tuple(axis for axis in over if of(x, axis) != ZERO_LANES)
        case Reduce(_, _, over):
            return over
        case _:
            return ()
