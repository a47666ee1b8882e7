"""Stage 5: the same update for a chunk of tokens.  One mechanism gives every form.

    collect      every new state is  Φ(old states) + Σ u xᵀ                     (`collect`, stage 4)
    unroll       from the chunk's start:  S_i = Φ(i, 0) S_0 + Σ_j Φ(i, j) u_j x_jᵀ   (`paths`)
    substitute   every use of a state becomes Φ S_0 q plus a weighted triangle (Q Xᵀ) U
    solve        where u_i depends on u_j before it: not at all, affinely (an inverse), or through a
                 formula of its row (a substitution)

Nothing here knows a bias, an architecture or an algorithm; anchors, momenta and sweeps are states.
"""

from __future__ import annotations

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
    broadcast,
    contract,
    inputs_of,
    is_zero,
    postorder,
    reduce_sum,
    rename,
    substitute,
)

from .update import UpdateRule
from .vectorize import Key, StateRead, TokenVectorizer


@dataclass(frozen=True, slots=True)
class ChunkForm:
    """The chunk program of a rule, and how it was found.

    family    additive, affine, substitution, anchored or sweeps
    evidence  one sentence for each step that decided it
    """

    rule: UpdateRule
    program: Program
    family: str
    evidence: tuple[str, ...]


def chunkwise_form(rule: UpdateRule) -> ChunkForm:
    """The chunk form of a rule.  Raises Obstacle with the reason when it has none."""
    if not rule.affine:
        raise NotChunkable(rule.obstacle)
    lifting = _WriteSolver(rule)
    y = lifting.lift(rule.answer)
    results = [("y", y)]
    for state, _ in rule.affine:
        results.append((state.name, lifting.at_end(state)))
    used = [x for x in inputs_of(node for _, node in results) if x.role is not Role.STATE]
    states = tuple(state for state, _ in rule.affine)
    carried = tuple((s, s.name) for s in states)
    labels = {**lifting.labels, **lifting.paths.labels}
    program = Program((*used, *states), tuple(results), carried, labels=labels)
    return ChunkForm(rule, program, lifting.family(), tuple(lifting.evidence))


class _WriteSolver(TokenVectorizer):
    """The lifting of one rule: solves its writes, and knows of which class that makes it."""

    def family(self) -> str:
        """The class of the rule, strongest coupling first."""
        anchored = self.rule.model.anchored
        if anchored is not None:
            return "sweeps" if anchored.sweeps > 1 else "anchored"
        for kind in ("substitution", "affine"):
            if kind in self.kinds:
                return kind
        return "additive"

    # ------------------------------------------------------------ writes

    def _reached(self, state: Input) -> set[Key]:
        """The writes that a state carries, also through the states it takes in."""
        found: set[Key] = set()
        seen: set[Input] = set()
        todo = [state]
        while todo:
            here = todo.pop()
            if here in seen:
                continue
            seen.add(here)
            found |= {(w.u, w.x) for w in self.linear[here].writes}
            todo += [other for other, _ in self.linear[here].keep]
        return found

    def _needs(self, key: Key) -> set[Key]:
        """The writes that a write's own formula depends on, at any distance."""
        found: set[Key] = set()
        todo = [key]
        while todo:
            parts = [part for part in todo.pop() if part is not None]
            for x in inputs_of(parts):
                if x.role in (Role.STATE, Role.NEXT):
                    fresh = self._reached(Input(x.name, x.shape, Role.STATE)) - found
                    found |= fresh
                    todo += fresh
        return found

    def write(self, key: Key) -> tuple[Node, Node | None]:
        if key not in self.written:
            needs = self._needs(key)
            if key not in needs:
                self.written[key] = (
                    self.lift(key[0]),
                    None if key[1] is None else self.lift(key[1]),
                )
            elif any(key in self._needs(other) for other in needs - {key}):
                raise NotChunkable("several writes of the memory depend on each other")
            else:
                self.written[key] = self._solve(key)
        return self.written[key]

    def _solve(self, key: Key) -> tuple[Node, Node | None]:
        """The rows of a write whose row i depends on the rows before it."""
        u, x = key
        if x is None or any(
            n.role in (Role.STATE, Role.NEXT) and self._touches(n, key) for n in inputs_of([x])
        ):
            raise NotChunkable("what the memory learns from depends on its own state")
        reads = [
            part
            for part in postorder([u])
            if isinstance(part, Contract)
            and any(
                self.is_matrix(side) and self._touches_any(side, key)
                for side in (part.left, part.right)
            )
        ]
        if len(reads) != 1:
            raise NotChunkable(f"the update asks the state {len(reads)} times in one formula")
        (read,) = reads
        matrix, query = (
            (read.left, read.right) if self.is_matrix(read.left) else (read.right, read.left)
        )
        self.pending.add(key)
        reading = self.read(matrix, self.lift(query), read.over[0])
        self.pending.discard(key)
        score, gates = reading.unknown[key]
        affine = affine_coefficients(u, read)
        if affine is not None and gates is None and not affine[0].axes:
            self.kinds.add("affine")
            return self._affine(reading, score, affine, read.over[0]), self.lift(x)
        self.kinds.add("substitution")
        return self._substitution(u, read, reading, score, gates), self.lift(x)

    def _touches(self, x: Input, key: Key) -> bool:
        return key in self._reached(Input(x.name, x.shape, Role.STATE))

    def _touches_any(self, node: Node, key: Key) -> bool:
        return any(
            x.role in (Role.STATE, Role.NEXT) and self._touches(x, key) for x in inputs_of([node])
        )

    def _affine(
        self, reading: StateRead, score: Node, affine: tuple[Node, Node], over: Axis
    ) -> Node:
        """``U = c (P + A U) + d``: one inverse, split so that it leaves the loop."""
        slope, rest = (self.lift(part) for part in affine)
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
        for state, query, gate in reading.entries:
            if gate is ONE:
                # A number as the slope stays outside: what is solved for is then as plain as it can be.
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
        """``U_i = body(P_i + Σ_j A_ij U_j)``, row after row."""
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
        lifted = tuple((h, broadcast(self.lift(part), (I,))) for part, h in rows.items())
        self.evidence.append(
            "the prediction enters the update through a formula: rows are substituted in order"
        )
        return ForwardSubstitution(
            score, broadcast(reading.value(read.over[0]), (I,)), body, hole, lifted, gates
        )

    # ------------------------------------------------------------ the chunk's end

    def at_end(self, state: Input) -> Node:
        """The state after the last token."""
        result: Node = ZERO
        for entry, factor in self.paths.end_entries(state):
            result = result + entry * factor
        for key, scale, row, column in self.paths.end_writes(state):
            u, x = self.write(key)
            left = u * (scale * VALID) * row
            result = result + (
                reduce_sum(left, (I,)) if x is None else contract(left, x * column, (I,))
            )
        return result
