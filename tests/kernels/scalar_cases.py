"""Scalar formulas, the numbers they are tried at, and their true values to 40 digits."""

from __future__ import annotations

from collections.abc import Callable

import mpmath
import sympy as sp
import torch
from torch import Tensor

from miras_dsl.scalar import functions as scalars
from miras_dsl.scalar.activations import gelu, gelu_slope
from miras_dsl.scalar.functions import OPERANDS

X = OPERANDS[0]
POWERS = [sp.Rational(n, 4) for n in (-8, -6, -4, -1, 1, 2, 3, 4, 6, 7, 8, 10, 12, 13, 20)]

Exact = Callable[[mpmath.mpf], mpmath.mpf]


def _sign(x: mpmath.mpf) -> int:
    return (x > 0) - (x < 0)


ONE: dict[type, Exact] = {
    sp.exp: mpmath.exp,
    sp.log: mpmath.log,
    sp.tanh: mpmath.tanh,
    sp.sinh: mpmath.sinh,
    sp.cosh: mpmath.cosh,
    sp.sin: mpmath.sin,
    sp.cos: mpmath.cos,
    scalars.erf: mpmath.erf,
    gelu: lambda x: x * mpmath.ncdf(x),
    gelu_slope: lambda x: mpmath.ncdf(x) + x * mpmath.npdf(x),
    scalars.asinh: mpmath.asinh,
    scalars.within_turn: lambda x: x - 2 * mpmath.pi * mpmath.floor(x / (2 * mpmath.pi) + 0.5),
    scalars.sigmoid: lambda x: 1 / (1 + mpmath.exp(-x)),
    scalars.softplus: lambda x: mpmath.log1p(mpmath.exp(x)),
    scalars.logcosh: lambda x: mpmath.log1p(2 * mpmath.sinh(x / 2) ** 2),
    scalars.ge0: lambda x: mpmath.mpf(x >= 0),
    scalars.gt0: lambda x: mpmath.mpf(x > 0),
    scalars.sign: lambda x: mpmath.mpf(_sign(x)),
    scalars.absolute: abs,
    scalars.sqrt: lambda x: mpmath.sqrt(x) if x > 0 else mpmath.mpf(0),
    scalars.rsqrt: lambda x: 1 / mpmath.sqrt(x) if x > 0 else mpmath.mpf(0),
}
"""Functions of one number."""

CASES: dict[str, tuple[sp.Expr, Exact]] = {
    **{f.__name__: (f(X), true) for f, true in ONE.items()},
    **{f"apow {p}": (scalars.abs_pow(X, p), lambda x, p=p: abs(x) ** _mp(p) if x else 0 * x)
       for p in POWERS},
    **{f"spow {p}": (scalars.signed_pow(X, p), lambda x, p=p: _sign(x) * abs(x) ** _mp(p) if x else x)
       for p in POWERS},
    **{f"fractional {p}": (scalars.pow_nonneg(X, p), lambda x, p=p: x ** _mp(p) if x else 0 * x)
       for p in POWERS if not p.is_Integer},
    **{f"x^{p}": (X**p, lambda x, p=p: x ** _mp(p)) for p in POWERS},
    "where": (scalars.where(scalars.ge0(X), sp.tanh(X), X / 2),
              lambda x: mpmath.tanh(x) if x >= 0 else x / 2),
    "hypot": (scalars.hypot(X, sp.Integer(2)), lambda x: mpmath.sqrt(x * x + 4)),
    "hypot slope": (scalars.hypot_slope(X, sp.Integer(2)), lambda x: x / mpmath.sqrt(x * x + 4)),
    "silu": (X * scalars.sigmoid(X), lambda x: x / (1 + mpmath.exp(-x))),
}  # fmt: skip
POSITIVE = {"log"} | {
    f"{name}{p}" for name in ("x^", "fractional ") for p in POWERS if not p.is_Integer
}
"""Formulas of positive numbers."""


def _mp(p: sp.Rational) -> mpmath.mpf:
    return mpmath.mpf(int(p.p)) / int(p.q)


def points(dtype: torch.dtype, positive: bool = False) -> Tensor:
    """512 numbers from 1e-30 to 1e3 in size, of both signs, among them the edges of all forms."""
    edges = torch.tensor([0.34, 0.346573, 0.624, 0.6251, 0.799, 0.8, 0.801, 0.999, 1.0, 1.001, 1.41,
                          1.42, 8.9, 18.0, 20.1, 36.8, 40.1, 87.3, 88.0, 88.72, 700.0])  # fmt: skip
    half = torch.cat([torch.logspace(-30, 3, 204), torch.linspace(0.01, 4, 31), edges])
    both = torch.cat([half, half if positive else -half])
    return both.to(torch.float32).to(dtype)


TERMS: dict[str, Exact] = {
    "gelu": abs,
    "gelu_slope": lambda x: mpmath.mpf(1),
    "within_turn": lambda x: mpmath.mpf(1),
}
"""Sums whose terms cancel, in torch's own function too: the size of the terms.  Of an angle near whole
turns that size is 1 radian: it is for sines and cosines."""


def worst(name: str, x: Tensor, found: Tensor) -> tuple[float, float]:
    """The largest relative error, in units of the type's eps, and where it is.

    Where the true value is beyond the type's range the result must be infinite, and where it is
    below its normal numbers, no larger.
    """
    info, most, at = torch.finfo(found.dtype), 0.0, 0.0
    with mpmath.workdps(40):
        for given, got in zip(x.double().tolist(), found.double().tolist(), strict=True):
            true = mpmath.mpf(CASES[name][1](mpmath.mpf(given)))
            if abs(true) > info.max:
                error = 0.0 if got == float("inf") * _sign(true) else float("inf")
            else:
                off = abs(mpmath.mpf(got) - true) - mpmath.mpf(info.tiny)
                size = abs(true)
                if name in TERMS:
                    size = max(size, TERMS[name](mpmath.mpf(given)))
                error = float(max(off, 0) / size / info.eps) if size else abs(got) / info.tiny
            if not error <= most:
                most, at = error, given
    return most, at
