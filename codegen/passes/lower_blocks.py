"""The inverse of a chunk as inverses of 16 rows each, and products between the blocks.

An inverse of n rows is n steps that wait for one another; one of 16 rows fits into registers, and
products of matrices do the rest.  With ``A`` cut into blocks, ``T`` the inverses of the blocks on its
diagonal and ``B`` what is below them,

    (1 + A)^-1 = X    with    X = T - T B X

Block row h of ``T B X`` reads earlier block rows of ``X`` only, so that of g blocks all are right after
g - 1 rounds from ``X = T``.  Blocks are joined in groups, two by two as long as their number is even:
16 rows, 32, 64.  A round's last values are those of a substitution block by block, without the
cancellation of a sum of powers of ``A``.

`ForwardSubstitution` is not opened: a program that has one is refused.
"""

from __future__ import annotations

from itertools import pairwise

from miras_dsl.ir import (
    Axis,
    AxisRole,
    ForwardSubstitution,
    I,
    Inverse,
    J,
    Join,
    L,
    Mask,
    Node,
    Program,
    Split,
    Triangle,
    contract,
    postorder,
    reduce_sum,
    rename,
    with_operands,
)

ROWS = 16
"""Rows of a block on the diagonal."""


class NotLowered(Exception):
    """Why a program has no form in blocks."""


def lower_blocks(program: Program, tokens: int) -> Program:
    """The same program, for chunks of so many tokens, with every `Inverse` opened.

    The sizes of its further axes are those of `block_sizes`.  Raises ValueError unless ``tokens`` is a
    multiple of 16; NotLowered for a `ForwardSubstitution`.
    """
    widths = _widths(tokens)
    made: dict[Node, Node] = {}
    for node in postorder(root for _, root in program.results):
        if isinstance(node, ForwardSubstitution):
            raise NotLowered("lower_blocks opens inverses, not the rows of a ForwardSubstitution")
        made[node] = with_operands(node, made) if node.operands else node
        if isinstance(node, Inverse):
            made[node] = _opened(made[node], widths)
    return program.with_results(made)


def block_sizes(tokens: int) -> dict[Axis, int]:
    """The sizes of the axes that `lower_blocks` makes for chunks of ``tokens`` tokens."""
    sizes: dict[Axis, int] = {}
    widths = _widths(tokens)
    for width in widths:
        sizes |= {axis: tokens // width for axis in (_blocks(width), _other_blocks(width))}
        sizes |= {_rows(axis, width): width for axis in (I, J, L)}
    for width, wider in pairwise(widths):
        sizes |= {_members(axis, width): wider // width for axis in (I, J, L)}
    return sizes


def _widths(tokens: int) -> list[int]:
    """The rows of the blocks before and after each joining: 16, 32, 64 in a chunk of 64."""
    if tokens < ROWS or tokens % ROWS:
        raise ValueError(f"{tokens} tokens are not a multiple of {ROWS}, the rows of a block")
    widths = [ROWS]
    while (count := tokens // widths[-1]) > 1:
        group = next(g for g in range(2, count + 1) if count % g == 0)
        widths.append(widths[-1] * group)
    return widths


def _blocks(width: int) -> Axis:
    """The blocks of so many rows in the chunk; rows and columns of a diagonal block share it."""
    return Axis(f"block{width}", AxisRole.TOKEN)


def _other_blocks(width: int) -> Axis:
    """The same along columns, while blocks off the diagonal are there too."""
    return Axis(f"other{width}", AxisRole.TOKEN)


def _rows(axis: Axis, width: int) -> Axis:
    """The rows, or columns, inside a block."""
    return Axis(f"{axis}_in{width}", AxisRole.TOKEN)


def _members(axis: Axis, width: int) -> Axis:
    """The blocks of a group, counted along its rows or its columns."""
    return Axis(f"{axis}_of{width}", AxisRole.TOKEN)


def _opened(node: Inverse, widths: list[int]) -> Node:
    """An inverse over the tokens of a chunk, by blocks of these widths."""
    a, row, col = node.x, node.row, node.col
    if {row, col} != {I, J} or set(a.axes) != {I, J}:
        raise NotLowered("lower_blocks opens an inverse over the axes i and j only")
    if len(widths) == 1:
        return node
    rows, cols = _rows(row, ROWS), _rows(col, ROWS)
    x: Node = Inverse(_diagonal(a, row, col, ROWS), rows, cols)
    for width, wider in pairwise(widths):
        whole = wider == widths[-1]
        near = a if whole else _diagonal(a, row, col, wider)
        rows, cols = (axis if whole else _rows(axis, wider) for axis in (row, col))
        parts = (
            rename(x, {_blocks(width): _members(row, width)})
            if whole
            else Split(x, _blocks(width), _blocks(wider), _members(row, width), wider // width)
        )
        solved = _joined(parts, near, row, col, (rows, cols), width, wider // width)
        solved = Join(solved, rows, _members(row, width), _rows(row, width), width)
        x = Join(solved, cols, _members(col, width), _rows(col, width), width)
    return x


def _diagonal(a: Node, row: Axis, col: Axis, width: int) -> Node:
    """The blocks of ``a`` on its diagonal: [block, row in it, column in it]."""
    block, other = _blocks(width), _other_blocks(width)
    cut = Split(a, row, block, _rows(row, width), width)
    cut = Split(cut, col, other, _rows(col, width), width)
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
    h, k, m = (_members(axis, width) for axis in (row, col, L))
    r, c, s = (_rows(axis, width) for axis in (row, col, L))
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
