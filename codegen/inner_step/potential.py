"""The potential of a retention, and its slope: what the memory carries in place of the weight."""

from __future__ import annotations

import sympy as sp

from miras_dsl.codegen.errors import DerivationError
from miras_dsl.codegen.model.types import MemoryModel
from miras_dsl.scalar.monotone_inverse import UNKNOWN as W

from .domain import numbers
from .monotone import MonotoneFunction, NotMonotone, analyze_monotone, samples
from .scalar_equation import NotScalar, ScalarEquation, scalar_equation, slope_of


class NoLink(DerivationError):
    """A potential whose slope is not a one-to-one function onto all numbers, so it gives no link."""

    code = "M0512"
    help = (
        "take a potential whose slope grows through all numbers, or say what the weight is: "
        "`link … at token`"
    )


def potential_gradient(model: MemoryModel, weight: str) -> tuple[ScalarEquation, MonotoneFunction]:
    """The slope of a weight's potential, and that it is an increasing function onto all numbers.

    Raises NoLink where it is not.
    """
    formula = _potential(model, weight)
    try:
        slope = slope_of(formula.formula)
        return formula, analyze_monotone(slope, formula.ranges, whole=formula.formula)
    except NotMonotone as reason:
        carried = "a carried state beyond that has no weight"
        if "increase" in str(reason):
            carried = "one carried state would stand for several weights"
        raise NoLink(f"the slope of this potential {reason}, so {carried}") from None


def _potential(model: MemoryModel, weight: str) -> ScalarEquation:
    potential = model.formulas_of(weight).potential
    assert potential is not None
    try:
        return scalar_equation(potential.node, potential.unknown, model.ranges)
    except NotScalar as reason:
        raise NoLink(f"this potential {reason}") from None


def entropy(model: MemoryModel, weight: str) -> tuple[ScalarEquation, sp.Expr]:
    """The potential of a weight on a simplex, and its factor c if it is ``c w log(w) + b w``, c > 0.

    Raises NoLink for any other potential.
    """
    formula = _potential(model, weight)
    factor = (formula.formula.diff(W, 2) * W).xreplace({W: sp.Integer(1)})
    difference = formula.formula.diff(W, 2) * W - factor
    tried = samples(formula.ranges)
    for point in (0.01, 0.3, 0.9, 4.0):
        off = numbers(difference.xreplace({W: sp.Float(point)}), tried)
        if not (abs(off) <= 1e-9 * (1 + abs(numbers(factor, tried)))).all():
            raise NoLink(
                "on a simplex the slope of the potential must be log(w), times a number, plus a constant"
            )
    if not (numbers(factor, tried) > 0).all():
        raise NoLink("on a simplex the potential must be convex: a positive multiple of w*log(w)")
    return formula, factor
