"""The inverse of a chunk as inverses of 16 rows each, and products between the blocks.

With ``A`` cut into blocks, ``T`` the inverses of the blocks on its diagonal and ``B`` what is below
them,

    (1 + A)^-1 = X    with    X = T - T B X

Block row h of ``T B X`` reads earlier block rows of ``X`` only, so that of g blocks all are right after
g - 1 rounds from ``X = T``.  Blocks are joined in groups, two by two as long as their number is even:
16 rows, 32, 64.  A round's last values are those of a substitution block by block, without the
cancellation of a sum of powers of ``A``.
"""

from __future__ import annotations

from itertools import pairwise

from miras_dsl.ir import (
    Axis,
    I,
    Inverse,
    J,
    Join,
    L,
    Mask,
    Node,
    Split,
    Triangle,
    contract,
    reduce_sum,
    rename,
)

from .axes import ROWS, NotLowered, blocks, members, other_blocks, rows


def open_inverse(node: Inverse, widths: list[int]) -> Node:
    """An inverse over the tokens of a chunk, by blocks of these widths.

    Raises NotLowered for one over other axes.
    """
    a, row, col = node.x, node.row, node.col
    if {row, col} != {I, J} or set(a.axes) != {I, J}:
        raise NotLowered("lower_blocks opens an inverse over the axes i and j only")
    if len(widths) == 1:
        return node
    inner, across = rows(row, ROWS), rows(col, ROWS)
    x: Node = Inverse(_diagonal(a, row, col, ROWS), inner, across)
    for width, wider in pairwise(widths):
        whole = wider == widths[-1]
        near = a if whole else _diagonal(a, row, col, wider)
        inner, across = (axis if whole else rows(axis, wider) for axis in (row, col))
        parts = (
            rename(x, {blocks(width): members(row, width)})
            if whole
            else Split(x, blocks(width), blocks(wider), members(row, width), wider // width)
        )
        solved = _joined(parts, near, row, col, (inner, across), width, wider // width)
        solved = Join(solved, inner, members(row, width), rows(row, width), width)
        x = Join(solved, across, members(col, width), rows(col, width), width)
    return x


def _diagonal(a: Node, row: Axis, col: Axis, width: int) -> Node:
    """The blocks of ``a`` on its diagonal: [block, row in it, column in it]."""
    block, other = blocks(width), other_blocks(width)
    cut = Split(a, row, block, rows(row, width), width)
    cut = Split(cut, col, other, rows(col, width), width)
    return reduce_sum(_where_equal(cut, block, other), (other,))


def _where_equal(x: Node, first: Axis, second: Axis) -> Node:
    """``x`` where two block numbers are equal, 0 elsewhere."""
    return Mask(Mask(x, Triangle(first, second)), Triangle(second, first))


def _joined(
    t: Node, a: Node, row: Axis, col: Axis, axes: tuple[Axis, Axis], width: int, count: int
) -> Node:
    """The inverses of groups of ``count`` blocks: [member, row, member, column] of each group.

    t     the inverses of the blocks, [member along rows, row, column] of each group
    a     the groups on the diagonal, with ``axes`` for their rows and columns
    """
    h, k, m = (members(axis, width) for axis in (row, col, L))
    r, c, s = (rows(axis, width) for axis in (row, col, L))
    cut = Split(Split(a, axes[0], h, r, width), axes[1], k, c, width)
    below = Mask(cut, Triangle(h, k, True))
    coupling = contract(rename(t, {c: s}), rename(below, {r: s}), (s,))
    first = contract(rename(coupling, {c: s}), rename(t, {h: k, r: s}), (s,))
    on_diagonal = _where_equal(t, h, k)
    solved = on_diagonal - first
    for _ in range(count - 2):
        earlier = rename(solved, {h: m, r: s})
        solved = on_diagonal - contract(rename(coupling, {k: m, c: s}), earlier, (m, s))
    return solved
