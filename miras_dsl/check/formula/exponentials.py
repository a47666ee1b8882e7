"""Sums of exponentials in a formula: what a logarithm or a quotient of them can be written stably by.

``log(sum(exp(r)))`` grows like r, but as it is written it overflows where e^r does.  This file reads a
formula as a sum of terms ``c e^(k x)``; the compiler writes logarithms and quotients of such sums
without a large number on the way, and the checker warns of those that it cannot read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import sympy as sp

from miras_dsl.spec import Apply, Expr, Number

MOST = 9
"""The most terms of a sum that is multiplied out."""


@dataclass(frozen=True, slots=True)
class Term:
    """``factor * e^(rate * base)``, summed over axes and divided by the sizes of some of them.

    base  None stands for the number 1: e^0
    over  words for axes; ``mean`` those of them whose size divides the sum
    """

    factor: sp.Expr
    rate: sp.Expr
    base: Expr | None
    over: tuple[str, ...] = ()
    mean: tuple[str, ...] = ()


Terms = tuple[Term, ...]


def exponential_sum(expr: Expr) -> Terms | None:
    """The terms of a formula that is a sum of exponentials and numbers; None for any other."""
    match expr:
        case Number(value):
            return (Term(value, sp.Integer(0), None),)
        case Apply("exp", (x,)):
            return (_exponential(x, 1),)
        case Apply("cosh" | "sinh" as op, (x,)):
            grows, falls = _exponential(x, 1), _exponential(x, -1)
            half = sp.Rational(1, 2)
            sign = half if op == "cosh" else -half
            return replace(grows, factor=half), replace(falls, factor=sign)
        case Apply("neg", (x,)):
            return _scaled(exponential_sum(x), sp.Integer(-1))
        case Apply("add" | "sub" as op, (a, b)):
            left, right = exponential_sum(a), exponential_sum(b)
            if op == "sub":
                right = _scaled(right, sp.Integer(-1))
            return None if left is None or right is None else _collected((*left, *right))
        case Apply("mul", (a, b)):
            return _product(exponential_sum(a), exponential_sum(b))
        case Apply("div", (a, b)):
            below = exponential_sum(b)
            if below is None or len(below) != 1 or below[0].over:
                return None
            (term,) = below
            inverse = replace(term, factor=1 / term.factor, rate=-term.rate)
            return _product(exponential_sum(a), (inverse,))
        case Apply("pow", (x, Number(power))) if power.is_Integer and 1 <= power <= 4:
            terms = found = exponential_sum(x)
            for _ in range(int(power) - 1):
                found = _product(found, terms)
            return found
        case Apply("contract", (a, b)) if a.axes == b.axes:
            return _summed(_product(exponential_sum(a), exponential_sum(b)), words(expr), False)
        case Apply("sum" | "mean" as op, (x,)):
            return _summed(exponential_sum(x), words(expr), op == "mean")
        case _:
            return None


def words(expr: Apply) -> tuple[str, ...]:
    """The words for the axes that an operation runs over."""
    over = expr.option("over", ())
    return (over,) if isinstance(over, str) else tuple(over)  # type: ignore[arg-type]


def stable_sum(expr: Expr) -> Terms | None:
    """The terms of a positive sum with an exponential in it; None for any other formula."""
    terms = exponential_sum(expr)
    if not terms or not all(term.factor.is_positive for term in terms):
        return None
    return terms if any(term.base is not None for term in terms) else None


def stable_logarithm(expr: Expr) -> bool:
    """Whether the logarithm of a formula is written without overflow."""
    match expr:
        case Apply("mul" | "div", (a, b)):
            if stable_sum(expr) is None:
                return stable_logarithm(a) and stable_logarithm(b)
        case Apply("softmax") | Number():
            return True
        case _:
            pass
    return stable_sum(expr) is not None


def _exponential(x: Expr, sign: int) -> Term:
    rate: sp.Expr = sp.Integer(sign)
    while isinstance(x, Apply):
        match x:
            case Apply("neg", (inner,)):
                rate, x = -rate, inner
            case Apply("mul", (Number(value), inner)) | Apply("mul", (inner, Number(value))):
                rate, x = rate * value, inner
            case Apply("div", (inner, Number(value))) if value != 0:
                rate, x = rate / value, inner
            case _:
                break
    if isinstance(x, Number):
        return Term(sp.exp(rate * x.value), sp.Integer(0), None)
    return Term(sp.Integer(1), rate, x)


def _scaled(terms: Terms | None, by: sp.Expr) -> Terms | None:
    return terms and tuple(replace(term, factor=term.factor * by) for term in terms)


def _collected(terms: Sequence[Term]) -> Terms:
    """Equal exponentials once."""
    found: dict[Term, sp.Expr] = {}
    for term in terms:
        alone = replace(term, factor=sp.Integer(1))
        found[alone] = found.get(alone, sp.Integer(0)) + term.factor
    return tuple(replace(term, factor=f) for term, f in found.items() if f != 0)


def _product(left: Terms | None, right: Terms | None) -> Terms | None:
    if left is None or right is None or len(left) * len(right) > MOST:
        return None
    found: list[Term] = []
    for a in left:
        for b in right:
            if a.over and b.over:
                return None
            rate, base = a.rate, a.base
            if base is None:
                rate, base = b.rate, b.base
            elif b.base == base:
                rate = a.rate + b.rate
            elif b.base is not None:
                rate, base = sp.Integer(1), _sum_of(a, b)
            if rate == 0:
                base = None
            over, mean = a.over or b.over, a.mean or b.mean
            found.append(Term(a.factor * b.factor, rate, base, over, mean))
    return _collected(found)


def _sum_of(a: Term, b: Term) -> Expr:
    """The exponent of a product of two exponentials."""
    parts = []
    for term in (a, b):
        assert term.base is not None and isinstance(term.rate, sp.Number)
        base = term.base
        times = Apply("mul", (Number(term.rate), base), base.axes, span=base.span)
        parts.append(base if term.rate == 1 else times)
    axes = max((part.axes for part in parts), key=len)
    return Apply("add", tuple(parts), axes, span=parts[0].span)


def _summed(terms: Terms | None, over: tuple[str, ...], mean: bool) -> Terms | None:
    if terms is None:
        return None
    return tuple(
        replace(term, over=(*term.over, *over), mean=(*term.mean, *(over if mean else ())))
        for term in terms
    )
