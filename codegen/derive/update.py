"""Stage 4: what one token does to a memory.  This is the meaning of a rule.

The events of `order` are played once, symbolically, on the weights.  Anchors, trajectories of sweeps,
momenta and duals are states like any other; after this stage nothing knows these words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from miras_dsl.codegen.errors import DerivationError
from miras_dsl.codegen.inner_step.initial_dual import initial_dual, initial_mass
from miras_dsl.codegen.inner_step.mirror_map import Link, link_function
from miras_dsl.codegen.model.types import (
    InitialValue,
    MemoryInput,
    MemoryModel,
    StateKind,
    StateTensor,
)
from miras_dsl.codegen.passes.affine_state import (
    AffineUpdate,
    NotChunkable,
    to_affine_state,
    with_positive_scales,
)
from miras_dsl.ir import ZERO, Input, Node, Program, Role, inputs_of, substitute

from .logarithms import with_logarithms
from .token_step import Trajectory, run_token, weight_points


@dataclass(frozen=True, slots=True)
class UpdateRule:
    """New states and the answer, as formulas of the old states and one token.

    inputs           what the program reads of the token and the constants
    state_tensors    what is carried, with how each of them starts
    program          the whole step: results are ``y`` and the new value of every state
    affine           each new state as ``Φ(states) + Σ u xᵀ``; empty if one of them has not that form
    answer           y over the states after this token (role NEXT) and before it (role STATE)
    block_start      (state, its value at the start of a block), over the states before the block
    block_end        (state, its value after the last token of a block), over the states after it
    block            tokens of a block; 0: there are no blocks
    steps_per_token  steps that one token takes (several pairs, or the same pair again)
    obstacle         why ``affine`` is empty
    """

    name: str
    model: MemoryModel
    inputs: tuple[MemoryInput, ...]
    state_tensors: tuple[StateTensor, ...]
    program: Program
    affine: tuple[tuple[Input, AffineUpdate], ...]
    answer: Node
    block_start: tuple[tuple[str, Node], ...]
    block_end: tuple[tuple[str, Node], ...]
    block: int
    steps_per_token: int
    obstacle: str = ""

    @property
    def states(self) -> tuple[Input, ...]:
        """The carried states before the token."""
        return tuple(state for state, _ in self.program.carried)


def update_rule(model: MemoryModel) -> UpdateRule:
    """Play one token."""
    anchored, at_chunk = model.anchored, model.at_chunk
    link = link_function(model)
    weights: list[StateTensor] = []

    def states(suffix: str, init: str | None, kind: StateKind) -> dict[str, Input]:
        for w in model.weights:
            start = _start(model, w, kind)
            name = f"{w.name}{suffix}"
            weights.append(StateTensor(name, w.name, w.axes, init or w.init, kind, start))
        return {w.name: Input(f"{w.name}{suffix}", w.axes, Role.STATE) for w in model.weights}

    def momenta(suffix: str) -> dict[tuple[str, str], Input]:
        found = {}
        for w in model.weights:
            for carry in model.carry:
                name = f"{carry}.{w.name}{suffix}"
                weights.append(StateTensor(name, w.name, w.axes, "zero", StateKind.CARRIED))
                found[carry, w.name] = Input(name, w.axes, Role.STATE)
        return found

    last = Trajectory(states("", "weight" if at_chunk else None, StateKind.WEIGHT), momenta(""))
    earlier = [
        Trajectory(states(f".{n}", "weight", StateKind.TRAJECTORY), momenta(f".{n}"))
        for n in range(1, anchored.sweeps if anchored else 1)
    ]
    anchors = states(".anchor", "weight", StateKind.ANCHOR) if anchored else {}
    duals = states(".dual", None, StateKind.DUAL) if at_chunk else {}

    seen_through = None if at_chunk else link
    scale = anchored.scale if anchored else None
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
    if answer is None or (anchored and anchored.reads_start):
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

    if model.reset:
        refresh = _resets(model, weights)
    old = [Input(w.name, w.axes, Role.STATE) for w in weights]
    return _finish(model, old, new, answer, tuple(weights), tuple(refresh), close)


def _start(model: MemoryModel, weight: StateTensor, kind: StateKind) -> InitialValue | None:
    """How the first value of a tensor comes from a weight that begins positive."""
    if weight.init != "positive":
        return None
    linked = model.formulas_of(weight.name).potential is not None
    if linked and (kind is StateKind.DUAL or not model.at_chunk):
        return initial_dual(model, weight.name)
    return InitialValue(initial_mass(model, weight.name))


def _resets(model: MemoryModel, weights: list[StateTensor]) -> list[tuple[str, Node]]:
    """Every state is zero again.  Raises NoReset where it would have to start otherwise."""
    if model.anchored or any(w.init != "zero" for w in weights):
        raise NoReset("`reset` goes with exact learning in weights that start at zero")
    return [(w.name, ZERO) for w in weights]


class NoReset(DerivationError):
    """A reset that this version cannot make."""

    code = "M0611"
    help = "leave `reset` out, or learn exactly in a matrix that starts at zero"


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
    linear: dict[Input, AffineUpdate] = {}
    obstacle = ""
    moving = frozenset(state for state in old if new[state.name] is not state)
    try:
        for state in old:
            own = frozenset([state]) if new[state.name] is state else moving
            linear[state] = to_affine_state(new[state.name], state.axes, own)
        linear = with_positive_scales(with_logarithms(linear, model))
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
        inputs=tuple(given for given in model.inputs if given.name in names),
        state_tensors=weights,
        program=Program((*used, *old), results, tuple((s, s.name) for s in old)),
        affine=tuple(linear.items()),
        answer=answer,
        block_start=refresh,
        block_end=close,
        block=model.anchored.block if model.anchored else model.reset,
        steps_per_token=model.steps_per_token,
        obstacle=obstacle,
    )
