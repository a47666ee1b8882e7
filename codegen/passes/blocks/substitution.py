"""A substitution of a chunk as substitutions of 16 rows each, and products between the blocks.

Rows depend on earlier rows through a formula that need not be linear, so the blocks are solved in
their order.  What the blocks before it wrote reaches a block as products of matrices, before its own
rows are solved:

    p_h  <-  p_h + sum_{k<h} A_hk g_k        g_h = substitution of A_hh from p_h

and from the last block to the first, with ``A_kh`` transposed and k > h, for a reverse substitution.
Groups of blocks are blocks too: in a chunk of 64 rows one product of 32 x 32 carries the first half
into the second, and each half is solved so from its own halves.

Between two blocks every decay reaches over the end of the earlier one, where its exponent is parted,
and a product of matrices is left: ``e^(a_i - b_j) = e^(a_i - b_end) e^(b_end - b_j)``.  If ``a`` and ``b``
are running sums of one logarithm, each factor is itself a decay between two rows of the chunk, so none
is infinite where the decays are not.  Other exponents are not parted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import sympy as sp

from miras_dsl.codegen.passes.decay_gradient import decay_log
from miras_dsl.ir import (
    Axis,
    ForwardSubstitution,
    I,
    J,
    Join,
    Node,
    PlaceLast,
    Shift,
    Split,
    TakeLast,
    contract,
    elementwise,
    rename,
)
from miras_dsl.scalar.functions import OPERANDS

from .axes import NotLowered, members, rows


def open_substitution(node: ForwardSubstitution, widths: Sequence[int]) -> Node:
    """A substitution over the tokens of a chunk, by blocks of these widths.

    Raises NotLowered for one over other axes.
    """
    if (node.row, node.col) != (I, J) or set(node.a.axes) != {I, J}:
        raise NotLowered("lower_blocks opens a substitution over the axes i and j only")
    parted = node.gates is not None and decay_log(*node.gates) is not None
    return _Opened(widths, parted).solved(node, len(widths) - 1)


@dataclass(frozen=True, slots=True)
class _Opened:
    """How substitutions are opened.

    widths  the rows of the blocks at each level, the smallest first
    parted  whether the exponents of the gates are parted between blocks
    """

    widths: Sequence[int]
    parted: bool

    def solved(self, node: ForwardSubstitution, level: int) -> Node:
        """The rows of a substitution over blocks of a level: [row, *axes of the body]."""
        if level == 0:
            return node
        width = self.widths[level - 1]
        member, row = members(I, width), rows(I, width)
        count = self.widths[level] // width
        parts = [self._member(node, width, at, count) for at in range(count)]
        order = range(count - 1, -1, -1) if node.reverse else range(count)
        found: dict[int, Node] = {}
        for at in order:
            part = parts[at]
            for other, g in found.items():
                low, high = sorted((at, other))
                score = _taken(_split(node.a, node, width), (high, low), width, count)
                part = replace(part, p=part.p + self._carried(score, parts[other], g, part))
            found[at] = self.solved(part, level - 1)
        joined: Node = PlaceLast(found[0], member)
        for at in range(1, count):
            joined = Shift(joined, member, -1) + PlaceLast(found[at], member)
        return Join(joined, node.row, member, row, width)

    def _member(
        self, node: ForwardSubstitution, width: int, at: int, count: int
    ) -> ForwardSubstitution:
        """One of the substitutions that a group consists of, without what the others wrote."""
        member, row, col = members(I, width), rows(I, width), rows(J, width)

        def own(x: Node) -> Node:
            return _row(Split(x, node.row, member, row, width), member, at, count)

        gates = node.gates and (own(node.gates[0]), own(node.gates[1]))
        given = tuple((hole, own(x)) for hole, x in node.rows)
        a = _taken(_split(node.a, node, width), (at, at), width, count)
        return replace(node, a=a, p=own(node.p), rows=given, gates=gates, row=row, col=col)

    def _carried(
        self, score: Node, source: ForwardSubstitution, g: Node, reader: ForwardSubstitution
    ) -> Node:
        """What the rows ``g`` of one block bring into another: [row, *axes of the body].

        score  ``A`` [row, column] between the two: rows of the later block, columns of the earlier
        """
        row, col = reader.row, reader.col
        read, kept = (row, col) if reader.reverse else (col, row)
        later, earlier = (source, reader) if reader.reverse else (reader, source)

        def product(weights: Node, x: Node) -> Node:
            return rename(contract(weights, rename(x, {row: read}), (read,)), {kept: row})

        if later.gates is None or earlier.gates is None:
            return product(score, g)
        a, b = later.gates[0], earlier.gates[1]
        if not self.parted:
            return product(score * _decay(a, rename(b, {row: col})), g)
        end = TakeLast(b, row)
        since, until = _decay(a, end), _decay(end, b)
        theirs, own = (since, until) if reader.reverse else (until, since)
        return product(score, g * theirs) * own


def _decay(a: Node, b: Node) -> Node:
    """``e^(a - b)``."""
    return elementwise(sp.exp(OPERANDS[0] - OPERANDS[1]), a, b)


def _split(a: Node, node: ForwardSubstitution, width: int) -> Node:
    """``A`` as blocks: [member along rows, row, member along columns, column]."""
    cut = Split(a, node.row, members(I, width), rows(I, width), width)
    return Split(cut, node.col, members(J, width), rows(J, width), width)


def _taken(cut: Node, at: tuple[int, int], width: int, count: int) -> Node:
    """One block: [row, column]."""
    return _row(_row(cut, members(I, width), at[0], count), members(J, width), at[1], count)


def _row(x: Node, axis: Axis, at: int, count: int) -> Node:
    """One of ``count`` rows along an axis: the last, after the rows behind it have left."""
    for _ in range(count - 1 - at):
        x = Shift(x, axis, 1)
    return TakeLast(x, axis)
