"""Formulas, sums, contractions and renamings of nodes, in normal form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import sympy as sp

from miras_dsl.scalar.functions import OPERANDS

from .axes import Axes, Axis, ordered
from .nodes import (
    ZERO,
    AxisSize,
    Broadcast,
    Contract,
    Map,
    Node,
    Number,
    Reduce,
    Rename,
    broadcast,
    elementwise,
)


def is_zero(node: Node) -> bool:
    """Whether a node is the number 0 (a number broadcasts to any axes)."""
    return isinstance(node, Number) and node.value == 0


def formula(expr: sp.Expr, nodes: Mapping[sp.Symbol, Node]) -> Node:
    """The node of a sympy formula over symbols; ``nodes`` says which node each symbol stands for."""
    used = [slot for slot in nodes if slot in expr.free_symbols]
    renamed = expr.xreplace(dict(zip(used, OPERANDS, strict=False)))
    return elementwise(renamed, *(nodes[slot] for slot in used))


def reduce_sum(x: Node, over: Iterable[Axis]) -> Node:
    """The sum of ``x`` over axes; summing over an axis that ``x`` lacks multiplies by its size."""
    axes = ordered(over)
    if is_zero(x) or not axes:
        return x
    if isinstance(x, Broadcast):
        kept = tuple(a for a in x.along if a not in axes)
        result = reduce_sum(x.x, [a for a in axes if a in x.x.axes])
        for axis in axes:
            if axis in x.along:
                result = result * AxisSize(axis)
        return broadcast(result, kept)
    inside = ordered(set(axes) & set(x.axes))
    result = _sum(x, inside) if inside else x
    for axis in axes:
        if axis not in x.axes:
            result = result * AxisSize(axis)
    return result


def _sum(x: Node, over: Axes) -> Node:
    """The sum of ``x`` over axes that it has.  If ``x`` is a product, factors without these axes are
    taken out of the sum, and several factors with them become a contraction."""
    if not isinstance(x, Map):
        return Reduce("sum", x, over)
    number, factors = x.formula.as_coeff_Mul()
    slots = factors.args if isinstance(factors, sp.Mul) else (factors,)
    nodes = dict(zip(OPERANDS, x.args, strict=False))
    if not all(slot in nodes for slot in slots):
        return Reduce("sum", x, over)
    inside = [nodes[slot] for slot in slots if set(nodes[slot].axes) & set(over)]
    outside = [nodes[slot] for slot in slots if not set(nodes[slot].axes) & set(over)]
    *first, last = inside
    if first:
        left = elementwise(sp.Mul(*OPERANDS[: len(first)]), *first)
        summed = contract(left, last, over)
    else:
        summed = reduce_sum(last, over) if last is not x else Reduce("sum", x, over)
    for factor in outside:
        summed = summed * factor
    return elementwise(number * OPERANDS[0], summed)


def reduce_mean(x: Node, over: Axes) -> Node:
    """The mean of ``x`` over axes."""
    result = reduce_sum(x, over)
    for axis in over:
        result = elementwise(OPERANDS[0] / OPERANDS[1], result, AxisSize(axis))
    return result


def contract(left: Node, right: Node, over: Iterable[Axis]) -> Node:
    """Sum over ``over`` of ``left * right``; an axis that only one operand has is summed there first."""
    if is_zero(left) or is_zero(right):
        return ZERO
    if isinstance(left, Broadcast) and set(left.along) <= set(right.axes):
        left = left.x
    if isinstance(right, Broadcast) and set(right.along) <= set(left.axes):
        right = right.x
    axes = set(over)
    has = set(left.axes)
    shared = axes & has & set(right.axes)
    left = reduce_sum(left, axes & has - shared)
    right = reduce_sum(right, axes - has)
    return Contract(left, right, ordered(shared)) if shared else left * right


def rename(x: Node, names: Mapping[Axis, Axis]) -> Node:
    """``x`` with other axis names (old -> new); axes that ``x`` lacks are ignored."""
    here = tuple((a, names[a]) for a in x.axes if names.get(a, a) != a)
    if not here:
        return x
    if isinstance(x, Rename):
        back = {new: old for old, new in x.names}
        merged = {old: dict(here).get(new, new) for old, new in x.names}
        merged |= {a: b for a, b in here if a not in back}
        return rename(x.x, {a: b for a, b in merged.items() if a != b})
    return Rename(x, here)
