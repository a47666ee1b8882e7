"""Stage 4: what one token does to a memory.  This is the meaning of a rule.

The events of `order` are executed once, symbolically (`token_step`).  The result is a program over
states; an anchor, the trajectory of a sweep, a momentum and a dual are states like any other, and later
stages do not tell them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from miras_dsl.codegen.errors import ConflictingClauses, DerivationError
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
from .running_max import MaxUpdate, max_update
from .token_step import Trajectory, run_token, weight_points


@dataclass(frozen=True, slots=True)
class UpdateRule:
    """New states and the answer, as formulas of the old states and one token.

    inputs           what the program reads of the token and the constants
    state_tensors    what is carried, with how each of them starts
    program          the whole step: results are ``y`` and the new value of every state
    affine           each new state as ``Φ(states) + Σ u xᵀ``, or as the largest value so far; empty if one
                     of them has neither form
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
    affine: tuple[tuple[Input, AffineUpdate | MaxUpdate], ...]
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
    """The update rule of a memory.

    Raises NoReset, SharedDecay, ConflictingClauses for a scaled block beside a link, and what the
    derivation of a link, a proximal or an implicit step raises: all are DerivationErrors, which the
    user sees as coded diagnostics.
    """
    anchored, at_chunk = model.anchored, model.at_chunk
    link = link_function(model)
    tensors: list[StateTensor] = []

    def states(suffix: str, init: str | None, kind: StateKind) -> dict[str, Input]:
        for w in model.weights:
            start = _start(model, w, kind)
            name = f"{w.name}{suffix}"
            tensors.append(StateTensor(name, w.name, w.axes, init or w.init, kind, start))
        return {w.name: Input(f"{w.name}{suffix}", w.axes, Role.STATE) for w in model.weights}

    def momenta(suffix: str) -> dict[tuple[str, str], Input]:
        found = {}
        for w in model.weights:
            for carry in model.carry:
                name = f"{carry}.{w.name}{suffix}"
                tensors.append(StateTensor(name, w.name, w.axes, "zero", StateKind.CARRIED))
                found[carry, w.name] = Input(name, w.axes, Role.STATE)
        return found

    last = Trajectory(states("", "weight" if at_chunk else None, StateKind.WEIGHT), momenta(""))
    earlier = [
        Trajectory(states(f".{n}", "weight", StateKind.TRAJECTORY), momenta(f".{n}"))
        for n in range(1, anchored.sweeps if anchored else 1)
    ]
    anchors = states(".anchor", "weight", StateKind.ANCHOR) if anchored else {}
    duals = states(".dual", None, StateKind.DUAL) if at_chunk else {}

    read_through = None if at_chunk else link
    scale = anchored.scale if anchored else None
    if scale is not None and link is not None:
        raise ConflictingClauses(
            "`scale` counts the steps of a block only in part, and the dual that a link or a potential "
            "carries counts them whole"
        )
    if scale is not None:
        read_through = scaled_from_anchor(scale, anchors)
    # The first trajectory learns from gradients at the anchors (where a scale has no effect), each
    # further one from gradients at the trajectory before it.  The last one is read.
    gradients_at: Mapping[str, Node] = anchors
    new: dict[str, Node] = {state.name: state for state in anchors.values()}
    for trajectory in [*earlier, last]:
        result = run_token(
            model,
            trajectory,
            gradients_at,
            read_through,
            scale is None or gradients_at is not anchors,
        )
        new |= result.new
        gradients_of_last, gradients_at = gradients_at, result.at_prediction
    # A link at the end of a block: the dual takes the same writes as the last trajectory, and the
    # weight becomes link(dual) when the next block starts.
    if at_chunk:
        new |= run_token(model, Trajectory(duals, last.carried), gradients_of_last, None, True).new
    answer = result.answer
    if answer is None or (anchored and anchored.reads_start):
        (answer,) = substitute(
            [model.answer], weight_points(model, anchors, link if not at_chunk else None)
        )
    block_end = (
        tuple((s.name, read_through(w, s)) for w, s in last.weights.items())
        if scale is not None
        else ()
    )

    block_start: list[tuple[str, Node]] = []
    for weight in anchors:
        start: Node = last.weights[weight]
        if at_chunk:
            assert link is not None
            start = link(weight, duals[weight])
            block_start.append((weight, start))
        block_start += [(trajectory.weights[weight].name, start) for trajectory in earlier]
        block_start.append((anchors[weight].name, start))
    for key, momentum in last.carried.items() if anchored else ():
        block_start += [(trajectory.carried[key].name, momentum) for trajectory in earlier]

    if model.reset:
        block_start = _resets(model, tensors)
    old = [Input(tensor.name, tensor.axes, Role.STATE) for tensor in tensors]
    return _assemble(model, old, new, answer, tuple(tensors), tuple(block_start), block_end)


def _start(model: MemoryModel, weight: StateTensor, kind: StateKind) -> InitialValue | None:
    """The first value of a tensor that belongs to a weight with positive rows; None for other weights."""
    if weight.init != "positive":
        return None
    linked = model.formulas_of(weight.name).potential is not None
    if linked and (kind is StateKind.DUAL or not model.at_chunk):
        return initial_dual(model, weight.name)
    return InitialValue(initial_mass(model, weight.name))


def _resets(model: MemoryModel, tensors: list[StateTensor]) -> list[tuple[str, Node]]:
    """Every state set to zero.  Raises NoReset where a state does not start at zero."""
    if model.anchored or any(tensor.init != "zero" for tensor in tensors):
        raise NoReset("`reset` goes with exact learning in weights that start at zero")
    return [(tensor.name, ZERO) for tensor in tensors]


class NoReset(DerivationError):
    """`reset` in a memory whose states do not all start at zero."""

    code = "M0611"
    help = "leave `reset` out, or learn exactly in a matrix that starts at zero"


def scaled_from_anchor(scale: Node, anchors: Mapping[str, Input]) -> Link:
    """``anchor + scale (weight - anchor)``: the value of a weight in reads (scale 1 / position, say)."""
    return lambda w, value: anchors[w] + (value - anchors[w]) * scale


def _without_next(values: Mapping[Input, Node]) -> dict[Input, Node]:
    """The new states as formulas of the states before the token alone: a rule may read what an earlier
    one has set."""
    done = dict(values)
    for _ in values:
        reads = {x for x in inputs_of(done.values()) if x.role is Role.NEXT}
        if not reads:
            break
        given = {x: done[Input(x.name, x.shape, Role.STATE)] for x in reads}
        done = dict(zip(done, substitute(list(done.values()), given), strict=True))
    return done


def _value(state: Input, update: AffineUpdate | MaxUpdate) -> Node:
    return update.as_node() if isinstance(update, AffineUpdate) else update.as_node(state)


def _assemble(
    model: MemoryModel,
    old: list[Input],
    new: Mapping[str, Node],
    answer: Node,
    state_tensors: tuple[StateTensor, ...],
    block_start: tuple[tuple[str, Node], ...],
    block_end: tuple[tuple[str, Node], ...],
) -> UpdateRule:
    """The rule with every new state as an affine formula of the old states, where all have that form."""
    affine: dict[Input, AffineUpdate | MaxUpdate] = {}
    obstacle = ""
    changing = frozenset(state for state in old if new[state.name] is not state)
    try:
        sums: dict[Input, AffineUpdate] = {}
        for state in old:
            if (largest := max_update(new[state.name], state)) is not None:
                affine[state] = largest
                continue
            own = frozenset([state]) if new[state.name] is state else changing
            sums[state] = to_affine_state(new[state.name], state.axes, own)
        sums = with_positive_scales(with_logarithms(sums, model))
        affine = {state: sums[state] if state in sums else affine[state] for state in old}
    except NotChunkable as reason:
        affine, obstacle = {}, str(reason)
    values = {s: _value(s, affine[s]) if s in affine else new[s.name] for s in old}
    values = _without_next(values)
    (y,) = substitute([answer], {Input(s.name, s.axes, Role.NEXT): v for s, v in values.items()})
    results = (("y", y), *((s.name, v) for s, v in values.items()))
    used = [x for x in inputs_of(node for _, node in results) if x.role is not Role.STATE]
    names = {x.name for x in used} | {
        x.name
        for x in inputs_of(node for _, node in (*block_start, *block_end))
        if x.role is not Role.STATE
    }
    return UpdateRule(
        name=model.name,
        model=model,
        inputs=tuple(given for given in model.inputs if given.name in names),
        state_tensors=state_tensors,
        program=Program((*used, *old), results, tuple((s, s.name) for s in old)),
        affine=tuple(affine.items()),
        answer=answer,
        block_start=block_start,
        block_end=block_end,
        block=model.anchored.block if model.anchored else model.reset,
        steps_per_token=model.steps_per_token,
        obstacle=obstacle,
    )
