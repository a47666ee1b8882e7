"""The logarithm of a gate, derived from its formula so that no digit is lost near 0 and 1.

A decay of 1 - 1e-9 is 1 in fp32, its logarithm is not; and log(sigmoid(-120)) is -120 where the
sigmoid has underflowed.  Kernels therefore ask for the logarithm, and it is taken of the formula.
"""

from __future__ import annotations

import sympy as sp

from miras_dsl.check.formula.intervals import interval
from miras_dsl.scalar import functions as scalars
from miras_dsl.spec import Apply, Expr, Number, Ref

from .module_types import LOG_ZERO, MIN_GATE


def log_of(expr: Expr) -> Expr | None:
    """log(expr) as a formula without a logarithm, or None where the formula does not give one.

    Operands are reused, not copied, so that learned maps inside them stay the same maps.
    """
    match expr:
        case Number(value=value) if value > 0:
            return Number(sp.log(value).evalf(17), span=expr.span)
        case Apply(op="exp", args=(x,)):
            return x
        case Apply(op="sigmoid", args=(x,)):
            return _apply("neg", expr, _apply("softplus", expr, _apply("neg", expr, x)))
        case Apply(op="sub", args=(Number(value=one), Apply(op="sigmoid", args=(x,)))) if one == 1:
            return _apply("neg", expr, _apply("softplus", expr, x))
        case Apply(op="mul", args=(a, b)):
            return _both("add", expr, _factor(a), _factor(b))
        case Apply(op="div", args=(a, b)):
            return _both("sub", expr, _factor(a), _factor(b))
        case Apply(op="sub", args=(Number(value=one), share)) if one == 1:
            # log(1 - e^u) = -softplus(u - log(1 - e^u)), which keeps the digits of a small e^u
            inner = log_of(share)
            if inner is None or interval(inner, {}).high > 0:
                return None
            rest = Apply("log", (expr,), expr.axes, (("floor", True),), expr.span)
            odds = _apply("sub", expr, inner, rest)
            return _apply("neg", expr, _apply("softplus", expr, odds))
        case Apply(op="pow", args=(base, exponent)):
            inner = log_of(base)
            return None if inner is None else _apply("mul", expr, exponent, inner)
        case Apply(op="sqrt", args=(base,)):
            inner = log_of(base)
            half = Number(sp.Rational(1, 2), span=expr.span)
            return None if inner is None else _apply("mul", expr, half, inner)
        case _:
            return None


def _factor(expr: Expr) -> Expr | None:
    """log of one factor of a product; a factor that may be negative has none."""
    derived = log_of(expr)
    if derived is None and positive(expr):
        return Apply("log", (expr,), expr.axes, (("floor", True),), expr.span)
    return derived


def positive(expr: Expr) -> bool:
    """Whether a formula is above zero whatever its features are (up to rounding)."""
    match expr:
        case Number(value=value):
            return bool(value > 0)
        case Ref(kind="size"):
            return True
        case Apply(op="exp" | "sigmoid" | "softplus"):
            return True
        case Apply(op="add" | "mul" | "div" | "max", args=(a, b)):
            return positive(a) and positive(b)
        case Apply(op="pow", args=(base, _)):
            return positive(base)
        case Apply(op="sqrt", args=(base,)):
            return positive(base)
        case _:
            return False


def _both(op: str, expr: Expr, a: Expr | None, b: Expr | None) -> Expr | None:
    return None if a is None or b is None else _apply(op, expr, a, b)


def _apply(op: str, source: Expr, *args: Expr) -> Apply:
    axes = source.axes if len(args) == 2 else args[0].axes
    return Apply(op, args, axes, span=source.span)


def floored_log(x: sp.Expr) -> sp.Expr:
    """The logarithm of a gate whose formula gives none; `LOG_ZERO` of a gate below `MIN_GATE`."""
    logarithm = sp.log(scalars.maximum(x, MIN_GATE))
    return scalars.where(scalars.ge0(x - MIN_GATE), logarithm, LOG_ZERO)
