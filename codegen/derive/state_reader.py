"""States at every token of a chunk: contracted with a query, or themselves.

``S_i q_i = Φ(i, 0) S_0 q_i + Σ_j Φ(i, j) (q_i · x_j) u_j``: the state at the start of the chunk, and the
writes of the chunk up to token i.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from miras_dsl.codegen.model.inputs import VALID
from miras_dsl.codegen.passes.affine_state import NotChunkable, RankOneWrite
from miras_dsl.ir import (
    ONE,
    ZERO,
    Axes,
    Axis,
    GatedApply,
    GatedContract,
    I,
    Input,
    J,
    Mask,
    Node,
    Role,
    broadcast,
    contract,
    rename,
)

from .running_max import MaxUpdate, running_max
from .transition import Transition, When, exponential
from .transitions import Transitions
from .update import UpdateRule

WriteKey = tuple[Node, Node | None]
"""A write ``u xᵀ`` is identified by its vectors (u, x), formulas of one token; x is None for a state that
is a vector.  States that take in the same vectors, such as a weight and its momentum, share the write."""


@dataclass(slots=True)
class StateRead:
    """A read of a state by every token: ``free + Σ_S (query · S_0) gate + Σ_a score_a U_a``.

    free     [i, *axes], what needs no state at the start of the chunk
    initial  (state, query [i, *axes], gate [i, *axes]) for each state at the start of the chunk
    unknown  write -> (score [i, j], its channel gates (a, b)): of writes that are still to be solved for
    """

    free: Node = ZERO
    initial: list[tuple[Input, Node, Node]] = field(default_factory=list)
    unknown: dict[WriteKey, tuple[Node, tuple[Node, Node] | None]] = field(default_factory=dict)

    def add_unknown(self, key: WriteKey, score: Node, gates: tuple[Node, Node] | None) -> None:
        """Add the score of a write that is still to be solved for; one may come in several parts."""
        if key in self.unknown:
            known, same = self.unknown[key]
            assert same == gates, "parts of one write have the same gates"
            score = known + score
        self.unknown[key] = (score, gates)

    def add(self, other: StateRead, gate: Node) -> None:
        """Add another read, times ``gate`` [i, *axes].

        Raises NotChunkable if a write to be solved for would get a factor for each row.
        """
        self.free = self.free + other.free * gate
        self.initial += [(state, query, own * gate) for state, query, own in other.initial]
        for key, (score, gates) in other.unknown.items():
            assert key not in self.unknown
            if gate.axes[1:]:
                raise NotChunkable(
                    "what is kept of the memory has a factor for every row and every column"
                )
            self.unknown[key] = (score * gate, gates)

    def value(self, over: Axis) -> Node:
        """The read as a node, contracted over axis ``over``; of writes still unknown nothing is in it."""
        result = self.free
        for state, query, gate in self.initial:
            result = result + contract(query, state, (over,)) * gate
        return result


class StateReader(ABC):
    """Reads the states of one rule; a subclass vectorizes formulas and solves for writes.

    updates      state -> its new value
    transitions  what is left of states and writes at later tokens
    in_progress  the writes that are being solved for
    """

    def __init__(self, rule: UpdateRule) -> None:
        self.rule = rule
        self.updates = dict(rule.affine)
        self.states = frozenset(self.updates)
        self.transitions = Transitions(self.updates, self.vectorize, rule.model.logarithms)
        self.in_progress: set[WriteKey] = set()

    @abstractmethod
    def vectorize(self, node: Node) -> Node:
        """A formula of one token as a formula of all tokens of the chunk."""

    @abstractmethod
    def write(self, key: WriteKey) -> tuple[Node, Node | None]:
        """The vectors (U [i, *row], X [i, *column]) of a write, for all tokens; X is None for a state
        that is a vector or a number.

        Raises NotChunkable if they cannot be solved for.
        """

    def write_keys(self) -> set[WriteKey]:
        """The writes of all states."""
        return {(w.u, w.x) for update in self.updates.values() for w in update.writes}

    def own_write(self, write: RankOneWrite, query: Node, over: Axis, axes: Axes) -> Node:
        """What a write of the reading token itself adds to its read."""
        key = (write.u, write.x)
        if key in self.in_progress:
            raise NotChunkable("a write depends on itself within one token")
        u, x = (
            self.write(key)
            if key in self.write_keys()
            else (self.vectorize(write.u), write.x and self.vectorize(write.x))
        )
        assert x is not None
        matched, result = (x, u) if over == axes[-1] else (u, x)
        return contract(query, matched, (over,)) * result * self.vectorize(write.scale)

    def read_state(self, state: Input, when: When, query: Node, over: Axis) -> StateRead:
        """The read of one state at a moment of every token."""
        reading = StateRead()
        for first, transition in self.transitions.initial(state, when):
            own_query = query
            gate: Node = transition.scalar if transition.scalar is not None else ONE
            for axis, log in transition.logs:
                if axis == over:
                    own_query = own_query * exponential(log)
                else:
                    gate = gate * exponential(log)
            if transition.turn is not None:
                axis, factor = transition.turn
                if axis in (None, over):
                    own_query = own_query * factor
                else:
                    gate = gate * factor
            if not gate.axes[1:]:
                own_query, gate = own_query * gate, ONE
            reading.initial.append((first, own_query, gate))
        for key, transition in self.transitions.of_writes(state, when):
            if key in self.in_progress:
                u, x = None, self.vectorize(key[1]) if key[1] is not None else None
            else:
                u, x = self.write(key)
            assert x is not None
            row_side = over == state.axes[-1]
            if not row_side and u is None:
                raise NotChunkable("the memory's row vector depends on itself through the state")
            turn, asked, after = transition.turn, query, ONE
            side = x if row_side else u
            assert side is not None
            if turn is not None and turn.axis in (None, over):
                asked, side = query * turn.after, side * turn.before
            elif turn is not None and u is None:
                raise NotChunkable("what the memory predicts turns by channel")
            elif turn is not None:
                after = turn.after
            score = self._score(asked, side, transition, over)
            gates = transition.gates(state.axes[0] if row_side else state.axes[-1])
            if u is None:
                reading.add_unknown(key, score, gates)
                continue
            given = u if row_side else x
            if after is not ONE:
                assert turn is not None
                given = given * turn.before
            given = rename(given, {I: J})
            if gates is None:
                found = contract(score, given, (J,))
            else:
                channel = state.axes[0] if row_side else state.axes[-1]
                found = GatedApply(
                    score, given, gates[0], rename(gates[1], {I: J}), channel, transition.reach, J
                )
            reading.free = reading.free + found * after
        for write in self.transitions.own_writes(state, when):
            reading.free = reading.free + self.own_write(write, query, over, state.axes)
        return reading

    def _score(self, query: Node, side: Node, transition: Transition, over: Axis) -> Node:
        """``score[i, j]``: the factor with which write j enters the read of token i.

        side  the vector of the write that is contracted with the query, over axis ``over``
        """
        later = rename(side, {I: J})
        gates = transition.gates(over)
        if gates is not None:
            score: Node = GatedContract(
                query, later, gates[0], rename(gates[1], {I: J}), over, transition.reach
            )
        else:
            score = contract(query, later, (over,))
        triangle = transition.triangle()
        if triangle is not None:
            score = score * triangle
        elif gates is None:
            score = Mask(score, transition.reach)
        return score * rename(transition.scale * VALID, {I: J})

    def every_token(self, node: Input) -> Node:
        """A state, as every token finds it (role STATE) or leaves it (role NEXT): [i, *axes]."""
        state = Input(node.name, node.shape, Role.STATE)
        when = When.of(node)
        if state not in self.states:
            raise NotChunkable(f"{node.name} is not a state of this memory")
        update = self.updates[state]
        if isinstance(update, MaxUpdate):
            with self.transitions.deriving("largest", state):
                return running_max(update, state, when, self.vectorize)
        result: Node = ZERO
        for first, transition in self.transitions.initial(state, when):
            value: Node = first if transition.scalar is None else first * transition.scalar
            for _, log in transition.logs:
                value = value * exponential(log)
            if transition.turn is not None:
                value = value * transition.turn[1]
            result = result + broadcast(value, (I,))
        for key, transition in self.transitions.of_writes(state, when):
            if key in self.in_progress:
                raise NotChunkable("the update is not a formula of its predictions alone")
            u, x = self.write(key)
            turn = transition.turn
            after = turn.after if turn is not None else ONE
            if turn is not None and (x is None or turn.axis in (None, state.axes[0])):
                u = u * turn.before
            elif turn is not None:
                assert x is not None
                x = x * turn.before
            weight = rename(transition.scale * VALID, {I: J})
            triangle = transition.triangle()
            weight = broadcast(weight, (I,)) if triangle is None else weight * triangle
            if x is None:
                gates = transition.gates(state.axes[0]) if state.axes else None
                given = rename(u, {I: J})
                if gates is None:
                    masked = weight if triangle is not None else Mask(weight, transition.reach)
                    found = contract(masked, given, (J,))
                else:
                    found = GatedApply(
                        weight,
                        given,
                        gates[0],
                        rename(gates[1], {I: J}),
                        state.axes[0],
                        transition.reach,
                        J,
                    )
                result = result + found * after
                continue
            masked = transition.dense_channels(weight)
            found = contract(masked, rename(u, {I: J}) * rename(x, {I: J}), (J,))
            result = result + found * after
        for write in self.transitions.own_writes(state, when):
            u, x = self.write((write.u, write.x))
            result = result + (u if x is None else u * x) * self.vectorize(write.scale) * VALID
        return result
