"""Stage 4: what one token does to a memory.  This is the meaning of a rule.

The events of `order` are played once, symbolically, on the weights.  Anchors, trajectories of sweeps,
momenta and duals are states like any other; after this stage nothing knows these words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from miras_dsl.codegen.errors import DerivationError
from miras_dsl.codegen.inner_step.mirror_map import Link, link_function
from miras_dsl.codegen.model.build import memory_inputs, program_input, with_logarithms
from miras_dsl.codegen.model.lower import lower
from miras_dsl.codegen.model.types import MemoryInput, MemoryModel, StateTensor
from miras_dsl.codegen.passes.affine_state import AffineUpdate, NotChunkable, to_affine_state
from miras_dsl.ir import ZERO, Input, Node, Program, Role, inputs_of, substitute

from .token_step import Trajectory, run_token, weight_points


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
    feeds: tuple[MemoryInput, ...]
    weights: tuple[StateTensor, ...]
    program: Program
    linear: tuple[tuple[Input, AffineUpdate], ...]
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


def update_rule(model: MemoryModel) -> UpdateRule:
    """Play one token."""
    algorithm, anchored = model.algorithm, model.algorithm.anchored
    carries = [(carry, weight.name) for weight in model.weights for carry in algorithm.carry]
    at_chunk = model.retention.at == "chunk"
    link = link_function(model)
    weights: list[StateTensor] = []

    def states(suffix: str, init: str | None) -> dict[str, Input]:
        for w in model.weights:
            weights.append(StateTensor(f"{w.name}{suffix}", w.name, w.axes, init or w.init))
        return {w.name: Input(f"{w.name}{suffix}", w.axes, Role.STATE) for w in model.weights}

    def momenta(suffix: str) -> dict[tuple[str, str], Input]:
        found = {}
        for carry, of in carries:
            axes = next(w.axes for w in model.weights if w.name == of)
            weights.append(StateTensor(f"{carry}.{of}{suffix}", of, axes, "zero"))
            found[carry, of] = Input(f"{carry}.{of}{suffix}", axes, Role.STATE)
        return found

    last = Trajectory(states("", "weight" if at_chunk else None), momenta(""))
    earlier = [
        Trajectory(states(f".{n}", "weight"), momenta(f".{n}"))
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
        played = run_token(
            model, course, source, seen_through, scale is None or source is not anchors
        )
        new |= played.new
        asked_last, source = source, played.asked
    if at_chunk:
        new |= run_token(model, Trajectory(duals, last.carried), asked_last, None, True).new
    answer = played.answer
    if answer is None or (anchored and anchored.reads == "start"):
        (answer,) = substitute(
            [model.answer], weight_points(model, anchors, link if not at_chunk else None)
        )
    close = (
        tuple((s.name, seen_through(w, s)) for w, s in last.weights.items())
        if scale is not None
        else ()
    )

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
    old = [Input(w.name, w.axes, Role.STATE) for w in weights]
    return _finish(model, old, new, answer, tuple(weights), tuple(refresh), close)


def _resets(model: MemoryModel, weights: list[StateTensor]) -> list[tuple[str, Node]]:
    """Every state is zero again.  Raises NoReset where it would have to start otherwise."""
    if model.algorithm.anchored or any(w.init != "zero" for w in weights):
        raise NoReset("`reset` goes with exact learning in weights that start at zero")
    return [(w.name, ZERO) for w in weights]


class NoReset(DerivationError):
    """A reset that this version cannot make."""

    code = "M0611"
    help = "leave `reset` out, or learn exactly in a matrix that starts at zero"


def scale_of(model: MemoryModel) -> Node | None:
    """How far a weight has moved from its anchor when it is used, as a factor of the way; None is 1."""
    anchored = model.algorithm.anchored
    if anchored is None or anchored.scale is None:
        return None
    return lower(anchored.scale, lambda ref: program_input(ref, model.spec))


def scaled(scale: Node, anchors: Mapping[str, Input]) -> Link:
    """``anchor + scale (weight - anchor)``: the weight as reads see it (say by 1 / position)."""
    return lambda w, value: anchors[w] + (value - anchors[w]) * scale


def _finish(
    model: MemoryModel,
    old: list[Input],
    new: Mapping[str, Node],
    answer: Node,
    weights: tuple[StateTensor, ...],
    refresh: tuple[tuple[str, Node], ...],
    close: tuple[tuple[str, Node], ...],
) -> UpdateRule:
    """Collect every new state and close the rule into a program."""
    spec, algorithm = model.spec, model.algorithm
    linear: dict[Input, AffineUpdate] = {}
    obstacle = ""
    moving = frozenset(state for state in old if new[state.name] is not state)
    try:
        for state in old:
            own = frozenset([state]) if new[state.name] is state else moving
            linear[state] = to_affine_state(new[state.name], state.axes, own)
        linear = with_logarithms(linear, spec)
    except NotChunkable as reason:
        linear, obstacle = {}, str(reason)
    values = {s: linear[s].as_node() if s in linear else new[s.name] for s in old}
    (y,) = substitute([answer], {Input(s.name, s.axes, Role.NEXT): v for s, v in values.items()})
    results = (("y", y), *((s.name, v) for s, v in values.items()))
    used = [x for x in inputs_of(node for _, node in results) if x.role is not Role.STATE]
    names = {x.name for x in used} | {
        x.name
        for x in inputs_of(node for _, node in (*refresh, *close))
        if x.role is not Role.STATE
    }
    return UpdateRule(
        name=model.name,
        model=model,
        feeds=tuple(feed for name, feed in memory_inputs(spec).items() if name in names),
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
