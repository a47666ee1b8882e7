"""The root of a square plus a positive number, whatever the size of what is squared."""

from __future__ import annotations

import sympy as sp
from sympy.core.function import ArgumentIndexError


class hypot(sp.Function):
    """sqrt(x^2 + c^2) for a number c > 0, also where the square of x would overflow."""

    nargs = 2
    is_real = True
    is_positive = True

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        if argindex != 1:
            raise ArgumentIndexError(self, argindex)
        return hypot_slope(*self.args)

    def _eval_evalf(self, prec: int) -> sp.Expr:
        x, c = self.args
        return sp.sqrt(x**2 + c**2)._evalf(prec)


class hypot_slope(sp.Function):
    """x / sqrt(x^2 + c^2), the derivative of `hypot`."""

    nargs = 2
    is_real = True

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        x, c = self.args
        if argindex != 1:
            raise ArgumentIndexError(self, argindex)
        return c**2 * hypot(x, c) ** -3

    def _eval_evalf(self, prec: int) -> sp.Expr:
        x, c = self.args
        return (x / sp.sqrt(x**2 + c**2))._evalf(prec)


def inside_asinh(x: sp.Expr) -> sp.Expr | None:
    """The y of ``y + sqrt(y^2 + 1)``, whose logarithm is asinh(y): that sum vanishes by cancellation
    where y is large and negative.  None for any other formula."""
    if not isinstance(x, sp.Add):
        return None
    for root in x.args:
        if root == hypot(x - root, sp.Integer(1)):
            return x - root
    return None
