"""Nested maps as one formula, and whether it is affine in one of its operands."""

from __future__ import annotations

import sympy as sp

from miras_dsl.ir import Map, Node, Number, formula, postorder
from miras_dsl.scalar.functions import SLOTS

from .size_limits import expandable, writable


def flatten(node: Node, keep: Node | None = None) -> tuple[sp.Expr, list[Node]]:
    """A tower of maps as one sympy formula over `SLOTS` and its operands; ``keep`` is never opened."""
    args: list[Node] = []
    symbols: dict[Node, sp.Symbol] = {}

    def visit(part: Node) -> sp.Expr:
        if isinstance(part, Number):
            return part.value
        if isinstance(part, Map) and part is not keep:
            return part.formula.xreplace(
                {s: visit(a) for s, a in zip(SLOTS, part.args, strict=False)}
            )
        if part not in symbols:
            symbols[part] = sp.Symbol(f"_{len(args)}", real=True)
            args.append(part)
        return symbols[part]

    whole = visit(node)
    return whole.xreplace({symbol: SLOTS[args.index(n)] for n, symbol in symbols.items()}), args


def affine_in(node: Node, unknown: Node) -> tuple[Node, Node] | None:
    """``(c, d)`` with ``node = c · unknown + d`` elementwise, or None when it is not of this form (or
    too long to tell)."""
    if not writable(node):
        return None
    whole, args = flatten(node, unknown)
    if unknown not in args:
        return None
    slot = SLOTS[args.index(unknown)]
    others = [arg for arg in args if arg is not unknown]
    if any(unknown in postorder([arg]) for arg in others):
        return None
    slope = whole.diff(slot)
    if not (expandable(slope) and expandable(whole)):
        return None
    slope = sp.expand(slope)
    # A step has slope 0 almost everywhere and is not affine: the rest must be free of the unknown too.
    if slot in slope.free_symbols or slot in sp.expand(whole - slope * slot).free_symbols:
        return None
    nodes = dict(zip(SLOTS, args, strict=False))
    return formula(slope, nodes), formula(whole.xreplace({slot: sp.Integer(0)}), nodes)


def is_product(node: Node) -> bool:
    """Whether a factor is a product of gates, exponentials and numbers: one that has a logarithm."""
    whole, _ = flatten(node)
    return all(
        factor.is_Symbol or factor.is_number or isinstance(factor, sp.exp)
        for factor in sp.Mul.make_args(whole)
    )
