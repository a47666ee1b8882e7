"""Stage 5: the same update for a chunk of tokens.  One mechanism gives every form.

    collect      every new state is  Φ(old states) + Σ u xᵀ           (`passes.affine_state`, in stage 4)
    unroll       from the chunk's start:  S_i = Φ(i, 0) S_0 + Σ_j Φ(i, j) u_j x_jᵀ      (`transitions`)
    substitute   every read of a state becomes Φ S_0 q plus a masked product (Q Xᵀ) U     (`vectorize`)
    solve        u_i depends on the u_j before it not at all, affinely (one triangular inverse), or
                 through a nonlinear formula of its row (forward substitution)             (here)

Nothing here knows a bias, an architecture or an algorithm; anchors, momenta and sweeps are states.
For the delta rule the result is the UT/WY transform of Yang et al. 2024 (arXiv 2406.06484).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from miras_dsl.codegen.model.inputs import VALID
from miras_dsl.codegen.passes.affine_state import NotChunkable
from miras_dsl.codegen.passes.inline_maps import affine_coefficients
from miras_dsl.ir import (
    ONE,
    ZERO,
    Axis,
    Contract,
    ForwardSubstitution,
    I,
    Input,
    Inverse,
    J,
    Node,
    Number,
    Program,
    Role,
    TakeLast,
    broadcast,
    contract,
    inputs_of,
    is_zero,
    postorder,
    reduce_sum,
    rename,
    substitute,
)

from .running_max import MaxUpdate
from .state_reader import StateRead, WriteKey
from .update import UpdateRule
from .vectorize import TokenVectorizer


@dataclass(frozen=True, slots=True)
class ChunkForm:
    """The chunk program of a rule, and how it was derived.

    program   from the states at the start of a chunk and its tokens: the answers ``y`` [i, *axes] and
              the states at its end
    family    the class of the rule: additive, affine, substitution, anchored or sweeps
    evidence  a sentence for each step that decided the class
    """

    rule: UpdateRule
    program: Program
    family: str
    evidence: tuple[str, ...]


def chunkwise_form(rule: UpdateRule) -> ChunkForm:
    """The chunk form of a rule.  Raises NotChunkable, with the reason, when it has none."""
    if not rule.affine:
        raise NotChunkable(rule.obstacle)
    solver = _WriteSolver(rule)
    y = solver.vectorize(rule.answer)
    results = [("y", y)]
    for state, _ in rule.affine:
        results.append((state.name, solver.at_end(state)))
    used = [x for x in inputs_of(node for _, node in results) if x.role is not Role.STATE]
    states = tuple(state for state, _ in rule.affine)
    carried = tuple((s, s.name) for s in states)
    labels = {**solver.labels, **solver.transitions.labels}
    program = Program((*used, *states), tuple(results), carried, labels=labels)
    return ChunkForm(rule, program, solver.family(), tuple(solver.evidence))


class _WriteSolver(TokenVectorizer):
    """Vectorizes the formulas of one rule and solves for its writes."""

    def family(self) -> str:
        """The class of the rule, by the strongest dependence between tokens that was met."""
        anchored = self.rule.model.anchored
        if anchored is not None:
            return "sweeps" if anchored.sweeps > 1 else "anchored"
        for kind in ("substitution", "affine"):
            if kind in self.couplings:
                return kind
        return "additive"

    # ------------------------------------------------------------ writes

    def _writes_in(self, state: Input) -> set[WriteKey]:
        """The writes that a state holds, directly or through the states it takes in."""
        found: set[WriteKey] = set()
        seen: set[Input] = set()
        todo = [state]
        while todo:
            here = todo.pop()
            if here in seen:
                continue
            seen.add(here)
            found |= {(w.u, w.x) for w in self.updates[here].writes}
            todo += self._feeding(here)
        return found

    def _feeding(self, state: Input) -> Iterator[Input]:
        """The states that the new value of a state depends on, but for those that its writes read."""
        update = self.updates[state]
        formulas = [factor for _, factor in update.keep]
        if isinstance(update, MaxUpdate):
            formulas += [update.log, update.new]
        yield from (other for other, _ in update.keep)
        for x in inputs_of(formulas):
            if x.role in (Role.STATE, Role.NEXT):
                yield Input(x.name, x.shape, Role.STATE)

    def _dependencies(self, key: WriteKey) -> set[WriteKey]:
        """The writes that the formula of a write depends on, directly or through other writes."""
        found: set[WriteKey] = set()
        todo = [key]
        while todo:
            parts = [part for part in todo.pop() if part is not None]
            for x in inputs_of(parts):
                if x.role in (Role.STATE, Role.NEXT):
                    fresh = self._writes_in(Input(x.name, x.shape, Role.STATE)) - found
                    found |= fresh
                    todo += fresh
        return found

    def write(self, key: WriteKey) -> tuple[Node, Node | None]:
        if key not in self.solved:
            needs = self._dependencies(key)
            if key not in needs:
                self.solved[key] = (
                    self.vectorize(key[0]),
                    None if key[1] is None else self.vectorize(key[1]),
                )
            elif any(key in self._dependencies(other) for other in needs - {key}):
                raise NotChunkable("several writes of the memory depend on each other")
            else:
                self.solved[key] = self._solve(key)
        return self.solved[key]

    def _solve(self, key: WriteKey) -> tuple[Node, Node | None]:
        """The vectors of a write whose row i depends on the rows before it."""
        u, x = key
        if x is None or any(
            n.role in (Role.STATE, Role.NEXT) and self._depends_on(n, key) for n in inputs_of([x])
        ):
            raise NotChunkable("what the memory learns from depends on its own state")
        reads = [
            part
            for part in postorder([u])
            if isinstance(part, Contract)
            and any(
                self.is_matrix(side) and self._any_depends_on(side, key)
                for side in (part.left, part.right)
            )
        ]
        if len(reads) != 1:
            raise NotChunkable(f"the update asks the state {len(reads)} times in one formula")
        (read,) = reads
        matrix, query = (
            (read.left, read.right) if self.is_matrix(read.left) else (read.right, read.left)
        )
        self.in_progress.add(key)
        reading = self.read(matrix, self.vectorize(query), read.over[0])
        self.in_progress.discard(key)
        score, gates = reading.unknown[key]
        affine = affine_coefficients(u, read)
        if affine is not None and gates is None and not affine[0].axes:
            self.couplings.add("affine")
            return self._affine(reading, score, affine, read.over[0]), self.vectorize(x)
        self.couplings.add("substitution")
        return self._substitution(u, read, reading, score, gates), self.vectorize(x)

    def _depends_on(self, x: Input, key: WriteKey) -> bool:
        return key in self._writes_in(Input(x.name, x.shape, Role.STATE))

    def _any_depends_on(self, node: Node, key: WriteKey) -> bool:
        return any(
            x.role in (Role.STATE, Role.NEXT) and self._depends_on(x, key)
            for x in inputs_of([node])
        )

    def _affine(
        self, reading: StateRead, score: Node, affine: tuple[Node, Node], over: Axis
    ) -> Node:
        """Solves ``U = c (P + A U) + d`` by ``(1 - c A)^-1``.

        The right-hand side is split into a part without states and a coefficient of each state at the
        start of the chunk.  Both are multiplied by the inverse before the loop over chunks, which
        then has one product with the state to compute.

        affine  (c, d) as formulas of one token
        """
        slope, rest = (self.vectorize(part) for part in affine)
        inverse = Inverse(self.label(-(slope * score), "coupling"), I, J)
        self.label(inverse, "solve")
        self.evidence.append(
            "the prediction enters the update affinely: rows are solved by one inverse"
        )

        def solved(rows: Node) -> Node:
            return contract(inverse, rename(rows, {I: J}), (J,))

        result = ZERO
        known = slope * reading.free + rest
        if not is_zero(known):
            result = result + self.label(solved(known), "error_free")
        for state, query, gate in reading.initial:
            if gate is ONE:
                # A slope that is a number multiplies the result, which keeps the solved rows simple.
                outside = slope if isinstance(slope, Number) else ONE
                inside = query if isinstance(slope, Number) else slope * query
                of_state = self.label(solved(inside), f"error_of_{state.name}")
                result = result + contract(of_state, state, (over,)) * outside
            else:
                result = result + solved(slope * contract(query, state, (over,)) * gate)
        return self.label(result, "error", "bias")

    def _substitution(
        self,
        u: Node,
        read: Contract,
        reading: StateRead,
        score: Node,
        gates: tuple[Node, Node] | None,
    ) -> Node:
        """Solves ``U_i = body(P_i + Σ_{j<i} A_ij U_j)`` row after row.

        u       the write's formula of one token, of which ``read`` is the part that reads the state
        score   A [i, j]; gates: (a, b) of a decay for each channel
        """
        hole = Input("r", read.axes, Role.HOLE)
        unknown = {part for part in postorder([u]) if read in postorder([part])}
        rows: dict[Node, Input] = {}
        exchange: dict[Node, Node] = {read: hole}
        for part in postorder([u]):
            for operand in part.operands if part in unknown and part is not read else ():
                if operand not in unknown and operand not in rows and inputs_of([operand]):
                    rows[operand] = Input(f"row{len(rows)}", operand.axes, Role.HOLE)
        exchange |= rows
        (body,) = substitute([u], exchange)
        row_inputs = tuple((h, broadcast(self.vectorize(part), (I,))) for part, h in rows.items())
        self.evidence.append(
            "the prediction enters the update through a formula: rows are substituted in order"
        )
        return ForwardSubstitution(
            score, broadcast(reading.value(read.over[0]), (I,)), body, hole, row_inputs, gates
        )

    # ------------------------------------------------------------ the chunk's end

    def at_end(self, state: Input) -> Node:
        """The state after the last token."""
        if isinstance(self.updates[state], MaxUpdate):
            return TakeLast(self.vectorize(Input(state.name, state.shape, Role.NEXT)), I)
        result: Node = ZERO
        for first, factor in self.transitions.initial_at_end(state):
            result = result + first * factor
        for key, scale, row, column in self.transitions.writes_at_end(state):
            u, x = self.write(key)
            left = u * (scale * VALID) * row
            result = result + (
                reduce_sum(left, (I,)) if x is None else contract(left, x * column, (I,))
            )
        return result
