"""Stage 4: what one token does to a memory.  This is the meaning of a rule.

The events of `order` are played once, symbolically, on the weights.  Anchors, trajectories of sweeps,
momenta and duals are states like any other; after this stage nothing knows these words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from miras_dsl.ir import ONE, ZERO, Input, Node, Program, inputs_of, replace
from miras_dsl.ir import Number as Constant
from miras_dsl.lower import lower
from miras_dsl.model import Feed, MemoryModel, Weight
from miras_dsl.spec import Loss, MemorySpec, Number, Ref, walk

from .collect import Linear, Obstacle, collect
from .implicit import solved_implicitly
from .link import Link, link_of
from .model import exp, feeds_of, gate_input, signed_gates, stand_in, with_logarithms
from .penalty import proximal
from .refused import Refused


@dataclass(frozen=True, slots=True)
class UpdateRule:
    """New states and the answer, as formulas of the old states and one token.

    states    what is carried, as inputs of kind ``state``
    program   the whole step: results are ``y`` and every state's new value
    linear    each new state as ``Φ(states) + Σ u xᵀ``; empty when one of them is not of that form
    answer    y over ``after`` inputs (a state after this token) and ``state`` inputs (before it)
    refresh   what some states become at the start of each block of ``block`` tokens
    close     what some states become after the last token of a block, over the states after it
    block     tokens in a block; 0: there are no blocks
    micro     steps that one token takes (several pairs, or the same pair again)
    obstacle  why ``linear`` is empty
    """

    name: str
    model: MemoryModel
    feeds: tuple[Feed, ...]
    weights: tuple[Weight, ...]
    program: Program
    linear: tuple[tuple[Input, Linear], ...]
    answer: Node
    refresh: tuple[tuple[str, Node], ...]
    close: tuple[tuple[str, Node], ...]
    block: int
    micro: int
    obstacle: str = ""

    @property
    def states(self) -> tuple[Input, ...]:
        """The carried states before the token."""
        return tuple(state for state, _ in self.program.carried)


@dataclass(frozen=True, slots=True)
class _Course:
    """One course of the weights through a token: the states that hold them and their momenta."""

    weights: Mapping[str, Input]
    carried: Mapping[tuple[str, str], Input]


@dataclass(frozen=True, slots=True)
class _Played:
    """A course after a token: new values by state name, the answer, and where it was asked."""

    new: Mapping[str, Node]
    answer: Node | None
    asked: Mapping[str, Node]


def update_of(model: MemoryModel) -> UpdateRule:
    """Play one token."""
    algorithm, anchored = model.algorithm, model.algorithm.anchored
    carries = [(carry, weight.name) for weight in model.weights for carry in algorithm.carry]
    at_chunk = model.retention.at == "chunk"
    link = link_of(model)
    weights: list[Weight] = []

    def states(suffix: str, init: str | None) -> dict[str, Input]:
        for w in model.weights:
            weights.append(Weight(f"{w.name}{suffix}", w.name, w.axes, init or w.init))
        return {w.name: Input(f"{w.name}{suffix}", w.axes, "state") for w in model.weights}

    def momenta(suffix: str) -> dict[tuple[str, str], Input]:
        found = {}
        for carry, of in carries:
            axes = next(w.axes for w in model.weights if w.name == of)
            weights.append(Weight(f"{carry}.{of}{suffix}", of, axes, "zero"))
            found[carry, of] = Input(f"{carry}.{of}{suffix}", axes, "state")
        return found

    last = _Course(states("", "weight" if at_chunk else None), momenta(""))
    earlier = [
        _Course(states(f".{n}", "weight"), momenta(f".{n}"))
        for n in range(1, anchored.sweeps if anchored else 1)
    ]
    anchors = states(".anchor", "weight") if anchored else {}
    duals = states(".dual", None) if at_chunk else {}

    seen_through = None if at_chunk else link
    scale = scale_of(model)
    if scale is not None:
        seen_through = scaled(scale, anchors)
    source: Mapping[str, Node] = anchors
    new: dict[str, Node] = {state.name: state for state in anchors.values()}
    for course in [*earlier, last]:
        played = _play(model, course, source, seen_through, scale is None or source is not anchors)
        new |= played.new
        asked_last, source = source, played.asked
    if at_chunk:
        new |= _play(model, _Course(duals, last.carried), asked_last, None, True).new
    answer = played.answer
    if answer is None or (anchored and anchored.reads == "start"):
        (answer,) = replace([model.answer], _points(model, anchors, link if not at_chunk else None))
    close = tuple((s.name, seen_through(w, s)) for w, s in last.weights.items()) if scale is not None else ()

    refresh: list[tuple[str, Node]] = []
    for weight in anchors:
        start: Node = last.weights[weight]
        if at_chunk:
            assert link is not None
            start = link(weight, duals[weight])
            refresh.append((weight, start))
        refresh += [(course.weights[weight].name, start) for course in earlier]
        refresh.append((anchors[weight].name, start))
    for key, momentum in last.carried.items() if anchored else ():
        refresh += [(course.carried[key].name, momentum) for course in earlier]

    if algorithm.reset:
        refresh = _resets(model, weights)
    old = [Input(w.name, w.axes, "state") for w in weights]
    return _finish(model, old, new, answer, tuple(weights), tuple(refresh), close)


def _resets(model: MemoryModel, weights: list[Weight]) -> list[tuple[str, Node]]:
    """Every state is zero again.  Raises NoReset where it would have to start otherwise."""
    if model.algorithm.anchored or any(w.init != "zero" for w in weights):
        raise NoReset("`reset` goes with exact learning in weights that start at zero")
    return [(w.name, ZERO) for w in weights]


class NoReset(Refused):
    """A reset that this version cannot make."""

    code = "M0611"
    help = "leave `reset` out, or learn exactly in a matrix that starts at zero"


def scale_of(model: MemoryModel) -> Node | None:
    """How far a weight has moved from its anchor when it is used, as a factor of the way; None is 1."""
    anchored = model.algorithm.anchored
    if anchored is None or anchored.scale is None:
        return None
    return lower(anchored.scale, lambda ref: stand_in(ref, model.spec))


def scaled(scale: Node, anchors: Mapping[str, Input]) -> Link:
    """``anchor + scale (weight - anchor)``: the weight as reads see it (say by 1 / position)."""
    return lambda w, value: value * scale + anchors[w] * (ONE - scale)


def _play(
    model: MemoryModel,
    course: _Course,
    anchors: Mapping[str, Node],
    link: Link | None,
    linked_anchors: bool,
) -> _Played:
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
                moved = replace([g for _, g in model.gradients], _points(model, source, link if linked_anchors else None))
                slopes = dict(zip(names, moved, strict=True))
                if model.algorithm.implicit:
                    slopes = solved_implicitly(model, current)
                kept = current
                current, carried = _rules(model, kept, carried, slopes)
                if model.retention.penalty is not None:
                    current = {w: proximal(model, w, slopes[w], kept[w]) for w in kept}
            case "read":
                settled = not {"decay", "write"} & set(model.order[at + 1 :])
                seen: Mapping[str, Node] = current
                if settled:
                    seen = {w: Input(s.name, s.axes, "after") for w, s in course.weights.items()}
                (answer,) = replace([model.answer], _points(model, seen, link))
            case _:
                raise AssertionError(f"unknown event {event}")
    new = {course.weights[w].name: value for w, value in current.items()}
    new |= {course.carried[key].name: value for key, value in carried.items()}
    return _Played(new, answer, asked)


def _decay(spec: MemorySpec, weight: str) -> Node:
    decay = spec.retention.decay
    assert decay is not None, "the checker asks for `decay` in the order only with a decay"
    if isinstance(decay, Number):
        return Constant(decay.value)
    if decay.name in signed_gates(spec):
        _require_its_own(spec, decay.name)
        return gate_input(decay.name, spec, weight)
    return exp(gate_input(decay.name, spec, weight, log=True))


class SharedDecay(Refused):
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
    if any(isinstance(r, Ref) and r.name == gate for f in formulas for r in walk(f)):
        raise SharedDecay(f"the decay `{gate}` may be negative and does something else too")


def _points(model: MemoryModel, weights: Mapping[str, Node], link: Link | None) -> dict[Node, Node]:
    """The weights as gradients and answers see them: through the link, if there is one."""
    return {
        Input(w.name, w.axes, "point"): link(w.name, weights[w.name]) if link else weights[w.name]
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
                        return stand_in(ref, model.spec, weight)

            value = lower(formula, name)
            if target in model.algorithm.carry:
                new_carried[target, weight] = value
            else:
                new[weight] = value
    return new, new_carried


def _finish(
    model: MemoryModel,
    old: list[Input],
    new: Mapping[str, Node],
    answer: Node,
    weights: tuple[Weight, ...],
    refresh: tuple[tuple[str, Node], ...],
    close: tuple[tuple[str, Node], ...],
) -> UpdateRule:
    """Collect every new state and close the rule into a program."""
    spec, algorithm = model.spec, model.algorithm
    linear: dict[Input, Linear] = {}
    obstacle = ""
    moving = frozenset(state for state in old if new[state.name] is not state)
    try:
        for state in old:
            own = frozenset([state]) if new[state.name] is state else moving
            linear[state] = collect(new[state.name], state.axes, own)
        linear = with_logarithms(linear, spec)
    except Obstacle as reason:
        linear, obstacle = {}, str(reason)
    values = {s: linear[s].as_node() if s in linear else new[s.name] for s in old}
    (y,) = replace([answer], {Input(s.name, s.axes, "after"): v for s, v in values.items()})
    results = (("y", y), *((s.name, v) for s, v in values.items()))
    used = [x for x in inputs_of(node for _, node in results) if x.kind != "state"]
    names = {x.name for x in used} | {
        x.name for x in inputs_of(node for _, node in (*refresh, *close)) if x.kind != "state"
    }
    return UpdateRule(
        name=model.name,
        model=model,
        feeds=tuple(feed for name, feed in feeds_of(spec).items() if name in names),
        weights=weights,
        program=Program((*used, *old), results, tuple((s, s.name) for s in old)),
        linear=tuple(linear.items()),
        answer=answer,
        refresh=refresh,
        close=close,
        block=algorithm.anchored.block if algorithm.anchored else algorithm.reset,
        micro=max(algorithm.pairs, algorithm.steps),
        obstacle=obstacle,
    )
