"""Brackets multiplied out, where that ends: a power of a sum has very many terms."""

from __future__ import annotations

from math import comb

import sympy as sp

TERMS = 3000
"""Terms of an expanded formula beyond which it stays as it is."""


def expanded(formula: sp.Expr) -> sp.Expr:
    """``sp.expand`` of a formula that stays small; another one as it is."""
    return sp.expand(formula) if _terms(formula) <= TERMS else formula


def _terms(formula: sp.Expr) -> int:
    """About how many terms a formula has when it is multiplied out; more than `TERMS` if any part has."""
    inner = [_terms(part) for part in formula.args]
    if any(count > TERMS for count in inner):
        return TERMS + 1
    match formula:
        case sp.Add():
            return sum(inner)
        case sp.Mul():
            result = 1
            for count in inner:
                result = min(result * count, TERMS + 1)
            return result
        case sp.Pow() if formula.exp.is_Integer and inner[0] > 1:
            power = min(abs(int(formula.exp)), TERMS)
            return min(comb(inner[0] + power - 1, power), TERMS + 1)
        case _:
            return 1
