"""Stage 5: the same update for a chunk of tokens.  One mechanism gives every form.

    collect      every new state is  Φ(old states) + Σ u xᵀ                     (`collect`, stage 4)
    unroll       from the chunk's start:  S_i = Φ(i, 0) S_0 + Σ_j Φ(i, j) u_j x_jᵀ   (`paths`)
    substitute   every use of a state becomes Φ S_0 q plus a weighted triangle (Q Xᵀ) U
    solve        where u_i depends on u_j before it: not at all, affinely (an inverse), or through a
                 formula of its row (a substitution)

Nothing here knows a bias, an architecture or an algorithm; anchors, momenta and sweeps are states.
"""

from __future__ import annotations

from dataclasses import dataclass, field

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
    Inverse,
    J,
    Mask,
    Node,
    Program,
    Substitute,
    contract,
    inputs_of,
    is_zero,
    postorder,
    rebuild,
    rename,
    replace,
    spread,
    total,
)

from .collect import Linear, Obstacle, Outer, collect
from .flatten import affine_in
from .model import POSITION
from .paths import VALID, Path, Paths, exponential
from .update import UpdateRule

UNTRAINED = frozenset({VALID.name, POSITION})
"""Inputs without a gradient."""

Key = tuple[Node, Node | None]
"""A write is known by its two vectors; states that share them (a weight and its momentum) share it."""


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


@dataclass(slots=True)
class Reading:
    """A use of a state within a chunk: ``free + Σ (query · S_0) gate + Σ_a score_a U_a``."""

    free: Node = ZERO
    entries: list[tuple[Input, Node, Node]] = field(default_factory=list)
    unknown: dict[Key, tuple[Node, tuple[Node, Node] | None]] = field(default_factory=dict)

    def add(self, other: Reading, query: Node, gate: Node) -> None:
        """Add another reading whose answer is multiplied by ``gate`` (``query`` multiplies what it asks)."""
        self.free = self.free + other.free * gate
        self.entries += [(state, asked * query, after * gate) for state, asked, after in other.entries]
        for key, (score, gates) in other.unknown.items():
            assert key not in self.unknown and not gate.axes[1:]
            self.unknown[key] = (score * gate, gates)

    def value(self, over: Axis) -> Node:
        """The reading as a node; every write must be known."""
        result = self.free
        for state, query, gate in self.entries:
            result = result + contract(query, state, (over,)) * gate
        return result


def chunk_of(rule: UpdateRule) -> ChunkForm:
    """The chunk form of a rule.  Raises Obstacle with the reason when it has none."""
    if not rule.linear:
        raise Obstacle(rule.obstacle)
    lifting = _Lifting(rule)
    y = lifting.lift(rule.answer)
    results = [("y", y)]
    for state, _ in rule.linear:
        results.append((state.name, lifting.at_end(state)))
    used = [x for x in inputs_of(node for _, node in results) if x.kind != "state"]
    states = tuple(state for state, _ in rule.linear)
    program = Program((*used, *states), tuple(results), tuple((s, s.name) for s in states))
    return ChunkForm(rule, program, lifting.family(), tuple(lifting.evidence))


class _Lifting:
    """Token formulas to chunk formulas, with the states unrolled away."""

    def __init__(self, rule: UpdateRule) -> None:
        self.rule = rule
        self.linear = dict(rule.linear)
        self.states = frozenset(self.linear)
        self.paths = Paths(self.linear, self.lift)
        self.done: dict[Node, Node] = {}
        self.written: dict[Key, tuple[Node, Node | None]] = {}
        self.pending: set[Key] = set()
        self.evidence: list[str] = []
        self.kinds: set[str] = set()

    def family(self) -> str:
        """The class of the rule, strongest coupling first."""
        anchored = self.rule.model.algorithm.anchored
        if anchored is not None:
            return "sweeps" if anchored.sweeps > 1 else "anchored"
        for kind in ("substitution", "affine"):
            if kind in self.kinds:
                return kind
        return "additive"

    # ------------------------------------------------------------ lifting

    def lift(self, node: Node) -> Node:
        """A formula of one token as a formula of all tokens of the chunk."""
        for part in postorder([node]):
            if part not in self.done and not self._is_matrix(part):
                self.done[part] = self._one(part)
        return self._lifted(node)

    def _lifted(self, node: Node) -> Node:
        if node not in self.done:
            self.done[node] = self._materialised(node)
        return self.done[node]

    def _is_matrix(self, node: Node) -> bool:
        """Whether ``node`` is a state as a whole: it is not lifted but read or materialised."""
        if len(node.axes) < 2 or not isinstance(node, Node):
            return False
        if not any(x.kind in ("state", "after") for x in inputs_of([node])):
            return False
        return any(node.axes == state.axes for state in self.states)

    def _one(self, node: Node) -> Node:
        if isinstance(node, Input):
            if node.kind == "token":
                return Input(node.name, (I, *node.axes), "token")
            return self._materialised(node) if node.kind in ("state", "after") else node
        if isinstance(node, Contract):
            for matrix, other in ((node.left, node.right), (node.right, node.left)):
                if self._is_matrix(matrix) and not self._is_matrix(other) and len(node.over) == 1:
                    return self._answer(matrix, self._lifted(other), node.over[0])
        return rebuild(node, {operand: self._lifted(operand) for operand in node.operands}) if node.operands else node

    # ------------------------------------------------------------ reading states

    def _answer(self, matrix: Node, query: Node, over: Axis) -> Node:
        """What a state answers; where it is seen through a link, the state of every token is made."""
        try:
            reading = self._read(matrix, query, over)
        except Obstacle:
            if isinstance(matrix, Input):
                raise
            return contract(self._lifted(matrix), query, (over,))
        return reading.value(over)

    def _read(self, matrix: Node, query: Node, over: Axis) -> Reading:
        """``matrix`` (an affine formula of states at one moment of the token) asked with ``query``."""
        if isinstance(matrix, Input):
            moment = "after" if matrix.kind == "after" else "before"
            return self._read_state(Input(matrix.name, matrix.shape, "state"), moment, query, over)
        axes = matrix.axes
        afters = {Input(state.name, state.shape, "after") for state in self.states}
        found = collect(matrix, axes, self.states | afters)
        state = found.keep[0][0] if found.keep else None
        if state is not None and found == Linear(self._decayed(state), ()):
            return self._read_state(state, "decayed", query, over)
        reading = Reading()
        for state, coefficient in found.keep:
            gate = self.lift(coefficient)
            onto = gate if over in gate.axes else ONE
            moment = "after" if state.kind == "after" else "before"
            asked = self._read_state(Input(state.name, state.shape, "state"), moment, query * onto, over)
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

    def _local(self, write: Outer, query: Node, over: Axis, axes: Axes) -> Node:
        """What this token's own write adds to a reading."""
        key = (write.u, write.x)
        if key in self.pending:
            raise Obstacle("a write depends on itself within one token")
        u, x = self._write(key) if key in self._all_writes() else (self.lift(write.u), write.x and self.lift(write.x))
        assert x is not None
        asked, given = (x, u) if over == axes[-1] else (u, x)
        return contract(query, asked, (over,)) * given * self.lift(write.scale)

    def _read_state(self, state: Input, moment: str, query: Node, over: Axis) -> Reading:
        reading = Reading()
        for entry, path in self.paths.entries(state, moment):
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
        for key, path in self.paths.writes(state, moment):
            if key in self.pending:
                u, x = None, self.lift(key[1]) if key[1] is not None else None
            else:
                u, x = self._write(key)
            assert x is not None
            row_side = over == state.axes[-1]
            if not row_side and u is None:
                raise Obstacle("the memory's row vector depends on itself through the state")
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
                    score, given, gates[0], rename(gates[1], {I: J}), channel, I, J, path.strict, J
                )
        return reading

    def _score(self, query: Node, side: Node, path: Path, over: Axis) -> Node:
        """``score[i, j]``: how much of write j the query of token i meets."""
        later = rename(side, {I: J})
        gates = path.gates(over)
        if gates is not None:
            score: Node = GatedContract(
                query, later, gates[0], rename(gates[1], {I: J}), over, I, J, path.strict
            )
        else:
            score = contract(query, later, (over,))
        triangle = path.triangle()
        if triangle is not None:
            score = score * triangle
        elif gates is None:
            score = Mask(score, I, J, path.strict)
        return score * rename(path.scale * VALID, {I: J})

    def _materialised(self, node: Node) -> Node:
        """A state, or a formula of states, for every token: `[#i, …]`."""
        if not isinstance(node, Input):
            return rebuild(node, {operand: self._lifted(operand) for operand in node.operands})
        state = Input(node.name, node.shape, "state")
        moment = "after" if node.kind == "after" else "before"
        if state not in self.states:
            raise Obstacle(f"{node.name} is not a state of this memory")
        result: Node = ZERO
        for entry, path in self.paths.entries(state, moment):
            value: Node = entry if path.scalar is None else entry * path.scalar
            for _, log in path.logs:
                value = value * exponential(log)
            result = result + spread(value, (I,))
        for key, path in self.paths.writes(state, moment):
            if key in self.pending:
                raise Obstacle("the update is not a formula of its predictions alone")
            u, x = self._write(key)
            weight = rename(path.scale * VALID, {I: J})
            triangle = path.triangle()
            weight = spread(weight, (I,)) if triangle is None else weight * triangle
            if x is None:
                gates = path.gates(state.axes[0])
                given = rename(u, {I: J})
                if gates is None:
                    masked = weight if triangle is not None else Mask(weight, I, J, path.strict)
                    result = result + contract(masked, given, (J,))
                else:
                    result = result + GatedApply(
                        weight, given, gates[0], rename(gates[1], {I: J}), state.axes[0], I, J, path.strict, J
                    )
                continue
            masked = path.dense_channels(weight)
            result = result + contract(masked, rename(u, {I: J}) * rename(x, {I: J}), (J,))
        return result

    # ------------------------------------------------------------ writes

    def _all_writes(self) -> set[Key]:
        return {(w.u, w.x) for linear in self.linear.values() for w in linear.writes}

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
                if x.kind in ("state", "after"):
                    fresh = self._reached(Input(x.name, x.shape, "state")) - found
                    found |= fresh
                    todo += fresh
        return found

    def _write(self, key: Key) -> tuple[Node, Node | None]:
        if key not in self.written:
            needs = self._needs(key)
            if key not in needs:
                self.written[key] = (self.lift(key[0]), None if key[1] is None else self.lift(key[1]))
            elif any(key in self._needs(other) for other in needs - {key}):
                raise Obstacle("several writes of the memory depend on each other")
            else:
                self.written[key] = self._solve(key)
        return self.written[key]

    def _solve(self, key: Key) -> tuple[Node, Node | None]:
        """The rows of a write whose row i depends on the rows before it."""
        u, x = key
        if x is None or any(n.kind in ("state", "after") and self._touches(n, key) for n in inputs_of([x])):
            raise Obstacle("what the memory learns from depends on its own state")
        reads = [
            part
            for part in postorder([u])
            if isinstance(part, Contract)
            and any(self._is_matrix(side) and self._touches_any(side, key) for side in (part.left, part.right))
        ]
        if len(reads) != 1:
            raise Obstacle(f"the update asks the state {len(reads)} times in one formula")
        (read,) = reads
        matrix, query = (
            (read.left, read.right) if self._is_matrix(read.left) else (read.right, read.left)
        )
        self.pending.add(key)
        reading = self._read(matrix, self.lift(query), read.over[0])
        self.pending.discard(key)
        score, gates = reading.unknown[key]
        affine = affine_in(u, read)
        if affine is not None and gates is None and not affine[0].axes:
            self.kinds.add("affine")
            return self._affine(reading, score, affine, read.over[0]), self.lift(x)
        self.kinds.add("substitution")
        return self._substitution(u, read, reading, score, gates), self.lift(x)

    def _touches(self, x: Input, key: Key) -> bool:
        return key in self._reached(Input(x.name, x.shape, "state"))

    def _touches_any(self, node: Node, key: Key) -> bool:
        return any(x.kind in ("state", "after") and self._touches(x, key) for x in inputs_of([node]))

    def _affine(self, reading: Reading, score: Node, affine: tuple[Node, Node], over: Axis) -> Node:
        """``U = c (P + A U) + d``: one inverse, split so that it leaves the loop."""
        slope, rest = (self.lift(part) for part in affine)
        inverse = Inverse(-(slope * score), I, J)
        self.evidence.append("the prediction enters the update affinely: rows are solved by one inverse")

        def solved(rows: Node) -> Node:
            return contract(inverse, rename(rows, {I: J}), (J,))

        result = ZERO
        known = slope * reading.free + rest
        if not is_zero(known):
            result = result + solved(known)
        for state, query, gate in reading.entries:
            if gate is ONE:
                result = result + contract(solved(slope * query), state, (over,))
            else:
                result = result + solved(slope * contract(query, state, (over,)) * gate)
        return result

    def _substitution(
        self, u: Node, read: Contract, reading: Reading, score: Node, gates: tuple[Node, Node] | None
    ) -> Node:
        """``U_i = body(P_i + Σ_j A_ij U_j)``, row after row."""
        hole = Input("r", read.axes, "hole")
        unknown = {part for part in postorder([u]) if read in postorder([part])}
        rows: dict[Node, Input] = {}
        exchange: dict[Node, Node] = {read: hole}
        for part in postorder([u]):
            for operand in part.operands if part in unknown and part is not read else ():
                if operand not in unknown and operand not in rows and inputs_of([operand]):
                    rows[operand] = Input(f"row{len(rows)}", operand.axes, "hole")
        exchange |= rows
        (body,) = replace([u], exchange)
        lifted = tuple((h, spread(self.lift(part), (I,))) for part, h in rows.items())
        self.evidence.append("the prediction enters the update through a formula: rows are substituted in order")
        return Substitute(score, spread(reading.value(read.over[0]), (I,)), body, hole, lifted, gates)

    # ------------------------------------------------------------ the chunk's end

    def at_end(self, state: Input) -> Node:
        """The state after the last token."""
        result: Node = ZERO
        for entry, factor in self.paths.end_entries(state):
            result = result + entry * factor
        for key, scale, row, column in self.paths.end_writes(state):
            u, x = self._write(key)
            left = u * (scale * VALID) * row
            result = result + (total(left, (I,)) if x is None else contract(left, x * column, (I,)))
        return result

