"""The program of a full chunk: every token is there, so nothing is multiplied by `valid`.

Only the last chunk of a sequence is filled up.  All others can run a shorter program.  For the gated
delta rule, before and after:

    t2 = inverse[i,j](1 + ((eta*valid)[i→j]*exp(t1 - t1[i→j]) [i > j]*sum[key](key * key[i→j])))
    t2 = inverse[i,j](1 + (eta[i→j]*exp(t1 - t1[i→j]) [i > j]*sum[key](key * key[i→j])))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from miras_dsl.codegen.model.inputs import VALID
from miras_dsl.ir import (
    ONE,
    Broadcast,
    Contract,
    ForwardSubstitution,
    Map,
    Mask,
    Node,
    Number,
    Program,
    Reduce,
    Rename,
    TakeLast,
    broadcast,
    postorder,
    substitute,
    with_operands,
)

from .simplify import simplify


def drop_valid(program: Program) -> Program:
    """A chunk program, or its adjoint, for chunks in which `valid` is 1 at every token: the same
    results, without that input."""
    made: dict[Node, Node] = {}
    for node in postorder(root for _, root in program.results):
        if node is VALID:
            made[node] = ONE
        elif all(made[operand] is operand for operand in node.operands):
            made[node] = node
        else:
            # An axis that came from `valid` alone is written out: the node keeps its axes.
            made[node] = broadcast(_rebuilt(node, made), node.axes)
    inputs = tuple(x for x in program.inputs if x is not VALID)
    return simplify(replace(program.with_results(made), inputs=inputs))


def _rebuilt(node: Node, made: Mapping[Node, Node]) -> Node:
    """``node`` on its new operands, of which some may have become numbers."""
    match node:
        case Map() | Contract() | Reduce() | Broadcast() | Rename() | Mask():
            return with_operands(node, made)
        case TakeLast(x) if isinstance(made[x], Number):
            return made[x]
        case ForwardSubstitution(body=body, rows=rows):
            numbers = {hole: made[row] for hole, row in rows if isinstance(made[row], Number)}
            (formula,) = substitute([body], numbers)
            kept = tuple((hole, row) for hole, row in rows if hole not in numbers)
            node = replace(node, body=broadcast(formula, body.axes), rows=kept)
        case _:
            pass
    return with_operands(node, {operand: _with_axes(operand, made) for operand in node.operands})


def _with_axes(operand: Node, made: Mapping[Node, Node]) -> Node:
    """A new operand for an operation along an axis: a number is repeated, so that it has the axis."""
    new = made[operand]
    repeats = isinstance(new, Number) and operand.axes
    return Broadcast(new, operand.axes) if repeats else new
