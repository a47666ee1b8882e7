"""Algebraic simplification of a program: numbers move outwards, masks that change nothing go, sums of
sums are one."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import sympy as sp

from miras_dsl.ir import (
    Broadcast,
    Contract,
    Cumsum,
    Decay,
    GatedApply,
    GatedContract,
    GatedSpan,
    Join,
    Map,
    Mask,
    Node,
    PlaceLast,
    Program,
    Reduce,
    Rename,
    Shift,
    Split,
    TakeLast,
    Triangle,
    broadcast,
    elementwise,
    ordered,
    postorder,
    with_operands,
)
from miras_dsl.scalar.functions import OPERANDS


def simplify(program: Program) -> Program:
    """The same program with numeric factors outside linear operations, without idle masks, and without
    sums of sums or maxima of maxima; what something else reads stays a value of its own."""
    made: dict[Node, Node] = {}
    for node in postorder(root for _, root in program.results):
        made[node] = _simplified(with_operands(node, made) if node.operands else node)
    return _with_merged_reductions(program.with_results(made))


def _with_merged_reductions(program: Program) -> Program:
    nodes = postorder(root for _, root in program.results)
    users = Counter(operand for node in nodes for operand in node.operands)
    users.update(root for _, root in program.results)
    made: dict[Node, Node] = {}
    for node in nodes:
        new = with_operands(node, made) if node.operands else node
        match node, new:
            case Reduce(x=read), Reduce(kind, Reduce(inner, x, own), over) if (
                kind == inner and users[read] == 1
            ):
                new = Reduce(kind, x, ordered((*own, *over)))
            case _:
                pass
        made[node] = new
    return program.with_results(made)


def _simplified(node: Node) -> Node:
    match node:
        case Mask(x, triangle) if is_zero_outside(x, triangle):
            return broadcast(x, node.axes)
        case Mask(Mask(x, own), triangle) if triangle.within(own):
            return _simplified(Mask(x, triangle))
        case Map(formula, args):
            return _merged(formula, args)
        case Contract() | Mask() | Cumsum() | Shift() | TakeLast() | PlaceLast() | Rename():
            return _number_outside(node)
        case Split() | Join():
            return _number_outside(node)
        case Reduce("sum"):
            return _number_outside(node)
        case GatedContract(x, y):
            (one, x), (other, y) = _scaled(x), _scaled(y)
            return elementwise(one * other * OPERANDS[0], replace(node, x=x, y=y))
        case GatedApply(m, y):
            (one, m), (other, y) = _scaled(m), _scaled(y)
            return elementwise(one * other * OPERANDS[0], replace(node, m=m, y=y))
        case GatedSpan(m, x, y):
            (one, m), (other, x), (third, y) = _scaled(m), _scaled(x), _scaled(y)
            return elementwise(one * other * third * OPERANDS[0], replace(node, m=m, x=x, y=y))
        case _:
            return node


def _merged(formula: sp.Expr, args: tuple[Node, ...]) -> Node:
    """A map whose operands are multiples of nodes: on these nodes, with the numbers in its formula."""
    numbers, nodes = zip(*map(_scaled, args), strict=True)
    if all(number == 1 for number in numbers):
        return elementwise(formula, *args)
    factors = {s: n * s for s, n in zip(OPERANDS, numbers, strict=False)}
    changed = formula.xreplace(factors)
    assert isinstance(changed, sp.Expr)
    return elementwise(changed, *nodes)


def _number_outside(node: Node) -> Node:
    """A linear operation on a multiple of a node: the multiple of the operation."""
    total: sp.Expr = sp.Integer(1)
    bare: dict[Node, Node] = {}
    for operand in node.operands:
        number, bare[operand] = _scaled(operand)
        total = total * number
    if total == 1 and all(x is y for x, y in bare.items()):
        return node
    return elementwise(total * OPERANDS[0], with_operands(node, bare))


def _scaled(x: Node) -> tuple[sp.Expr, Node]:
    """A rational number and the node that it multiplies; 1 and ``x`` itself otherwise."""
    if isinstance(x, Map) and len(x.args) == 1:
        number, rest = x.formula.as_coeff_Mul(rational=True)
        if rest == OPERANDS[0]:
            return number, x.args[0]
    return sp.Integer(1), x


def is_zero_outside(x: Node, triangle: Triangle) -> bool:
    """Whether ``x`` is known to be 0 outside a triangle."""
    match x:
        case Mask(_, own) | Decay(_, _, own) | GatedContract(_, _, _, _, _, own):
            return own.within(triangle)
        case Broadcast(inner):
            return is_zero_outside(inner, triangle)
        case Map(formula, args):
            factors = sp.Mul.make_args(formula)
            held = zip(OPERANDS, args, strict=False)
            return any(slot in factors and is_zero_outside(arg, triangle) for slot, arg in held)
        case _:
            return False
