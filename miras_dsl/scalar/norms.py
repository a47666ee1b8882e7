"""The parts of a norm that stay finite for numbers of any size, with derivatives stated as a pair.

A p-norm is ``m (Σ |x / m|^p)^(1/p)`` with the largest number m.  By the chain rule its derivative is a
product with m divided by m, which overflows or vanishes on the way.  Here the sum S of shares is
measured in parts of m: `share_power` leaves 1 / m out of its derivative in x, and `norm_root` leaves m
out of its derivative in S.  Both must only be used together; m counts as a constant, since the norm
does not depend on it.
"""

from __future__ import annotations

import sympy as sp

from . import functions as scalars


class fixed(sp.Function):
    """A number that counts as a constant: its derivative is 0."""

    nargs = 1
    is_real = True

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return sp.Integer(0)


class ratio(sp.Function):
    """x / m for a constant m, as one number: sympy would make x² / m² of its square, which overflows."""

    nargs = 2
    is_real = True

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return 1 / self.args[1] if argindex == 1 else sp.Integer(0)


class share_power(sp.Function):
    """``share_power(x, m, p)``: |x / m|^p; its derivative in x is m times the true one."""

    nargs = 3
    is_real = True

    def plain(self) -> sp.Expr:
        """The value in functions that printers know."""
        x, m, p = self.args
        return scalars.abs_pow(ratio(x, m), p)

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        x, m, p = self.args
        if argindex != 1:
            return sp.Integer(0)
        return p * (ratio(x, m) if p == 2 else scalars.signed_pow(ratio(x, m), p - 1))


class norm_root(sp.Function):
    """``norm_root(S, m, a, b)``: m^b S^a, 0 at S = 0; its derivative in S is 1 / m times the true one."""

    nargs = 4
    is_real = True

    def plain(self) -> sp.Expr:
        """The value in functions that printers know."""
        s, m, a, b = self.args
        roots = {sp.Rational(1, 2): scalars.sqrt(s), -sp.Rational(1, 2): scalars.rsqrt(s)}
        return m**b * (roots[a] if a in roots else scalars.abs_pow(s, a))

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        s, m, a, b = self.args
        return a * norm_root(s, m, a - 1, b - 1) if argindex == 1 else sp.Integer(0)


NORMS = (share_power, norm_root)
"""Functions that are written out where they are printed or evaluated."""


def displayed(formula: sp.Expr) -> sp.Expr:
    """A formula as a reader would write it: its value is the same, its derivatives no longer are."""
    shown = formula.replace(lambda part: isinstance(part, NORMS), lambda part: part.plain())
    shown = shown.replace(ratio, lambda x, m: x / m).replace(fixed, lambda x: x)
    shown = shown.replace(scalars.hypot_slope, lambda x, c: x / scalars.hypot(x, c))
    return shown.replace(scalars.hypot, lambda x, c: scalars.sqrt(x**2 + c**2))
