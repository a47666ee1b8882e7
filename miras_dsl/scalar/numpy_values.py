"""The values of scalar formulas in numpy, for the interpreter and for checks on samples."""

from __future__ import annotations

from collections.abc import Mapping
from math import erf, erfc

import numpy as np
import sympy as sp

from . import functions as scalars
from .activations import gelu, gelu_slope
from .monotone_inverse import UNKNOWN, monotone_inverse
from .norms import NORMS, fixed, ratio

Array = np.ndarray

_ERF = np.vectorize(erf, otypes=[float])
_ERFC = np.vectorize(erfc, otypes=[float])


def _normal(x: Array) -> Array:
    """The standard normal distribution function."""
    return 0.5 * _ERFC(-x / np.sqrt(2))


def _logcosh(x: Array) -> Array:
    """log(cosh(x)); for |x| < 0.8, where |x| - log(2) cancels, through tanh(x)."""
    size = np.abs(x)
    near = np.log1p(-(np.tanh(np.minimum(size, 1.0)) ** 2)) / -2
    return np.where(size < 0.8, near, size - np.log(2.0) + np.log1p(np.exp(-2 * size)))


NUMPY = {
    sp.exp: np.exp,
    sp.log: np.log,
    sp.tanh: np.tanh,
    sp.sinh: np.sinh,
    sp.cosh: np.cosh,
    sp.sin: np.sin,
    sp.cos: np.cos,
    scalars.erf: _ERF,
    gelu: lambda x: x * _normal(x),
    gelu_slope: lambda x: _normal(x) + x * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi),
    scalars.asinh: np.arcsinh,
    scalars.within_turn: lambda x: x - 2 * np.pi * np.floor(x / (2 * np.pi) + 0.5),
    scalars.sigmoid: lambda x: np.exp(np.minimum(x, 0.0)) / (1 + np.exp(-np.abs(x))),
    scalars.softplus: lambda x: np.logaddexp(0.0, x),
    scalars.logcosh: _logcosh,
    scalars.ge0: lambda x: (x >= 0) * 1.0,
    scalars.gt0: lambda x: (x > 0) * 1.0,
    scalars.sign: np.sign,
    scalars.absolute: np.abs,
    scalars.sqrt: lambda x: np.sqrt(np.maximum(x, 0.0)),
    scalars.rsqrt: lambda x: np.where(x > 0, 1 / np.sqrt(np.where(x > 0, x, 1.0)), 0.0),
    scalars.hypot: np.hypot,
    scalars.hypot_slope: lambda x, c: x / np.hypot(x, c),
    scalars.where: lambda c, a, b: np.where(c != 0, a, b),
    scalars.pow_nonneg: lambda x, p: np.where(x != 0, np.where(x != 0, x, 1.0) ** p, 0.0),
    scalars.abs_pow: lambda x, p: np.where(x != 0, np.abs(np.where(x != 0, x, 1.0)) ** p, 0.0),
    scalars.signed_pow: lambda x, p: np.sign(x) * np.abs(np.where(x != 0, x, 1.0)) ** p,
}


def eval_scalar(expr: sp.Expr, env: Mapping[sp.Symbol, Array], done: dict[sp.Expr, Array]) -> Array:
    """The value of a sympy formula; arrays broadcast.

    env   symbol -> array
    done  values of subexpressions, to which new ones are added
    """
    if expr in done:
        return done[expr]
    if isinstance(expr, sp.Symbol):
        return env[expr]
    if isinstance(expr, (sp.Number, sp.NumberSymbol)):
        value = np.asarray(float(expr))
    else:
        if isinstance(expr, monotone_inverse):
            return done.setdefault(expr, _monotone_inverse(expr, env, done))
        if isinstance(expr, NORMS):
            return done.setdefault(expr, eval_scalar(expr.plain(), env, done))
        args = [eval_scalar(arg, env, done) for arg in expr.args]
        match expr:
            case sp.Add():
                value = sum(args[1:], start=args[0])
            case sp.Mul():
                value = args[0]
                for arg in args[1:]:
                    value = value * arg
            case sp.Pow():
                value = args[0] ** args[1]
            case ratio():
                value = args[0] / args[1]
            case fixed():
                value = args[0]
            case _:
                value = np.asarray(NUMPY[expr.func](*args))
    done[expr] = value
    return value


def _monotone_inverse(
    expr: monotone_inverse, env: Mapping[sp.Symbol, Array], done: dict[sp.Expr, Array]
) -> Array:
    """The inverse by bisection, which also finds a jump across the target."""
    a, f, *ends = expr.args
    wanted, (low, high) = eval_scalar(a, env, done), (_end(end, env, done) for end in ends)
    shape = np.shape(
        wanted + eval_scalar(f, {**env, UNKNOWN: stretch(np.asarray(0.0), low, high)}, {})
    )
    left, right = np.full(shape, -700.0), np.full(shape, 700.0)
    for _ in range(120):
        middle = (left + right) / 2
        with np.errstate(all="ignore"):
            found = eval_scalar(f, {**env, UNKNOWN: stretch(middle, low, high)}, {})
        above = np.where(np.isfinite(found), found > wanted, middle > 0)
        left, right = np.where(above, left, middle), np.where(above, middle, right)
    return stretch((left + right) / 2, low, high)


def _end(end: sp.Expr, env: Mapping[sp.Symbol, Array], done: dict[sp.Expr, Array]) -> Array:
    return np.asarray(float(end)) if end.is_infinite else eval_scalar(end, env, done)


def stretch(t: Array, low: Array, high: Array) -> Array:
    """A map of the real line onto ``low < w < high`` that is dense near finite ends, else near 0."""
    with np.errstate(all="ignore"):
        one, other = np.isfinite(low), np.isfinite(high)
        rest = np.where(other, high - np.exp(-t), np.sinh(t))
        first = np.where(one, low + np.exp(t), rest)
        return np.where(one & other, low + (high - low) * (0.5 + 0.5 * np.tanh(0.5 * t)), first)
