"""The inverse of an increasing formula that has no inverse in closed form.

Its value is computed by Newton steps or bisection.  The formula may jump.  If the target lies between the
two values at a jump, the inverse is the place of the jump, and its derivative is that of the place.
"""

from __future__ import annotations

import sympy as sp

from . import functions as scalars

UNKNOWN = sp.Symbol("w", real=True)
"""The variable for which `monotone_inverse` solves an increasing formula."""

NEAR = sp.Float("1e-6")
"""Relative distance from a jump within which an inverse counts as the place of the jump."""


class monotone_inverse(sp.Function):
    """``monotone_inverse(a, f, low, high)``: the w between low and high with f(w) = a.

    f is an increasing formula of `UNKNOWN`.  The derivative with respect to a is 1 / f'(w).
    """

    nargs = 4
    is_real = True

    @property
    def free_symbols(self) -> set[sp.Basic]:
        """The symbols that the inverse depends on: all but the unknown of the formula."""
        a, f, low, high = self.args
        return a.free_symbols | low.free_symbols | high.free_symbols | (f.free_symbols - {UNKNOWN})

    def _eval_derivative(self, s: sp.Symbol) -> sp.Expr:
        a, f, _, _ = self.args
        here = {UNKNOWN: self}
        result = (a.diff(s) - f.diff(s).xreplace(here)) / f.diff(UNKNOWN).xreplace(here)
        for place in discontinuities(f):
            steep = place.diff(UNKNOWN)
            moved = (-place.diff(s) / steep).xreplace(here)
            apart = (scalars.absolute(place) - NEAR * scalars.absolute(UNKNOWN * steep)).xreplace(
                here
            )
            result = scalars.where(scalars.gt0(apart), result, moved)
        return result


def discontinuities(f: sp.Expr) -> list[sp.Expr]:
    """Formulas of `UNKNOWN` that are 0 where ``f`` may jump."""
    found = f.atoms(scalars.sign, scalars.ge0, scalars.gt0)
    places = {atom.args[0] for atom in found if atom.has(UNKNOWN)}
    return sorted(places, key=sp.default_sort_key)
