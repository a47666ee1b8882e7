"""A penalty as retention: the step is ``argmin_w <grad, w> + P(w, w0)``, number by number."""

from __future__ import annotations

import sympy as sp

from miras_dsl.codegen.errors import Apart, Refused
from miras_dsl.codegen.model.build import stand_in
from miras_dsl.codegen.model.lower import lower
from miras_dsl.codegen.model.types import MemoryModel
from miras_dsl.ir import Input, Node
from miras_dsl.spec import Interval, Ref, walk

from .closed_form_inverse import solution
from .implicit_step import kept_alone
from .monotone import Slope, Unfit, studied
from .scalar_equation import NotOneNumber, OneNumber, one_number, slope_of

PULL = sp.Symbol("a", real=True)


class NoStep(Refused):
    """A penalty without a smallest value."""

    code = "M0513"
    help = "add a square, as in `(w - w0)^2 / (2 * eta)`, or use a `link` or `bregman` retention"


def proximal(model: MemoryModel, weight: str, gradient: Node, before: Node) -> Node:
    """The weight after a write; ``before`` is the weight that the write finds, decayed if it is.

    The learning rate is what the penalty makes of it.  Raises NoStep where the penalty is not convex
    or has no smallest value for some gradient.
    """
    _expect_alone(model, weight)
    formula, slope, start = _studied(model, weight)
    answer = solution(slope, PULL)
    place = formula.symbol(start)
    given = {PULL: -gradient} | ({place: before} if place is not None else {})
    return formula.placed(answer, given)


def _expect_alone(model: MemoryModel, weight: str) -> None:
    algorithm = model.algorithm
    if algorithm.carry:
        raise Apart("a penalty makes the whole step, which leaves no use for a momentum")
    if algorithm.implicit:
        raise Apart("a penalty makes the whole step from the gradient, and so does `implicit`")
    if algorithm.anchored:
        raise Apart(
            "a penalty acts on the newest weights, so its gradients are not those of an anchor"
        )
    if not kept_alone(model, weight):
        raise Apart(
            "a penalty makes the whole step; a rule that scales what is kept means nothing beside it"
        )


def _studied(model: MemoryModel, weight: str) -> tuple[OneNumber, Slope, Node]:
    penalty, spec = model.retention.penalty, model.spec
    assert penalty is not None
    axes = next((n.axes for n in walk(penalty) if isinstance(n, Ref) and n.kind == "dual"), ())
    hole, start = Input("w", axes, "hole"), Input("w0", axes, "hole")

    def name(ref: Ref) -> Node:
        if ref.kind == "dual":
            return hole if ref.name == "w" else start
        return stand_in(ref, spec, weight)

    node = lower(penalty, name)
    positive = next(w.init for w in model.weights if w.name == weight) == "positive"
    failed: Unfit | None = None
    for where in (Interval(), Interval(low=0.0)):
        try:
            formula = one_number(node, hole, spec, {start: where})
            slope = studied(slope_of(formula.formula), formula.ranges)
        except NotOneNumber as reason:
            raise NoStep(f"this penalty {reason}") from None
        except Unfit as reason:
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
