"""Exponentials of sums of logarithms, which reach the text in double precision."""

from __future__ import annotations

import sympy as sp

from miras_dsl.codegen.emit.scalar_printer import TORCH


class Exponent(sp.Function):
    """e^x of a sum of logarithms: the sum is in double precision, the result is not."""

    nargs = 1
    is_real = True


TORCH_WITH_LOGS = {**TORCH, Exponent: "ops.exponential({}, size)".format}


def outside_exponents(formula: sp.Expr) -> set[sp.Symbol]:
    """The symbols of a formula that stand outside every `Exponent`."""
    if isinstance(formula, sp.Symbol):
        return {formula}
    if isinstance(formula, Exponent):
        return set()
    return {s for arg in formula.args for s in outside_exponents(arg)}
