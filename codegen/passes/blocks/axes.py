"""How a chunk is cut into blocks, and the axes that count the blocks and the rows in them."""

from __future__ import annotations

from itertools import pairwise

from miras_dsl.ir import Axis, AxisRole, I, J, L

ROWS = 16
"""Rows of a block on the diagonal."""


class NotLowered(Exception):
    """Why an operation has no form in blocks."""


def block_widths(tokens: int) -> list[int]:
    """The rows of the blocks before and after each joining: 16, 32, 64 in a chunk of 64.

    Raises ValueError unless ``tokens`` is a multiple of 16.
    """
    if tokens < ROWS or tokens % ROWS:
        raise ValueError(f"{tokens} tokens are not a multiple of {ROWS}, the rows of a block")
    widths = [ROWS]
    while (count := tokens // widths[-1]) > 1:
        group = next(g for g in range(2, count + 1) if count % g == 0)
        widths.append(widths[-1] * group)
    return widths


def block_sizes(tokens: int) -> dict[Axis, int]:
    """The sizes of the axes below, for chunks of ``tokens`` tokens."""
    sizes: dict[Axis, int] = {}
    widths = block_widths(tokens)
    for width in widths:
        sizes |= {axis: tokens // width for axis in (blocks(width), other_blocks(width))}
        sizes |= {rows(axis, width): width for axis in (I, J, L)}
    for width, wider in pairwise(widths):
        sizes |= {members(axis, width): wider // width for axis in (I, J, L)}
    return sizes


def blocks(width: int) -> Axis:
    """The blocks of so many rows in the chunk; rows and columns of a diagonal block share it."""
    return Axis(f"block{width}", AxisRole.TOKEN)


def other_blocks(width: int) -> Axis:
    """The same along columns, while blocks off the diagonal are there too."""
    return Axis(f"other{width}", AxisRole.TOKEN)


def rows(axis: Axis, width: int) -> Axis:
    """The rows, or columns, inside a block."""
    return Axis(f"{axis}_in{width}", AxisRole.TOKEN)


def members(axis: Axis, width: int) -> Axis:
    """The blocks of a group, counted along its rows or its columns."""
    return Axis(f"{axis}_of{width}", AxisRole.TOKEN)
