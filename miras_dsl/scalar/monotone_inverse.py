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


EXPANDED = 40
"""The most operations of a polynomial that is written out around an end of a domain."""


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


def from_end(f: sp.Expr, end: sp.Expr, sign: int) -> sp.Expr | None:
    """``f`` as a formula of the distance from an end of its domain: `UNKNOWN` stands for the distance.

    sign  1 for the lower end, -1 for the upper one

    What vanishes at the end is written out as a polynomial of the distance, so that ``1 - w^2`` keeps
    its digits next to 1.  None where nothing is gained: the end is 0, or infinite, or no term cancels.
    """
    if end.is_infinite or end.is_zero:
        return None
    sums = (part for part in f.atoms(sp.Add) if part.is_polynomial(UNKNOWN))
    if not any(sp.expand(part.xreplace({UNKNOWN: end})) == 0 for part in sums):
        return None
    moved = f.xreplace({UNKNOWN: end + sign * UNKNOWN})

    def short(part: sp.Expr) -> sp.Expr:
        expanded = sp.expand(part)
        return expanded if expanded.xreplace({UNKNOWN: sp.Integer(0)}) == 0 else part

    return moved.replace(
        lambda part: (
            isinstance(part, sp.Add)
            and part.has(UNKNOWN)
            and part.is_polynomial(UNKNOWN)
            and part.count_ops() <= EXPANDED
        ),
        short,
    )
