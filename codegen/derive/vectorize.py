"""From a formula of one token to a formula of all tokens of a chunk, without states between tokens.

Every read of a state at token i becomes a read of the state at the start of the chunk plus a sum over
the writes of the chunk up to i: ``S_i q_i = Φ(i, 0) S_0 q_i + Σ_j Φ(i, j) (q_i · x_j) u_j``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from miras_dsl.codegen.model.inputs import VALID
from miras_dsl.codegen.passes.affine_state import (
    AffineUpdate,
    NotChunkable,
    RankOneWrite,
    to_affine_state,
)
from miras_dsl.ir import (
    ONE,
    ZERO,
    Axes,
    Axis,
    Contract,
    GatedApply,
    GatedContract,
    I,
    Input,
    J,
    Label,
    Mask,
    Node,
    Number,
    Role,
    broadcast,
    contract,
    inputs_of,
    postorder,
    rename,
    with_operands,
)

from .running_max import MaxUpdate, running_max
from .state_read import StateRead, WriteKey
from .transition import Transition, When, exponential
from .transitions import Transitions
from .update import UpdateRule


class TokenVectorizer(ABC):
    """Turns formulas of one token into formulas of a chunk, for one rule.

    A subclass says what the writes of all tokens are (`write`).

    vectorized   formula of one token -> the same for all tokens, with the axis i
    solved       write -> its vectors (U [i, *row], X [i, *column]) for all tokens
    in_progress  the writes that are being solved for
    evidence     a sentence for each step that decided the class of the rule
    couplings    how writes depend on earlier ones: "affine", "substitution"
    labels       what the derivation calls some of the values
    """

    def __init__(self, rule: UpdateRule) -> None:
        self.rule = rule
        self.updates = dict(rule.affine)
        self.states = frozenset(self.updates)
        self.transitions = Transitions(self.updates, self.vectorize, rule.model.logarithms)
        self.vectorized: dict[Node, Node] = {}
        self.solved: dict[WriteKey, tuple[Node, Node | None]] = {}
        self.in_progress: set[WriteKey] = set()
        self.evidence: list[str] = []
        self.couplings: set[str] = set()
        self.labels: dict[Node, Label] = {}

    # ------------------------------------------------------------ formulas

    def vectorize(self, node: Node) -> Node:
        """A formula of one token as a formula of all tokens of the chunk."""
        for part in postorder([node]):
            if part not in self.vectorized and not self.is_matrix(part):
                self.vectorized[part] = self._vectorize_node(part)
                known = self.rule.program.labels.get(part)
                if known is not None:
                    self.label(self.vectorized[part], known.name, known.clause)
        return self._vectorized_operand(node)

    def label(self, node: Node, name: str, clause: str = "") -> Node:
        """The node itself, labelled: plans and generated code take their names from labels."""
        if not isinstance(node, Input | Number):
            self.labels.setdefault(node, Label(name, clause))
        return node

    def _vectorized_operand(self, node: Node) -> Node:
        if node not in self.vectorized:
            self.vectorized[node] = self._materialize(node)
        return self.vectorized[node]

    def is_matrix(self, node: Node) -> bool:
        """Whether ``node`` is a formula of states with a state's axes: it is read, not vectorized."""
        if len(node.axes) < 2:
            return False
        if not any(x.role in (Role.STATE, Role.NEXT) for x in inputs_of([node])):
            return False
        return any(node.axes == state.axes for state in self.states)

    def _vectorize_node(self, node: Node) -> Node:
        if isinstance(node, Input):
            if node.role.per_token:
                return Input(node.name, (I, *node.axes), node.role)
            return self._materialize(node) if node.role in (Role.STATE, Role.NEXT) else node
        if isinstance(node, Contract):
            for matrix, other in ((node.left, node.right), (node.right, node.left)):
                if self.is_matrix(matrix) and not self.is_matrix(other) and len(node.over) == 1:
                    return self._contract_state(
                        matrix, self._vectorized_operand(other), node.over[0]
                    )
        return (
            with_operands(
                node, {operand: self._vectorized_operand(operand) for operand in node.operands}
            )
            if node.operands
            else node
        )

    # ------------------------------------------------------------ reading states

    def _contract_state(self, matrix: Node, query: Node, over: Axis) -> Node:
        """``matrix`` contracted with ``query`` [i, *axes] over an axis.

        A matrix that is no affine formula of states (it goes through a link, say) is computed for
        every token.
        """
        try:
            reading = self.read(matrix, query, over)
        except NotChunkable:
            if isinstance(matrix, Input):
                raise
            return contract(self._vectorized_operand(matrix), query, (over,))
        return reading.value(over)

    def read(self, matrix: Node, query: Node, over: Axis) -> StateRead:
        """The read ``matrix @ query`` over axis ``over``; ``matrix`` is an affine formula of states.

        Raises NotChunkable if it is not.
        """
        if isinstance(matrix, Input):
            when = When.of(matrix)
            return self._read_state(Input(matrix.name, matrix.shape, Role.STATE), when, query, over)
        axes = matrix.axes
        afters = {Input(state.name, state.shape, Role.NEXT) for state in self.states}
        found = to_affine_state(matrix, axes, self.states | afters)
        state = found.keep[0][0] if found.keep else None
        if state is not None and found == AffineUpdate(self._decayed(state), ()):
            return self._read_state(state, When.DECAYED, query, over)
        reading = StateRead()
        for state, coefficient in found.keep:
            gate = self.vectorize(coefficient)
            onto = gate if over in gate.axes else ONE
            when = When.of(state)
            one = self._read_state(
                Input(state.name, state.shape, Role.STATE), when, query * onto, over
            )
            reading.add(one, ONE if over in gate.axes else gate)
        for write in found.writes:
            reading.free = reading.free + self._own_write(write, query, over, axes)
        return reading

    def _decayed(self, state: Input) -> tuple[tuple[Input, Node], ...]:
        """What the update of a state keeps, if that is its own decayed value alone; else nothing."""
        if state not in self.updates:
            return ()
        keep = self.updates[state].keep
        return keep if len(keep) == 1 and keep[0][0] is state else ()

    def _own_write(self, write: RankOneWrite, query: Node, over: Axis, axes: Axes) -> Node:
        """What a write of the reading token itself adds to its read."""
        key = (write.u, write.x)
        if key in self.in_progress:
            raise NotChunkable("a write depends on itself within one token")
        u, x = (
            self.write(key)
            if key in self._write_keys()
            else (self.vectorize(write.u), write.x and self.vectorize(write.x))
        )
        assert x is not None
        matched, result = (x, u) if over == axes[-1] else (u, x)
        return contract(query, matched, (over,)) * result * self.vectorize(write.scale)

    def _read_state(self, state: Input, when: When, query: Node, over: Axis) -> StateRead:
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
            reading.free = reading.free + self._own_write(write, query, over, state.axes)
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

    def _materialize(self, node: Node) -> Node:
        """A state, or a formula of states, computed for every token: [i, *axes]."""
        if not isinstance(node, Input):
            return with_operands(
                node, {operand: self._vectorized_operand(operand) for operand in node.operands}
            )
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

    # ------------------------------------------------------------ writes

    def _write_keys(self) -> set[WriteKey]:
        return {(w.u, w.x) for update in self.updates.values() for w in update.writes}

    @abstractmethod
    def write(self, key: WriteKey) -> tuple[Node, Node | None]:
        """The vectors (U [i, *row], X [i, *column]) of a write, for all tokens; X is None for a state
        that is a vector.

        Raises NotChunkable if they cannot be solved for.
        """
