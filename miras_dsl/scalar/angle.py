"""Angles, of which only the sine and the cosine count."""

from __future__ import annotations

import sympy as sp


class within_turn(sp.Function):
    """x less whole turns of 2 pi, from -pi to pi: an angle with the same sine and cosine.

    The derivative is 1, as of x, also where it jumps.  A sum of such angles keeps the digits that a sum
    of large ones would lose.
    """

    nargs = 1
    is_real = True

    def _eval_evalf(self, prec: int) -> sp.Expr:
        (x,) = self.args
        return (x - 2 * sp.pi * sp.floor(x / (2 * sp.pi) + sp.Rational(1, 2)))._evalf(prec)

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return sp.Integer(1)
