"""The events of one token, played symbolically on the weights of one course."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from miras_dsl.codegen.errors import DerivationError
from miras_dsl.codegen.inner_step.implicit_step import implicit_step
from miras_dsl.codegen.inner_step.mirror_map import Link
from miras_dsl.codegen.inner_step.proximal_step import proximal_step
from miras_dsl.codegen.model.build import (
    exp,
    gate_input,
    program_input,
    row_and_column,
    signed_gates,
)
from miras_dsl.codegen.model.lower import lower
from miras_dsl.codegen.model.types import MemoryModel
from miras_dsl.ir import Input, Node, Role, substitute
from miras_dsl.ir import Number as Constant
from miras_dsl.spec import Loss, MemorySpec, Number, Ref, iter_nodes


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
                current = {w: value * _decay(model.spec, w) for w, value in current.items()}
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
                if model.algorithm.implicit:
                    slopes = implicit_step(model, current)
                kept = current
                current, carried = _rules(model, kept, carried, slopes)
                if model.retention.penalty is not None:
                    current = {w: proximal_step(model, w, slopes[w], kept[w]) for w in kept}
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


def _decay(spec: MemorySpec, weight: str) -> Node:
    decay = spec.retention.decay
    assert decay is not None, "the checker asks for `decay` in the order only with a decay"
    if isinstance(decay, Number):
        return Constant(decay.value)
    if decay.name in signed_gates(spec):
        _require_its_own(spec, decay.name)
        return gate_input(decay.name, spec, weight)
    return exp(gate_input(decay.name, spec, weight, log=True))


class SharedDecay(DerivationError):
    """A decay that changes signs, in a token of several steps, whose gate does something else too."""

    code = "M0502"
    help = "give the decay a gate of its own with the same formula"


def _require_its_own(spec: MemorySpec, gate: str) -> None:
    """Among several steps the decay acts once, and anything else that its gate does in each."""
    algorithm, terms = spec.algorithm, spec.terms
    if max(algorithm.steps, algorithm.pairs) == 1:
        return
    formulas = [formula for _, formula in algorithm.rules] + [term.rate for term in terms]
    formulas += [t.loss if isinstance(t, Loss) else t.error for t in terms] + [spec.read]
    if any(isinstance(r, Ref) and r.name == gate for f in formulas for r in iter_nodes(f)):
        raise SharedDecay(f"the decay `{gate}` may be negative and does something else too")


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
    new, new_carried = dict(kept), dict(carried)
    for weight in (w.name for w in model.weights):
        axes = row_and_column(model.spec, weight)
        for target, formula in model.algorithm.rules:

            def name(ref: Ref, weight: str = weight) -> Node:
                match ref.kind:
                    case "grad":
                        return slopes[weight]
                    case "keep":
                        return kept[weight]
                    case "weight":
                        return new[weight]
                    case "carry":
                        return new_carried[ref.name, weight]
                    case _:
                        return program_input(ref, model.spec, weight)

            value = lower(formula, name, axes)
            if target in model.algorithm.carry:
                new_carried[target, weight] = value
            else:
                new[weight] = value
    return new, new_carried
