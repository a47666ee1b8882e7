"""Retention as a penalty: the step is ``argmin_w <grad, w> + P(w, w0)``, for each number of a weight.

Its smallest value is where ``P'(w, w0) = -grad``, which is solved for w.
"""

from __future__ import annotations

import sympy as sp

from miras_dsl.codegen.errors import ConflictingClauses, DerivationError
from miras_dsl.codegen.model.types import MemoryModel
from miras_dsl.ir import Node
from miras_dsl.scalar.interval import Interval

from .closed_form_inverse import solve
from .implicit_step import is_pure_retention
from .monotone import MonotoneFunction, NotMonotone, analyze_monotone
from .scalar_equation import NotScalar, ScalarEquation, scalar_equation, slope_of

MINUS_GRADIENT = sp.Symbol("a", real=True)


class NoStep(DerivationError):
    """The sum of a penalty and a linear term has no smallest value, or several."""

    code = "M0513"
    help = "add a square, as in `(w - w0)^2 / (2 * eta)`, or use a `link` or `bregman` retention"


def proximal_step(model: MemoryModel, weight: str, gradient: Node, before: Node) -> Node:
    """The weight after a write.

    before  the weight before the write, after its decay

    The learning rate is the one in the penalty, as in ``(w - w0)^2 / (2 * eta)``.  Raises NoStep where
    the penalty is not convex or has no smallest value for some gradient, and ConflictingClauses beside
    a momentum, `implicit`, `anchored` or a rule that is more than a gradient step.
    """
    _require_compatible_clauses(model, weight)
    formula, slope, start = _penalty_gradient(model, weight)
    answer = solve(slope, MINUS_GRADIENT)
    start_symbol = formula.symbol(start)
    given = {MINUS_GRADIENT: -gradient}
    given |= {start_symbol: before} if start_symbol is not None else {}
    return formula.as_node(answer, given)


def _require_compatible_clauses(model: MemoryModel, weight: str) -> None:
    if model.carry:
        raise ConflictingClauses(
            "a penalty makes the whole step, which leaves no use for a momentum"
        )
    if model.implicit:
        raise ConflictingClauses(
            "a penalty makes the whole step from the gradient, and so does `implicit`"
        )
    if model.anchored:
        raise ConflictingClauses(
            "a penalty acts on the newest weights, so its gradients are not those of an anchor"
        )
    if not is_pure_retention(model, weight):
        raise ConflictingClauses(
            "a penalty makes the whole step; a rule that scales what is kept means nothing beside it"
        )


def _penalty_gradient(
    model: MemoryModel, weight: str
) -> tuple[ScalarEquation, MonotoneFunction, Node]:
    """A weight's penalty, its slope in w, and the node that stands for w0.

    Weights of any sign are tried first, then positive ones.  Raises NoStep.
    """
    penalty = model.formulas_of(weight).penalty
    assert penalty is not None
    start = penalty.before
    positive = next(w.init for w in model.weights if w.name == weight) == "positive"
    failed: NotMonotone | None = None
    for where in (Interval(), Interval(low=0.0)):
        try:
            formula = scalar_equation(penalty.node, penalty.unknown, {**model.ranges, start: where})
            whole = formula.formula
            slope = analyze_monotone(slope_of(whole), formula.ranges, whole=whole)
        except NotScalar as reason:
            raise NoStep(f"this penalty {reason}") from None
        except NotMonotone as reason:
            failed = failed or reason
            continue
        stays = bool((slope.ends()[0] >= 0).all())
        if (stays or where.low == 0.0) and not positive:
            raise NoStep(
                "this penalty is for positive weights only, and here they do not begin positive"
            )
        if where.low == 0.0 and not stays:
            continue
        return formula, slope, start
    assert failed is not None
    if "never" in str(failed):
        raise NoStep(
            f"the slope of this penalty {failed}, so a larger gradient has no smallest value"
        )
    raise NoStep(f"this penalty is not convex: its slope {failed}")
