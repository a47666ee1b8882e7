"""Which rules have token-by-token kernels, and whether programs can share out the value axis there."""

from __future__ import annotations

from collections.abc import Iterable

import sympy as sp

from miras_dsl.codegen.derive.update import UpdateRule
from miras_dsl.ir import (
    KEY,
    VALUE,
    AxisSize,
    Broadcast,
    Contract,
    Input,
    Map,
    Node,
    Number,
    Program,
    Reduce,
    Rename,
    is_zero,
    postorder,
)
from miras_dsl.scalar.functions import OPERANDS
from miras_dsl.scalar.monotone_inverse import monotone_inverse

AXES = frozenset({VALUE, KEY})
"""The axes of a tile: its rows and its columns."""


def unsupported_reason(rule: UpdateRule) -> str:
    """Why a rule has no kernels of this kind; empty when it has."""
    results = (*rule.program.results, *rule.block_start, *rule.block_end)
    nodes = postorder([node for _, node in results])
    beyond = {str(axis) for node in nodes for axis in node.axes if axis not in AXES}
    if beyond:
        return f"it has the axis {min(beyond)}, and a tile has only value and key"
    for node in nodes:
        if isinstance(node, Rename):
            return "it moves a vector from one axis to another"
        if isinstance(node, Map) and node.formula.has(monotone_inverse):
            return "its link is found by Newton steps"
        if not isinstance(node, Input | Number | AxisSize | Map | Contract | Reduce | Broadcast):
            return f"one token needs a {type(node).__name__}, which acts on chunks"
    return ""


def value_axis_obstacle(
    forward: Iterable[Program], backward: Iterable[Program], states: Iterable[Input]
) -> str:
    """What keeps the value axis in one program; empty where blocks of it need not know each other.

    forward, backward  what happens to a token, and at the edges of a block, and the adjoints of these
    """
    for program in forward:
        for node in postorder(node for _, node in program.results):
            match node:
                case Contract(_, _, over) | Reduce(_, _, over) if VALUE in over:
                    return "the rule sums over the value axis"
    return _gradient_obstacle(backward, states)


def _gradient_obstacle(programs: Iterable[Program], states: Iterable[Input]) -> str:
    """Why gradients without a value axis are not sums over blocks of values, if they are not.

    The adjoint is linear in its cotangents, so a sum over the value axis that is left as one share
    for each block may pass through linear steps only, and may not come back to the value axis.
    """
    carried = {f"d_{s.name}" for s in states if VALUE not in s.axes}
    for program in programs:
        share: dict[Node, bool] = {}
        for node in postorder(node for _, node in program.results):
            share[node] = isinstance(node, Input) and node.name in carried
            match node:
                case Contract(left, right, over):
                    if share[left] and share[right]:
                        return "the gradient is not linear in a sum over values"
                    share[node] = share[left] or share[right] or VALUE in over
                case Reduce(kind, x, over):
                    share[node] = share[x] or VALUE in over
                    if share[x] and kind != "sum":
                        return "the gradient takes a maximum of sums over values"
                case Broadcast(x, _):
                    share[node] = share[x]
                case Map(formula, args):
                    used = {s for s, a in zip(OPERANDS, args, strict=False) if share[a]}
                    if used and not _linear(formula, used):
                        return "the gradient is not linear in a sum over values"
                    share[node] = bool(used)
            if share[node] and VALUE in node.axes:
                return "the gradient spreads a sum over values again"
        for name, node in program.results:
            x = next(x for x in program.inputs if f"d_{x.name}" == name)
            if VALUE not in x.axes and not share[node] and not is_zero(node):
                return "a gradient does not come from the value axis"
    return ""


def _linear(formula: sp.Expr, used: set[sp.Symbol]) -> bool:
    """Whether a formula is linear in the used symbols together, and 0 where they are."""
    if formula.xreplace(dict.fromkeys(used, sp.Integer(0))) != 0:
        return False
    return all(not formula.diff(symbol).free_symbols & used for symbol in used)
