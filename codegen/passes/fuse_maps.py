"""Elementwise formulas that only one other formula reads are written into it.

What is left is one statement for each node: a printer writes no formula of its own making.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import sympy as sp

from miras_dsl.ir import Map, Node, elementwise, with_operands
from miras_dsl.scalar.functions import OPERANDS

MOST_OPERATIONS = 24
"""Operations of a formula beyond which it stays a statement of its own."""
MOST_OPERANDS = 5


def fusible(
    order: Sequence[Node], kept: Collection[Node], users: Mapping[Node, Sequence[Node]]
) -> set[Node]:
    """The maps of ``order`` that one other map of the same axes reads, once, and nobody else.

    kept   what must stay a value: results, and what other parts of the program read
    users  who reads each node, in the whole program
    """
    found: set[Node] = set()
    operands: dict[Node, int] = {}
    for node in order:
        operands[node] = sum(operands.get(x, 1) if x in found else 1 for x in node.operands)
        using = users.get(node, ())
        if not isinstance(node, Map) or node in kept or len(using) != 1:
            continue
        (user,) = using
        if not isinstance(user, Map) or node not in user.args or user.axes != node.axes:
            continue
        slot = OPERANDS[user.args.index(node)]
        if sum(part == slot for part in sp.preorder_traversal(user.formula)) > 1:
            continue
        if node.formula.count_ops() < MOST_OPERATIONS and operands[node] <= MOST_OPERANDS:
            found.add(node)
    return found


def fuse(order: Iterable[Node], inner: Collection[Node]) -> dict[Node, Node]:
    """Every node of ``order`` with the maps of ``inner`` written into their users."""
    made: dict[Node, Node] = {}
    for node in order:
        if isinstance(node, Map):
            formula, args = _merged(node, inner)
            here = elementwise(formula, *(made.get(arg, arg) for arg in args))
        else:
            here = with_operands(node, {o: made.get(o, o) for o in node.operands})
        made[node] = here
    return made


def _merged(node: Map, inner: Collection[Node]) -> tuple[sp.Expr, list[Node]]:
    """The formula of a map with those of ``inner`` written into it, over the nodes that are left."""
    args: list[Node] = []
    symbols: dict[Node, sp.Symbol] = {}

    def visit(part: Map) -> sp.Expr:
        exchange: dict[sp.Symbol, sp.Expr] = {}
        for slot, arg in zip(OPERANDS, part.args, strict=False):
            if arg in inner and isinstance(arg, Map):
                exchange[slot] = visit(arg)
                continue
            if arg not in symbols:
                symbols[arg] = sp.Symbol(f"_{len(args)}", real=True)
                args.append(arg)
            exchange[slot] = symbols[arg]
        return part.formula.xreplace(exchange)

    formula = visit(node)
    return formula.xreplace({s: OPERANDS[args.index(n)] for n, s in symbols.items()}), args
