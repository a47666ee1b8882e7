"""``slope(w) = a`` solved for w: in closed form where its functions can be inverted one by one.

sympy's own `solve` returns wrong or several branches for w^4 / 4, |w|^1.5 or cosh(w); here the function
is known to increase, so there is one answer, and each candidate is checked on samples.
"""

from __future__ import annotations

from collections.abc import Iterator

import sympy as sp

from miras_dsl.scalar import functions as scalars
from miras_dsl.scalar.monotone_inverse import UNKNOWN as W
from miras_dsl.scalar.monotone_inverse import discontinuities, monotone_inverse

from .monotone import MonotoneFunction, holds_on_samples
from .scalar_equation import cheap_to_simplify

PROBES = (-6.0, -1.3, -0.4, -0.05, 0.0, 0.2, 0.9, 1.7, 8.0)
"""Values of the target at which a candidate is checked."""


def solve(slope: MonotoneFunction, target: sp.Symbol) -> sp.Expr:
    """The w at which the slope equals ``target``, as a formula of the target and the constants.

    A candidate in closed form is taken if it holds at the `PROBES`; else the formula is a
    `monotone_inverse`, which Newton steps evaluate.
    """
    for answer in _unwrap(slope.formula, target):
        if holds_on_samples(slope, target, answer, PROBES):
            return answer
    return monotone_inverse(target, slope.formula, slope.low, slope.high)


def _unwrap(left: sp.Expr, right: sp.Expr) -> Iterator[sp.Expr]:
    """Yields at most one candidate: functions around the unknown are inverted, outermost first."""
    for _ in range(32):
        if left == W:
            yield right
            return
        step = (
            _affine(left, right)
            or _threshold(left, right)
            or _invert_outermost(left, right)
            or _combine(left, right)
        )
        if step is None:
            return
        left, right = step


Sides = tuple[sp.Expr, sp.Expr]
"""The two sides of an equation, the unknown on the left.  Each step below returns an equivalent one, or
None where it does not apply."""


def _affine(left: sp.Expr, right: sp.Expr) -> Sides | None:
    """``k w + b = right``."""
    k = left.diff(W)
    if k.has(W) or k == 0 or discontinuities(left):
        return None
    return W, (right - left.xreplace({W: sp.Integer(0)})) / k


def _threshold(left: sp.Expr, right: sp.Expr) -> Sides | None:
    """``h(w) + g sign(k w + b) = right``: a soft threshold, which keeps w at the jump for a range of
    right-hand sides."""
    kinks = [part for part in left.atoms(scalars.sign) if part.has(W)]
    if len(kinks) != 1 or not isinstance(left, sp.Add):
        return None
    inside = kinks[0].args[0]
    k = inside.diff(W)
    with_kink = sp.Add(*(term for term in left.args if term.has(kinks[0])))
    size = with_kink.xreplace({kinks[0]: sp.Integer(1)})
    rest = left - with_kink
    if k.has(W) or size.has(W) or with_kink.xreplace({kinks[0]: sp.Integer(-1)}) != -size:
        return None
    jump = -inside.xreplace({W: sp.Integer(0)}) / k
    rest_at_jump = rest.xreplace({W: jump})
    excess = right - rest_at_jump
    size = size * scalars.sign(k)
    shrunk = scalars.sign(excess) * scalars.maximum(scalars.absolute(excess) - size, sp.Integer(0))
    return rest, shrunk + rest_at_jump


def _invert_outermost(left: sp.Expr, right: sp.Expr) -> Sides | None:
    """The inverse of the outermost function applied to both sides."""
    match left:
        case sp.Add() | sp.Mul():
            free = [part for part in left.args if not part.has(W)]
            if not free:
                return None
            rest = left.func(*(part for part in left.args if part.has(W)))
            return rest, right - sp.Add(*free) if isinstance(left, sp.Add) else right / sp.Mul(
                *free
            )
        case sp.log():
            inside = left.args[0]
            return _logistic(inside, right) or (inside, sp.exp(right))
        case sp.exp():
            return left.args[0], sp.log(right)
        case sp.sinh():
            return left.args[0], scalars.asinh(right)
        case scalars.asinh():
            return left.args[0], sp.sinh(right)
        case scalars.signed_pow():
            base, power = left.args
            return (base, scalars.signed_pow(right, 1 / power)) if power.is_positive else None
        case scalars.pow_nonneg():
            base, power = left.args
            return base, scalars.pow_nonneg(right, 1 / power)
        case sp.Pow():
            base, power = left.args
            if power.has(W):
                return None
            odd = power.is_Integer and power > 0 and power % 2 == 1
            return base, scalars.signed_pow(right, 1 / power) if odd else right ** (1 / power)
    return None


def _logistic(inside: sp.Expr, right: sp.Expr) -> Sides | None:
    """``log((p w + r) / (q + s w)) = a`` as a sigmoid between the ends of the domain, which does not
    overflow."""
    if not cheap_to_simplify(inside):
        return None
    top, bottom = sp.fraction(sp.together(inside))
    p, s = top.diff(W), bottom.diff(W)
    if p.has(W) or s.has(W) or s == 0 or p == 0:
        return None
    zero = {W: sp.Integer(0)}
    low, high = -top.xreplace(zero) / p, -bottom.xreplace(zero) / s
    moved = right + scalars.log(sp.cancel(-s / p))
    if low == -high:
        return W, high * sp.tanh(moved / 2)
    return W, low + (high - low) * scalars.sigmoid(moved)


def _combine(left: sp.Expr, right: sp.Expr) -> Sides | None:
    """A sum of logarithms as one logarithm, or common factors taken out of a sum."""
    if not cheap_to_simplify(left):
        return None
    for form in (lambda e: sp.logcombine(e, force=True), sp.factor_terms, sp.together):
        new = form(left)
        if new != left:
            return new, right
    return None
