"""A formula of one token as a formula of all tokens of a chunk, its states unrolled away."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

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

from .transitions import Transition, Transitions, When, exponential
from .update import UpdateRule

Key = tuple[Node, Node | None]
"""A write is known by its two vectors; states that share them (a weight and its momentum) share it."""


@dataclass(slots=True)
class StateRead:
    """A use of a state within a chunk: ``free + Σ (query · S_0) gate + Σ_a score_a U_a``."""

    free: Node = ZERO
    entries: list[tuple[Input, Node, Node]] = field(default_factory=list)
    unknown: dict[Key, tuple[Node, tuple[Node, Node] | None]] = field(default_factory=dict)

    def add(self, other: StateRead, query: Node, gate: Node) -> None:
        """Add another reading whose answer is multiplied by ``gate``; ``query`` multiplies what it asks."""
        self.free = self.free + other.free * gate
        self.entries += [
            (state, asked * query, after * gate) for state, asked, after in other.entries
        ]
        for key, (score, gates) in other.unknown.items():
            assert key not in self.unknown
            if gate.axes[1:]:
                raise NotChunkable(
                    "what is kept of the memory has a factor for every row and every column"
                )
            self.unknown[key] = (score * gate, gates)

    def value(self, over: Axis) -> Node:
        """The reading as a node; every write must be known."""
        result = self.free
        for state, query, gate in self.entries:
            result = result + contract(query, state, (over,)) * gate
        return result


class TokenVectorizer(ABC):
    """Token formulas to chunk formulas, with the states unrolled away."""

    def __init__(self, rule: UpdateRule) -> None:
        self.rule = rule
        self.linear = dict(rule.affine)
        self.states = frozenset(self.linear)
        self.paths = Transitions(self.linear, self.lift, rule.model.logarithms)
        self.done: dict[Node, Node] = {}
        self.written: dict[Key, tuple[Node, Node | None]] = {}
        self.pending: set[Key] = set()
        self.evidence: list[str] = []
        self.kinds: set[str] = set()
        self.labels: dict[Node, Label] = {}

    # ------------------------------------------------------------ lifting

    def lift(self, node: Node) -> Node:
        """A formula of one token as a formula of all tokens of the chunk."""
        for part in postorder([node]):
            if part not in self.done and not self.is_matrix(part):
                self.done[part] = self._one(part)
                known = self.rule.program.labels.get(part)
                if known is not None:
                    self.label(self.done[part], known.name, known.clause)
        return self._lifted(node)

    def label(self, node: Node, name: str, clause: str = "") -> Node:
        """The node, which a plan will call by this name."""
        if not isinstance(node, Input | Number):
            self.labels.setdefault(node, Label(name, clause))
        return node

    def _lifted(self, node: Node) -> Node:
        if node not in self.done:
            self.done[node] = self._materialised(node)
        return self.done[node]

    def is_matrix(self, node: Node) -> bool:
        """Whether ``node`` is a state as a whole: it is not lifted but read or materialised."""
        if len(node.axes) < 2 or not isinstance(node, Node):
            return False
        if not any(x.role in (Role.STATE, Role.NEXT) for x in inputs_of([node])):
            return False
        return any(node.axes == state.axes for state in self.states)

    def _one(self, node: Node) -> Node:
        if isinstance(node, Input):
            if node.role.per_token:
                return Input(node.name, (I, *node.axes), node.role)
            return self._materialised(node) if node.role in (Role.STATE, Role.NEXT) else node
        if isinstance(node, Contract):
            for matrix, other in ((node.left, node.right), (node.right, node.left)):
                if self.is_matrix(matrix) and not self.is_matrix(other) and len(node.over) == 1:
                    return self._answer(matrix, self._lifted(other), node.over[0])
        return (
            with_operands(node, {operand: self._lifted(operand) for operand in node.operands})
            if node.operands
            else node
        )

    # ------------------------------------------------------------ reading states

    def _answer(self, matrix: Node, query: Node, over: Axis) -> Node:
        """What a state answers; where it is seen through a link, the state of every token is made."""
        try:
            reading = self.read(matrix, query, over)
        except NotChunkable:
            if isinstance(matrix, Input):
                raise
            return contract(self._lifted(matrix), query, (over,))
        return reading.value(over)

    def read(self, matrix: Node, query: Node, over: Axis) -> StateRead:
        """``matrix`` (an affine formula of states at one when of the token) asked with ``query``."""
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
            gate = self.lift(coefficient)
            onto = gate if over in gate.axes else ONE
            when = When.of(state)
            asked = self._read_state(
                Input(state.name, state.shape, Role.STATE), when, query * onto, over
            )
            reading.add(asked, ONE, ONE if over in gate.axes else gate)
        for write in found.writes:
            reading.free = reading.free + self._local(write, query, over, axes)
        return reading

    def _decayed(self, state: Input) -> tuple[tuple[Input, Node], ...]:
        """The old state times its own decay, if that is all that its rule keeps."""
        if state not in self.linear:
            return ()
        keep = self.linear[state].keep
        return keep if len(keep) == 1 and keep[0][0] is state else ()

    def _local(self, write: RankOneWrite, query: Node, over: Axis, axes: Axes) -> Node:
        """What this token's own write adds to a reading."""
        key = (write.u, write.x)
        if key in self.pending:
            raise NotChunkable("a write depends on itself within one token")
        u, x = (
            self.write(key)
            if key in self._all_writes()
            else (self.lift(write.u), write.x and self.lift(write.x))
        )
        assert x is not None
        asked, given = (x, u) if over == axes[-1] else (u, x)
        return contract(query, asked, (over,)) * given * self.lift(write.scale)

    def _read_state(self, state: Input, when: When, query: Node, over: Axis) -> StateRead:
        reading = StateRead()
        for entry, path in self.paths.entries(state, when):
            asked = query
            gate: Node = path.scalar if path.scalar is not None else ONE
            for axis, log in path.logs:
                if axis == over:
                    asked = asked * exponential(log)
                else:
                    gate = gate * exponential(log)
            if not gate.axes[1:]:
                asked, gate = asked * gate, ONE
            reading.entries.append((entry, asked, gate))
        for key, path in self.paths.writes(state, when):
            if key in self.pending:
                u, x = None, self.lift(key[1]) if key[1] is not None else None
            else:
                u, x = self.write(key)
            assert x is not None
            row_side = over == state.axes[-1]
            if not row_side and u is None:
                raise NotChunkable("the memory's row vector depends on itself through the state")
            score = self._score(query, x if row_side else u, path, over)  # type: ignore[arg-type]
            gates = path.gates(state.axes[0] if row_side else state.axes[-1])
            if u is None:
                reading.unknown[key] = (score, gates)
                continue
            given = rename(u if row_side else x, {I: J})
            if gates is None:
                reading.free = reading.free + contract(score, given, (J,))
            else:
                channel = state.axes[0] if row_side else state.axes[-1]
                reading.free = reading.free + GatedApply(
                    score, given, gates[0], rename(gates[1], {I: J}), channel, path.reach, J
                )
        return reading

    def _score(self, query: Node, side: Node, path: Transition, over: Axis) -> Node:
        """``score[i, j]``: how much of write j the query of token i meets."""
        later = rename(side, {I: J})
        gates = path.gates(over)
        if gates is not None:
            score: Node = GatedContract(
                query, later, gates[0], rename(gates[1], {I: J}), over, path.reach
            )
        else:
            score = contract(query, later, (over,))
        triangle = path.triangle()
        if triangle is not None:
            score = score * triangle
        elif gates is None:
            score = Mask(score, path.reach)
        return score * rename(path.scale * VALID, {I: J})

    def _materialised(self, node: Node) -> Node:
        """A state, or a formula of states, for every token: `[#i, …]`."""
        if not isinstance(node, Input):
            return with_operands(
                node, {operand: self._lifted(operand) for operand in node.operands}
            )
        state = Input(node.name, node.shape, Role.STATE)
        when = When.of(node)
        if state not in self.states:
            raise NotChunkable(f"{node.name} is not a state of this memory")
        result: Node = ZERO
        for entry, path in self.paths.entries(state, when):
            value: Node = entry if path.scalar is None else entry * path.scalar
            for _, log in path.logs:
                value = value * exponential(log)
            result = result + broadcast(value, (I,))
        for key, path in self.paths.writes(state, when):
            if key in self.pending:
                raise NotChunkable("the update is not a formula of its predictions alone")
            u, x = self.write(key)
            weight = rename(path.scale * VALID, {I: J})
            triangle = path.triangle()
            weight = broadcast(weight, (I,)) if triangle is None else weight * triangle
            if x is None:
                gates = path.gates(state.axes[0])
                given = rename(u, {I: J})
                if gates is None:
                    masked = weight if triangle is not None else Mask(weight, path.reach)
                    result = result + contract(masked, given, (J,))
                else:
                    result = result + GatedApply(
                        weight,
                        given,
                        gates[0],
                        rename(gates[1], {I: J}),
                        state.axes[0],
                        path.reach,
                        J,
                    )
                continue
            masked = path.dense_channels(weight)
            result = result + contract(masked, rename(u, {I: J}) * rename(x, {I: J}), (J,))
        return result

    # ------------------------------------------------------------ writes

    def _all_writes(self) -> set[Key]:
        return {(w.u, w.x) for linear in self.linear.values() for w in linear.writes}

    @abstractmethod
    def write(self, key: Key) -> tuple[Node, Node | None]:
        """The rows of a write and what they are at, for all tokens of the chunk.  May raise Obstacle."""
