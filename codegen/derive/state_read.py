"""A read of a state by every token of a chunk, while some writes of the chunk are still unknown."""

from __future__ import annotations

from dataclasses import dataclass, field

from miras_dsl.codegen.passes.affine_state import NotChunkable
from miras_dsl.ir import ZERO, Axis, Input, Node, contract

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
