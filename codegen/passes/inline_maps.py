"""Nested maps as one formula, and whether it is affine in one of its operands."""

from __future__ import annotations

import sympy as sp

from miras_dsl.ir import Map, Node, Number, formula, postorder
from miras_dsl.scalar.functions import OPERANDS

from .size_limits import MOST_TERMS, MOST_TERMS_OF_FUNCTIONS, can_expand, can_inline


def inline(node: Node, keep: Node | None = None) -> tuple[sp.Expr, list[Node]]:
    """A tower of maps as one sympy formula over `SLOTS` and its operands; ``keep`` is never opened."""
    args: list[Node] = []
    symbols: dict[Node, sp.Symbol] = {}

    def visit(part: Node) -> sp.Expr:
        if isinstance(part, Number):
            return part.value
        if isinstance(part, Map) and part is not keep:
            return part.formula.xreplace(
                {s: visit(a) for s, a in zip(OPERANDS, part.args, strict=False)}
            )
        if part not in symbols:
            symbols[part] = sp.Symbol(f"_{len(args)}", real=True)
            args.append(part)
        return symbols[part]

    whole = visit(node)
    return whole.xreplace({symbol: OPERANDS[args.index(n)] for n, symbol in symbols.items()}), args


def affine_coefficients(node: Node, unknown: Node) -> tuple[Node, Node] | None:
    """``(c, d)`` with ``node = c · unknown + d`` elementwise, or None when it is not of this form (or
    too long to tell)."""
    if not can_inline(node):
        return None
    whole, args = inline(node, unknown)
    if unknown not in args:
        return None
    slot = OPERANDS[args.index(unknown)]
    others = [arg for arg in args if arg is not unknown]
    if any(unknown in postorder([arg]) for arg in others):
        return None
    slope = whole.diff(slot)
    curved = any(slot in part.free_symbols for part in slope.atoms(sp.Function))
    most = MOST_TERMS_OF_FUNCTIONS if curved else MOST_TERMS
    if not (can_expand(slope, most) and can_expand(whole)):
        return None
    slope = sp.expand(slope)
    # A step has slope 0 almost everywhere and is not affine: the rest must be free of the unknown too.
    if slot in slope.free_symbols or slot in sp.expand(whole - slope * slot).free_symbols:
        return None
    nodes = dict(zip(OPERANDS, args, strict=False))
    return formula(slope, nodes), formula(whole.xreplace({slot: sp.Integer(0)}), nodes)


def has_logarithm(node: Node) -> bool:
    """Whether a factor is a product of gates, exponentials and numbers: one that has a logarithm."""
    whole, _ = inline(node)
    return all(
        factor.is_Symbol or factor.is_number or isinstance(factor, sp.exp)
        for factor in sp.Mul.make_args(whole)
    )
