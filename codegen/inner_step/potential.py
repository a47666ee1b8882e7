"""A potential and its slope, which is what a memory carries instead of the weight."""

from __future__ import annotations

import sympy as sp

from miras_dsl.codegen.errors import DerivationError
from miras_dsl.codegen.model.build import program_input
from miras_dsl.codegen.model.lower import lower
from miras_dsl.ir import Input, Node, Role, axes_of
from miras_dsl.scalar.monotone_inverse import UNKNOWN as W
from miras_dsl.spec import MemorySpec, Ref, iter_nodes

from .monotone import MonotoneFunction, NotMonotone, analyze_monotone, numbers, samples
from .scalar_equation import NotScalar, ScalarEquation, scalar_equation, slope_of


class NoLink(DerivationError):
    """A potential without a link."""

    code = "M0512"
    help = (
        "take a potential whose slope grows through all numbers, or say what the weight is: "
        "`link … at token`"
    )


def potential_gradient(spec: MemorySpec, weight: str) -> tuple[ScalarEquation, MonotoneFunction]:
    """What the memory carries for a weight, as a formula of it.  Raises NoLink."""
    formula = _potential(spec, weight)
    try:
        return formula, analyze_monotone(slope_of(formula.formula), formula.ranges)
    except NotMonotone as reason:
        carried = "a carried state beyond that has no weight"
        if "increase" in str(reason):
            carried = "one carried state would stand for several weights"
        raise NoLink(f"the slope of this potential {reason}, so {carried}") from None


def _potential(spec: MemorySpec, weight: str) -> ScalarEquation:
    potential = spec.retention.bregman
    assert potential is not None

    words = next(
        (n.axes for n in iter_nodes(potential) if isinstance(n, Ref) and n.kind == "dual"), ()
    )
    hole = Input("w", axes_of(words), Role.HOLE)

    def name(ref: Ref) -> Node:
        return hole if ref.kind == "dual" else program_input(ref, spec, weight)

    try:
        return scalar_equation(lower(potential, name), hole, spec)
    except NotScalar as reason:
        raise NoLink(f"this potential {reason}") from None


def entropy(spec: MemorySpec, weight: str) -> tuple[ScalarEquation, sp.Expr]:
    """The c of a potential ``c (w log w) + b w`` on a simplex.  Raises NoLink for any other."""
    formula = _potential(spec, weight)
    factor = (formula.formula.diff(W, 2) * W).xreplace({W: sp.Integer(1)})
    elsewhere = formula.formula.diff(W, 2) * W - factor
    tried = samples(formula.ranges)
    for point in (0.01, 0.3, 0.9, 4.0):
        off = numbers(elsewhere.xreplace({W: sp.Float(point)}), tried)
        if not (abs(off) <= 1e-9 * (1 + abs(numbers(factor, tried)))).all():
            raise NoLink(
                "on a simplex the slope of the potential must be log(w), times a number, plus a constant"
            )
    if not (numbers(factor, tried) > 0).all():
        raise NoLink("on a simplex the potential must be convex: a positive multiple of w*log(w)")
    return formula, factor
