"""The interpreter's half for scalar formulas: what each function of one number is in numpy."""

from __future__ import annotations

from collections.abc import Mapping
from math import erf

import numpy as np
import sympy as sp

from . import scalars

Array = np.ndarray

_ERF = np.vectorize(erf, otypes=[float])


def _logcosh(x: Array) -> Array:
    """log(cosh(x)); near 0 by the tangent, where |x| - log(2) would cancel."""
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
    scalars.sigmoid: lambda x: np.exp(np.minimum(x, 0.0)) / (1 + np.exp(-np.abs(x))),
    scalars.softplus: lambda x: np.logaddexp(0.0, x),
    scalars.logcosh: _logcosh,
    scalars.step: lambda x: (x >= 0) * 1.0,
    scalars.above: lambda x: (x > 0) * 1.0,
    scalars.signum: np.sign,
    scalars.absolute: np.abs,
    scalars.root: lambda x: np.sqrt(np.maximum(x, 0.0)),
    scalars.inverse_root: lambda x: np.where(x > 0, 1 / np.sqrt(np.where(x > 0, x, 1.0)), 0.0),
    scalars.where: lambda c, a, b: np.where(c != 0, a, b),
    scalars.fractional: lambda x, p: np.where(x != 0, np.where(x != 0, x, 1.0) ** p, 0.0),
    scalars.apow: lambda x, p: np.where(x != 0, np.abs(np.where(x != 0, x, 1.0)) ** p, 0.0),
    scalars.spow: lambda x, p: np.sign(x) * np.abs(np.where(x != 0, x, 1.0)) ** p,
}


def scalar(expr: sp.Expr, env: Mapping[sp.Symbol, Array], done: dict[sp.Expr, Array]) -> Array:
    """A sympy formula on arrays; every subexpression once."""
    if expr in done:
        return done[expr]
    if isinstance(expr, sp.Symbol):
        return env[expr]
    if isinstance(expr, (sp.Number, sp.NumberSymbol)):
        value = np.asarray(float(expr))
    else:
        if isinstance(expr, scalars.inverted):
            return done.setdefault(expr, _inverted(expr, env, done))
        args = [scalar(arg, env, done) for arg in expr.args]
        match expr:
            case sp.Add():
                value = sum(args[1:], start=args[0])
            case sp.Mul():
                value = args[0]
                for arg in args[1:]:
                    value = value * arg
            case sp.Pow():
                value = args[0] ** args[1]
            case _:
                value = np.asarray(NUMPY[expr.func](*args))
    done[expr] = value
    return value


def _inverted(
    expr: scalars.inverted, env: Mapping[sp.Symbol, Array], done: dict[sp.Expr, Array]
) -> Array:
    """Bisection, which knows nothing of derivatives."""
    a, f = scalar(expr.args[0], env, done), expr.args[1]

    def at(w: Array) -> Array:
        return scalar(f, {**env, scalars.UNKNOWN: w}, {})

    low, high = (np.full_like(a, 1e-300 if expr.positive else -1e12), np.full_like(a, 1e12))
    for _ in range(400):
        middle = np.sqrt(low * high) if expr.positive else (low + high) / 2
        above = at(middle) > a
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return (low + high) / 2
