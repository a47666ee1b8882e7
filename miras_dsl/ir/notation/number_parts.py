"""The signs, numbers and divisors of a formula, where a reader expects them and not sympy."""

from __future__ import annotations

import sympy as sp

from miras_dsl.scalar import functions as scalars


def negative(term: sp.Expr) -> bool:
    """Whether a term is written behind a minus sign."""
    return bool(term.as_coeff_Mul()[0].is_negative) if term.is_Mul or term.is_number else False


def common_number(expr: sp.Add) -> tuple[sp.Expr, sp.Expr]:
    """A number that all terms of a sum have, and the sum without it: sympy multiplies numbers into
    sums, and a reader expects them outside.  1 where that would make other numbers larger."""
    numbers = [term.as_coeff_Mul()[0] for term in expr.args]
    if not all(isinstance(n, sp.Rational) for n in numbers) or len({n.q for n in numbers}) > 1:
        return sp.Integer(1), expr
    return expr.primitive()


def number_parts(number: sp.Expr) -> tuple[list[sp.Expr], list[sp.Expr]]:
    """A rational number as factors above and below a fraction bar; 0.8 as itself."""
    if number == 1:
        return [], []
    if not isinstance(number, sp.Rational) or number.is_Integer:
        return [number], []
    if number.p != 1 and (ending := decimal(number)) is not None:
        return [ending], []
    return ([sp.Integer(number.p)] if number.p != 1 else []), [sp.Integer(number.q)]


def decimal(number: sp.Rational) -> sp.Float | None:
    """A number that ends after a few decimals, as such; None for halves, quarters and the like."""
    rest = number.q
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    ends = rest == 1 and number.q > 4 and len(str(number.q)) + len(str(abs(number.p))) < 14
    return sp.Float(number, 16) if ends else None


def quotient(factor: sp.Expr) -> tuple[list[sp.Expr], list[sp.Expr]]:
    """The factors above and below a fraction bar of one factor."""
    if isinstance(factor, scalars.rsqrt):
        return [], [scalars.sqrt(factor.args[0])]
    if isinstance(factor, sp.Pow):
        base, exponent = factor.args
        if isinstance(base, scalars.rsqrt) and exponent.is_positive:
            return [], [sp.Pow(scalars.sqrt(base.args[0]), exponent)]
        if negative(exponent) and base != sp.E:
            return [], [sp.Pow(base, -exponent)]
    return [factor], []


def power_of_number(exponent: sp.Expr) -> tuple[sp.Expr, sp.Expr] | None:
    """(c, u) where e^exponent was written `c^u` with a number c: the exponent is u log(c)."""
    factors = sp.Mul.make_args(exponent)
    for factor in factors:
        if isinstance(factor, sp.log) and factor.args[0].is_Rational and len(factors) > 1:
            return factor.args[0], sp.Mul(*(f for f in factors if f is not factor))
    return None
