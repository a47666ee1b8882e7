"""The implicit step of a matrix memory: argmin loss + |W - keep(W)|² / (2 eta), exactly."""

from __future__ import annotations

from collections.abc import Mapping

from miras_dsl.ir import ONE, Contract, Node, contract, inputs_of, pointwise, postorder
from miras_dsl.lower import lower
from miras_dsl.model import MemoryModel
from miras_dsl.scalars import SLOTS
from miras_dsl.spec import Ref

from .collect import Obstacle, collect
from .flatten import affine_in
from .model import stand_in
from .refused import Refused


class NoImplicitStep(Refused):
    """Why the exact step has no formula."""

    code = "M0610"
    help = "leave `implicit` out, or take a bias with an affine gradient such as `sum(r^2)`"


def solved_implicitly(
    model: MemoryModel, slopes: Mapping[str, Node], weights: Mapping[str, Node]
) -> dict[str, Node]:
    """The gradient at the point where the step ends.

    With ``grad = φ(W k) kᵀ`` and φ affine of slope c the prediction moves by ``-eta |k|² φ``, so the
    gradient there is ``φ / (1 + eta c |k|²)``.  Raises NoImplicitStep for any other bias.
    """
    ((name, slope),) = slopes.items() if len(slopes) == 1 else (("", None),)
    if slope is None:
        raise NoImplicitStep("`implicit` needs a memory of one matrix")
    try:
        (write,) = collect(slope, weights[name].axes, frozenset()).writes
    except (Obstacle, ValueError):
        raise NoImplicitStep("`implicit` needs a bias with one prediction") from None
    reads = [
        n for n in postorder([write.u]) if isinstance(n, Contract) and weights[name] in (n.left, n.right)
    ]
    if write.x is None or len(reads) != 1:
        raise NoImplicitStep("`implicit` needs a bias with one prediction")
    found = affine_in(write.u, reads[0])
    if found is None or found[0].axes:
        raise NoImplicitStep("`implicit` has a formula only for a bias whose gradient is affine in the weights")
    key = next(side for side in (reads[0].left, reads[0].right) if side is not weights[name])
    if key is not write.x:
        raise NoImplicitStep("`implicit` needs the same key for the prediction and the write")
    length = contract(write.x, write.x, write.x.axes)
    damping = pointwise(
        1 / (1 + SLOTS[0] * SLOTS[1] * SLOTS[2]), _rate(model) * write.scale, found[0], length
    )
    return {name: slope * damping}


def _rate(model: MemoryModel) -> Node:
    """The factor of the gradient in the rule for W."""
    rules = dict(model.algorithm.rules)
    weight = model.weights[0]
    from miras_dsl.ir import Input

    hole, kept = Input("grad", (), "hole"), Input("kept", (), "hole")

    def name(ref: Ref) -> Node:
        match ref.kind:
            case "grad":
                return hole
            case "keep":
                return kept
            case "carry" | "weight":
                raise NoImplicitStep("`implicit` goes with plain gradient descent")
            case _:
                return stand_in(ref, model.spec, weight.name)

    found = affine_in(lower(rules["W"], name), hole)
    if found is None or hole in inputs_of([found[0]]):
        raise NoImplicitStep("`implicit` goes with plain gradient descent")
    return -found[0] * ONE
