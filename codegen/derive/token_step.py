"""The events of one token, played symbolically on the weights of one course."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from miras_dsl.codegen.errors import DerivationError
from miras_dsl.codegen.inner_step.implicit_step import implicit_step
from miras_dsl.codegen.inner_step.mirror_map import Link
from miras_dsl.codegen.inner_step.proximal_step import proximal_step
from miras_dsl.codegen.model.types import MemoryModel
from miras_dsl.ir import Input, Node, Role, substitute


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One course of the weights through a token: the states that hold them and their momenta."""

    weights: Mapping[str, Input]
    carried: Mapping[tuple[str, str], Input]


@dataclass(frozen=True, slots=True)
class TokenResult:
    """A course after a token: new values by state name, the answer, and where it was asked."""

    new: Mapping[str, Node]
    answer: Node | None
    asked: Mapping[str, Node]


def run_token(
    model: MemoryModel,
    course: Trajectory,
    anchors: Mapping[str, Node],
    link: Link | None,
    linked_anchors: bool,
) -> TokenResult:
    """Play the events of a token on one course; gradients are taken at ``anchors`` if there are any
    (through the link, if ``linked_anchors``), else at the weights when the memory predicts."""
    before: Mapping[str, Node] = course.weights
    current: Mapping[str, Node] = before
    carried: Mapping[tuple[str, str], Node] = course.carried
    asked, answer = before, None
    for at, event in enumerate(model.order):
        match event:
            case "decay":
                current = {w: value * _decay(model, w) for w, value in current.items()}
            case "predict":
                asked = current
            case "write":
                source = anchors or asked
                names = [name for name, _ in model.gradients]
                moved = substitute(
                    [g for _, g in model.gradients],
                    weight_points(model, source, link if linked_anchors else None),
                )
                slopes = dict(zip(names, moved, strict=True))
                if model.implicit:
                    slopes = implicit_step(model, current)
                kept = current
                current, carried = _rules(model, kept, carried, slopes)
                for w in kept:
                    if model.formulas_of(w).penalty is not None:
                        current[w] = proximal_step(model, w, slopes[w], kept[w])
            case "read":
                settled = not {"decay", "write"} & set(model.order[at + 1 :])
                seen: Mapping[str, Node] = current
                if settled:
                    seen = {w: Input(s.name, s.axes, Role.NEXT) for w, s in course.weights.items()}
                (answer,) = substitute([model.answer], weight_points(model, seen, link))
            case _:
                raise AssertionError(f"unknown event {event}")
    new = {course.weights[w].name: value for w, value in current.items()}
    new |= {course.carried[key].name: value for key, value in carried.items()}
    return TokenResult(new, answer, asked)


def _decay(model: MemoryModel, weight: str) -> Node:
    """The factor of a weight.  Raises SharedDecay where a token of several steps cannot have it."""
    gate, factor = model.decay_gate, model.formulas_of(weight).decay
    assert factor is not None, "the checker asks for `decay` in the order only with a decay"
    # Among several steps the decay acts once, and anything else that its gate does in each.
    if gate is not None and gate.signed and gate.shared and model.steps_per_token > 1:
        raise SharedDecay(f"the decay `{gate.name}` may be negative and does something else too")
    return factor


class SharedDecay(DerivationError):
    """A decay that changes signs, in a token of several steps, whose gate does something else too."""

    code = "M0502"
    help = "give the decay a gate of its own with the same formula"


def weight_points(
    model: MemoryModel, weights: Mapping[str, Node], link: Link | None
) -> dict[Node, Node]:
    """The weights as gradients and answers see them: through the link, if there is one."""
    return {
        Input(w.name, w.axes, Role.WEIGHT): link(w.name, weights[w.name])
        if link
        else weights[w.name]
        for w in model.weights
    }


def _rules(
    model: MemoryModel,
    kept: Mapping[str, Node],
    carried: Mapping[tuple[str, str], Node],
    slopes: Mapping[str, Node],
) -> tuple[dict[str, Node], dict[tuple[str, str], Node]]:
    """The weights and carried tensors after the rules of the algorithm."""
    new, new_carried = dict(kept), dict(carried)
    for weight, formulas in model.formulas:
        for target, rule in formulas.rules:
            given: dict[Node, Node] = {
                formulas.grad: slopes[weight],
                formulas.kept: kept[weight],
                formulas.newest: new[weight],
            }
            given |= {hole: new_carried[name, weight] for name, hole in formulas.carried}
            (value,) = substitute([rule], given)
            if (target, weight) in new_carried:
                new_carried[target, weight] = value
            else:
                new[weight] = value
    return new, new_carried
