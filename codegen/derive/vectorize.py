"""From a formula of one token to a formula of all tokens of a chunk, without states between tokens.

Every read of a state at token i becomes a read of the state at the start of the chunk plus a sum over
the writes of the chunk up to i: ``S_i q_i = Φ(i, 0) S_0 q_i + Σ_j Φ(i, j) (q_i · x_j) u_j``.
"""

from __future__ import annotations

from miras_dsl.codegen.passes.affine_state import (
    AffineUpdate,
    NotChunkable,
    to_affine_state,
)
from miras_dsl.ir import (
    ONE,
    Axis,
    Contract,
    I,
    Input,
    Label,
    Node,
    Number,
    Role,
    contract,
    inputs_of,
    postorder,
    with_operands,
)

from .state_reader import StateRead, StateReader, WriteKey
from .transition import When
from .update import UpdateRule


class TokenVectorizer(StateReader):
    """Turns formulas of one token into formulas of a chunk, for one rule.

    A subclass says what the writes of all tokens are (`write`).

    vectorized   formula of one token -> the same for all tokens, with the axis i
    solved       write -> its vectors (U [i, *row], X [i, *column]) for all tokens
    evidence     a sentence for each step that decided the class of the rule
    couplings    how writes depend on earlier ones: "affine", "substitution"
    labels       what the derivation calls some of the values
    """

    def __init__(self, rule: UpdateRule) -> None:
        self.vectorized: dict[Node, Node] = {}
        self.solved: dict[WriteKey, tuple[Node, Node | None]] = {}
        self.evidence: list[str] = []
        self.couplings: set[str] = set()
        self.labels: dict[Node, Label] = {}
        super().__init__(rule)

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
            self.vectorized[node] = (
                self.every_token(node)
                if isinstance(node, Input)
                else with_operands(node, {x: self._vectorized_operand(x) for x in node.operands})
            )
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
            return self.every_token(node) if node.role in (Role.STATE, Role.NEXT) else node
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
            return self.read_state(Input(matrix.name, matrix.shape, Role.STATE), when, query, over)
        axes = matrix.axes
        afters = {Input(state.name, state.shape, Role.NEXT) for state in self.states}
        found = to_affine_state(matrix, axes, self.states | afters)
        state = found.keep[0][0] if found.keep else None
        if state is not None and found == AffineUpdate(self._decayed(state), ()):
            return self.read_state(state, When.DECAYED, query, over)
        reading = StateRead()
        for state, coefficient in found.keep:
            gate = self.vectorize(coefficient)
            onto = gate if over in gate.axes else ONE
            when = When.of(state)
            one = self.read_state(
                Input(state.name, state.shape, Role.STATE), when, query * onto, over
            )
            reading.add(one, ONE if over in gate.axes else gate)
        for write in found.writes:
            reading.free = reading.free + self.own_write(write, query, over, axes)
        return reading

    def _decayed(self, state: Input) -> tuple[tuple[Input, Node], ...]:
        """What the update of a state keeps, if that is its own decayed value alone; else nothing."""
        if state not in self.updates:
            return ()
        keep = self.updates[state].keep
        return keep if len(keep) == 1 and keep[0][0] is state else ()
