"""Activations that torch has as one function, and their derivatives, as sympy functions.

As formulas of `erf` and `exp` they would be split up where two derivatives have a term in common; as
functions they are printed under the names that a reader knows.
"""

from __future__ import annotations

import sympy as sp

from .real_function import RealFunction


class gelu(RealFunction):
    """x Φ(x) with the standard normal distribution Φ(x) = (1 + erf(x / sqrt 2)) / 2."""

    @classmethod
    def definition(cls, x: sp.Expr) -> sp.Expr:
        return x * (1 + sp.erf(x / sp.sqrt(2))) / 2

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return gelu_slope(self.args[0])


class gelu_slope(RealFunction):
    """The derivative of `gelu`: Φ(x) + x φ(x) with the density φ(x) = exp(-x²/2) / sqrt(2 π)."""

    @classmethod
    def definition(cls, x: sp.Expr) -> sp.Expr:
        return (1 + sp.erf(x / sp.sqrt(2))) / 2 + x * _density(x)

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        x = self.args[0]
        return (2 - x**2) * _density(x)


def _density(x: sp.Expr) -> sp.Expr:
    return sp.exp(-(x**2) / 2) / sp.sqrt(2 * sp.pi)


ACTIVATIONS = (gelu, gelu_slope)
"""Every function of this file; printers and tests go through this list and `FUNCTIONS`."""
