"""One token, executed symbolically: the events of `order`, applied to the weights of one trajectory."""

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
    """The states that one trajectory of the weights carries from token to token.

    Exact learning has one trajectory; anchored learning with s sweeps has s of them, each of which
    learns from gradients at the one before it.

    weights  weight -> the state that holds it, or its dual
    carried  (carried tensor of the algorithm, weight) -> its state, such as a momentum
    """

    weights: Mapping[str, Input]
    carried: Mapping[tuple[str, str], Input]


@dataclass(frozen=True, slots=True)
class TokenResult:
    """A trajectory after a token.

    new            state name -> its new value
    answer         what is read, over states of role NEXT where the read comes last; None without one
    at_prediction  weight -> its value when the memory predicts, where its gradient is taken
    """

    new: Mapping[str, Node]
    answer: Node | None
    at_prediction: Mapping[str, Node]


def run_token(
    model: MemoryModel,
    trajectory: Trajectory,
    gradients_at: Mapping[str, Node],
    link: Link | None,
    link_gradients: bool,
) -> TokenResult:
    """The new states and the answer of one token, as formulas of the states before it.

    trajectory      the states that the token changes
    gradients_at    weight -> where its gradient is taken; empty: at its value when the memory predicts
    link            the weight as a formula of what is carried for it; None: it is carried itself
    link_gradients  whether gradients are taken at ``link(gradients_at)`` rather than there

    Raises SharedDecay, and what `implicit_step` and `proximal_step` raise.
    """
    current: Mapping[str, Node] = trajectory.weights
    carried: Mapping[tuple[str, str], Node] = trajectory.carried
    at_prediction, answer = current, None
    for at, event in enumerate(model.order):
        match event:
            case "decay":
                current = {w: _decayed(model, w, value) for w, value in current.items()}
                for turn in model.turns:
                    both = turn.of(current[turn.real], current[turn.imaginary])
                    current |= dict(zip((turn.real, turn.imaginary), both, strict=True))
            case "predict":
                at_prediction = current
            case "write":
                points = gradients_at or at_prediction
                names = [name for name, _ in model.gradients]
                values = substitute(
                    [g for _, g in model.gradients],
                    weight_points(model, points, link if link_gradients else None),
                )
                gradients = dict(zip(names, values, strict=True))
                if model.implicit:
                    gradients = implicit_step(model, current)
                kept = current
                after = {
                    w: Input(s.name, s.axes, Role.NEXT)
                    for w, s in trajectory.weights.items()
                    if _is_last_event(model, w, at)
                }
                current, carried = _apply_rules(model, kept, carried, gradients, after)
                for w in kept:
                    if model.formulas_of(w).penalty is not None:
                        current[w] = proximal_step(model, w, gradients[w], kept[w])
            case "read":
                read_at: Mapping[str, Node] = current
                if not {"decay", "write"} & set(model.order[at + 1 :]):
                    read_at = {
                        w: Input(s.name, s.axes, Role.NEXT) for w, s in trajectory.weights.items()
                    }
                (answer,) = substitute([model.answer], weight_points(model, read_at, link))
            case _:
                raise AssertionError(f"unknown event {event}")
    new = {trajectory.weights[w].name: value for w, value in current.items()}
    new |= {trajectory.carried[key].name: value for key, value in carried.items()}
    return TokenResult(new, answer, at_prediction)


def _is_last_event(model: MemoryModel, weight: str, at: int) -> bool:
    """Whether a weight keeps what the write at a place of the order gives it, to the token's end."""
    turned = any(weight in (turn.real, turn.imaginary) for turn in model.turns)
    later = "decay" in model.order[at + 1 :] and (turned or model.formulas_of(weight).decays)
    linked = model.formulas_of(weight).penalty is not None
    return not later and not linked and model.steps_per_token == 1


def _decayed(model: MemoryModel, weight: str, value: Node) -> Node:
    """What a decay leaves.  Raises SharedDecay where it cannot act in one step of a token only."""
    # The decay acts in one step of a token: the runtime gives the other steps a gate of 1 (a
    # logarithm of 0).  A gate that other formulas read too cannot be given so, unless the decay reads
    # the logarithm and they the gate.
    for gate in model.decay_gates:
        if gate.signed and gate.shared and model.steps_per_token > 1:
            raise SharedDecay(
                f"the decay `{gate.name}` may be negative and does something else too"
            )
    for factor in model.formulas_of(weight).decays:
        value = value * factor
    return value


class SharedDecay(DerivationError):
    """The decay of a token of several steps may be negative, and its gate is read elsewhere too."""

    code = "M0502"
    help = "give the decay a gate of its own with the same formula"


def weight_points(
    model: MemoryModel, weights: Mapping[str, Node], link: Link | None
) -> dict[Node, Node]:
    """The value of every weight in gradients and answers: ``link`` of what is carried, if there is one.

    Returns (the input of role WEIGHT) -> value, as `substitute` takes it.
    """
    return {
        Input(w.name, w.axes, Role.WEIGHT): link(w.name, weights[w.name])
        if link
        else weights[w.name]
        for w in model.weights
    }


def _apply_rules(
    model: MemoryModel,
    kept: Mapping[str, Node],
    carried: Mapping[tuple[str, str], Node],
    gradients: Mapping[str, Node],
    after: Mapping[str, Node],
) -> tuple[dict[str, Node], dict[tuple[str, str], Node]]:
    """The weights and carried tensors after the rules of the algorithm.

    after  weight -> the state as this token leaves it, where that is what its own rule sets: rules of
           other weights then read it there, instead of repeating how it came about
    """
    new, new_carried = dict(kept), dict(carried)
    for weight, formulas in model.formulas:
        for target, rule in formulas.rules:
            given: dict[Node, Node] = {}
            # A rule for one weight may read the others; that weight comes last, for holes of rules for
            # every weight are the same for all.
            for other, holes in (*model.formulas, (weight, formulas)):
                is_set = other != weight and new[other] is not kept[other]
                given |= {
                    holes.grad: gradients[other],
                    holes.kept: kept[other],
                    holes.newest: after.get(other, new[other]) if is_set else new[other],
                }
            given |= {hole: new_carried[name, weight] for name, hole in formulas.carried}
            (value,) = substitute([rule], given)
            if (target, weight) in new_carried:
                new_carried[target, weight] = value
            else:
                new[weight] = value
    return new, new_carried
