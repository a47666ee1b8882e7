"""How many steps of a memory must wait for one another: the price of a sequence in time."""

from __future__ import annotations

from dataclasses import dataclass

from miras_dsl.ir import ForwardSubstitution, Node, Program, postorder


@dataclass(frozen=True, slots=True)
class SequentialDepth:
    """The dependent steps of one walk over a sequence.

    walks  runs of the loop part, or of one token where a rule has no chunk form
    rows   rows that substitutions take one after the other, in all chunks together
    """

    walks: int
    rows: int

    @property
    def steps(self) -> int:
        """All of them: a row is a step inside its walk, so a walk without rows counts as one."""
        return max(self.walks, self.rows)


def chunk_of_steps(most: int, steps: int) -> int:
    """The chunk that a sequence of so many steps is cut into, where the rule leaves it free."""
    return min(most, max(16, 1 << max(0, steps - 1).bit_length()))


def sequential_depth(program: Program | None, chunk: int, tokens: int) -> SequentialDepth:
    """The depth of a program over ``tokens`` (steps, where a token takes several).

    program  a chunk form or its adjoint; None runs token by token
    """
    if program is None:
        return SequentialDepth(tokens, 0)
    chunks = -(-tokens // chunk)
    parts = program.parts()
    beside, inside = (
        _chained(program, [n for n, part in parts.items() if (part == "loop") == looped])
        for looped in (False, True)
    )
    return SequentialDepth(chunks, chunk * (beside + inside * chunks))


def _chained(program: Program, nodes: list[Node]) -> int:
    """How many of the substitutions among ``nodes`` wait for one another, at most."""
    chosen = set(nodes)
    length: dict[Node, int] = {}
    for node in postorder(n for _, n in program.results):
        before = max((length[operand] for operand in node.operands), default=0)
        length[node] = before + (isinstance(node, ForwardSubstitution) and node in chosen)
    return max((length[node] for node in chosen), default=0)
