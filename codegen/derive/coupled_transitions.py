"""A state that takes in other states, such as a weight its momentum.

What a state at the start of the chunk, or a write, becomes in it passes through all ways by which it
enters: a sum over the tokens l at which the other state was taken in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from miras_dsl.codegen.model.inputs import VALID
from miras_dsl.codegen.passes.affine_state import NotChunkable
from miras_dsl.ir import (
    ONE,
    Cumsum,
    Decay,
    I,
    Input,
    J,
    L,
    Mask,
    Node,
    Triangle,
    broadcast,
    contract,
    rename,
)

from .transition import When

if TYPE_CHECKING:
    from .state_reader import WriteKey
    from .transitions import Transitions

Coupled = tuple[dict[Input, Node], "dict[WriteKey, Node]"]
"""The factor [i] of each state at the start of the chunk, and the triangle [i, j] of each write."""


def coupled_transitions(transitions: Transitions, state: Input) -> Coupled:
    """The transitions into a state that takes in others.  Raises NotChunkable where it has none."""
    logs = transitions.logs(state)
    if set(logs) - {None}:
        raise NotChunkable(f"{state.name} is fed by another state and decays by channel")
    own = _own_decay(logs.get(None))
    initial: dict[Input, Node] = {}
    dense: dict[WriteKey, Node] = {}
    triangle = rename(own, {L: J})
    for write in transitions.updates[state].writes:
        dense[write.u, write.x] = triangle * rename(
            broadcast(transitions.vectorize(write.scale), (I,)), {I: J}
        )
    for other, coefficient in transitions.coupled_states(state):
        taken = transitions.vectorize(coefficient)
        if set(taken.axes) - {I}:
            raise NotChunkable(f"{state.name} takes in {other.name} by channel")
        taken = rename(taken * VALID, {I: L})
        for first, transition in transitions.initial(other, When.BEFORE):
            if transition.logs or transition.turn:
                raise NotChunkable(f"{other.name} feeds {state.name} and decays by channel")
            factor = broadcast(ONE if transition.scalar is None else transition.scalar, (I,))
            reach = contract(own, rename(factor, {I: L}) * taken, (L,))
            initial[first] = initial[first] + reach if first in initial else reach
        for key, transition in transitions.of_writes(other, When.BEFORE):
            source = transition.triangle()
            if transition.logs or transition.turn:
                raise NotChunkable(f"{other.name} feeds {state.name} and decays by channel")
            if source is None:
                source = Mask(broadcast(ONE, (I, J)), Triangle(I, J, strict=True))
            source = source * rename(transition.scale, {I: J})
            reach = contract(own, rename(source, {I: L}) * taken, (L,))
            dense[key] = dense[key] + reach if key in dense else reach
    return initial, dense


def _own_decay(log: Node | None) -> Node:
    """The triangle [i, l] of a state's own decay, from the logarithm [i] of a scalar decay."""
    if log is None:
        return Mask(broadcast(ONE, (I, L)), Triangle(I, L))
    since_start = Cumsum(broadcast(log, (I,)), I)
    return Decay(since_start, rename(since_start, {I: L}), Triangle(I, L))
