"""Which numbers are logarithms of decays, and how they reach the text in double precision."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import sympy as sp

from miras_dsl.codegen.model.inputs import VALID
from miras_dsl.ir import (
    Broadcast,
    Contract,
    Cumsum,
    Input,
    Map,
    Node,
    Reduce,
    Rename,
    Role,
    Shift,
    TakeLast,
)
from miras_dsl.scalar.functions import OPERANDS


def log_decay_nodes(nodes: Iterable[Node], logarithms: Collection[str]) -> set[Node]:
    """The nodes that are sums of logarithms of decays; they are kept in double precision.

    logarithms  names of the inputs that are logarithms of decays

    A decay of many tokens is a difference of two long sums: in single precision it would lose all
    that a gate near 0 has put into them.
    """
    nodes, found = list(nodes), set[Node]()
    summed = {node.operands[0] for node in nodes if isinstance(node, Cumsum | Reduce)}
    for node in nodes:
        match node:
            case Input(name, _, role) if role is Role.GATE and name in logarithms:
                found.add(node)
            case Cumsum(x) | Broadcast(x) | Rename(x) | Shift(x) | TakeLast(x) if x in found:
                found.add(node)
            case Reduce("sum", x, _) if x in found:
                found.add(node)
            case Contract(x, y) if (x in found and y is VALID) or (x is VALID and y in found):
                found.add(node)
            case Map(formula, args) if _is_sum(formula, args, found) and (
                node in summed or any(a in found for a in args)
            ):
                found.add(node)
    return found


def _is_sum(formula: sp.Expr, args: tuple[Node, ...], found: set[Node]) -> bool:
    """Whether a formula adds logarithms and numbers, each of them perhaps at real tokens only."""
    slots = OPERANDS[: len(args)]
    if not args or not all(arg in found or arg is VALID for arg in args):
        return False
    if not formula.is_polynomial(*slots):
        return False
    degrees = sp.Poly(formula, *slots).monoms()
    logs = [n for n, arg in enumerate(args) if arg in found]
    return all(max(powers) <= 1 and sum(powers[n] for n in logs) <= 1 for powers in degrees)
