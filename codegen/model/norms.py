"""Norms of numbers of any size, also where a formula writes them by hand."""

from __future__ import annotations

import sympy as sp

from miras_dsl.ir import Axes, AxisSize, Contract, Map, Node, Reduce, elementwise, reduce_sum
from miras_dsl.scalar import functions as scalars
from miras_dsl.scalar.functions import OPERANDS
from miras_dsl.scalar.norms import fixed, norm_root, share_power

X, Y = OPERANDS[:2]
ZERO, HALF = sp.Integer(0), sp.Rational(1, 2)
SMALLEST = sp.Float("1e-37")
"""Numbers up to this count as 0 in the scale of a norm: single precision has no reciprocal of less."""


def norm(x: Node, axes: Axes, p: object, more: sp.Expr = ZERO) -> Node:
    """The p-norm over axes, of numbers of any size: they are divided by the largest of them first, so
    that neither their powers nor those of its derivatives leave the type.

    more  a number that is added to the sum of powers, not negative: `sqrt(1 + sum(r^2))`
    """
    exponent = _number(p)
    inside = tuple(axis for axis in axes if axis in x.axes)
    size = elementwise(scalars.absolute(X), x)
    largest = Reduce("max", size, inside) if inside else size
    least = more ** (1 / exponent)
    scale = scalars.where(scalars.gt0(X - SMALLEST), X, sp.Integer(1))
    scale = elementwise(fixed(scalars.maximum(X, least) if more else scale), largest)
    shares = reduce_sum(elementwise(share_power(X, Y, exponent), x, scale), axes)
    if more:
        shares = shares + elementwise(share_power(least, X, exponent), scale)
    return elementwise(norm_root(X, Y, 1 / exponent, sp.Integer(1)), shares, scale)


def unscaled_norm(x: Node, axes: Axes, p: object) -> Node:
    """The p-norm of numbers whose powers neither overflow nor vanish."""
    exponent = _number(p)
    if exponent == 2:
        return elementwise(scalars.sqrt(X), reduce_sum(x * x, axes))
    powers = reduce_sum(elementwise(scalars.abs_pow(X, exponent), x), axes)
    return elementwise(scalars.abs_pow(X, 1 / exponent), powers)


def _number(p: object) -> sp.Expr:
    return p if isinstance(p, sp.Expr) else sp.Integer(p) if isinstance(p, int) else sp.Float(p)


def root_of_sum(x: Node, p: sp.Expr) -> Node | None:
    """``x^p`` as a norm, where ``x`` is a sum of powers 1 / p: the hand-written `sqrt(sum(r^2))`, also
    with a positive number added to the sum, and as a mean."""
    match x:
        case Contract(left, right, over) if left is right and p == HALF:
            return norm(left, over, 2)
        case Reduce("sum", Map(formula, args), over):
            if isinstance(formula, sp.Pow | scalars.abs_pow) and formula.args[1] * p == 1:
                return norm(elementwise(formula.args[0], *args), over, 1 / p)
        case Map(formula, args):
            more, rest = formula.as_coeff_Add()
            if more.is_positive:
                return _root_with_more(rest, args, p, more)
            slots = dict(zip(OPERANDS, args, strict=False))
            summed = [s for s, n in slots.items() if isinstance(n, Reduce | Contract)]
            if len(summed) == 1 and (found := root_of_sum(slots[summed[0]], p)) is not None:
                # What multiplies the sum must be a positive number, or made of sizes as in a mean.
                factor = formula / summed[0]
                sizes = {s for s, n in slots.items() if isinstance(n, AxisSize)}
                at_one = factor.xreplace(dict.fromkeys(sizes, sp.Integer(1)))
                if factor.free_symbols <= sizes and at_one.is_positive:
                    return elementwise(scalars.power(factor, p), *args) * found
    return None


def _root_with_more(
    rest: sp.Expr, args: tuple[Node, ...], p: sp.Expr, more: sp.Expr
) -> Node | None:
    """``(more + rest)^p`` for a square root of a sum of squares, or of one square."""
    if p != HALF:
        return None
    slots = dict(zip(OPERANDS, args, strict=False))
    match slots.get(rest):  # type: ignore[arg-type]
        case Contract(left, right, over) if left is right:
            return norm(left, over, 2, more)
        case Reduce("sum", Map(sp.Pow() as square, inner), over) if square.exp == 2:
            return norm(elementwise(square.base, *inner), over, 2, more)
        case Map(formula, inner):
            return _root_with_more(formula, inner, p, more)
    number, square = rest.as_coeff_Mul()
    if isinstance(square, sp.Pow) and square.exp == 2 and number.is_positive:
        return elementwise(scalars.hypot(sp.sqrt(number) * square.base, sp.sqrt(more)), *args)
    return None
