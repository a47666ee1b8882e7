"""Angles."""

from __future__ import annotations

import sympy as sp

from .real_function import RealFunction


class within_turn(RealFunction):
    """x less whole turns of 2 pi, from -pi to pi: an angle with the same sine and cosine.  The derivative
    is 1, as of x, also where it jumps.  A sum of such angles keeps the digits that a sum of large ones
    would lose."""

    @classmethod
    def definition(cls, x: sp.Expr) -> sp.Expr:
        return x - 2 * sp.pi * sp.floor(x / (2 * sp.pi) + sp.Rational(1, 2))

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return sp.Integer(1)
