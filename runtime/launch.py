"""What a launcher knows of a rule's kernels, and the tiles that it gives to one size of problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

WARPS = 8
"""Warps of a program where the rule lets the value axis be shared out; else up to twice as many."""

Named = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class Recurrence:
    """The two kernels of a rule and what their launcher must know.

    tokens, constants, states  (name, axes) in the order of the kernels' parameters
    positions   tokens that are given once for each place of a block, [H, block]
    decays      logarithms that act once per token, in the step ``decay_at`` of those it takes
    read_at     the step whose answer is the token's
    block       tokens of a block, 0 where there are none
    micro       steps that one token takes
    window      tokens that a step learns from, 0 for its own only; tails: what it needs of them
    split       programs share out the value axis in blocks
    """

    name: str
    forward: Any
    backward: Any
    tokens: Named
    constants: Named
    states: Named
    positions: tuple[str, ...]
    decays: tuple[str, ...]
    decay_at: int
    read_at: int
    block: int
    micro: int
    window: int
    tails: tuple[str, ...]
    split: bool


@dataclass(frozen=True, slots=True)
class Launch:
    """One size of problem: extents, tiles and how many programs share the value axis."""

    sizes: dict[str, int]
    tile: dict[str, int]
    blocks: int
    warps: int
    segment: int


def launch_of(
    kernels: Recurrence, sizes: Mapping[str, int], time: int, values: int | None = None
) -> Launch:
    """Tiles for a problem: as many values in a program as leave the tiles in its registers.

    A warp takes 512 elements of a tile, 16 for each thread, and fewer where more than two states
    are carried, so that all tiles of a backward step fit beside each other.
    """
    tile = {axis: _power(size) for axis, size in sizes.items()}
    width = tile.get("key", 1)
    warp = max(128, 1024 // _power(max(2, len(kernels.states))))
    if kernels.split:
        most = values or (max(8, min(64, WARPS * warp // width)) if "key" in tile else 64)
        tile["value"] = min(tile["value"], most)
    warps = min(2 * WARPS, max(1, tile["value"] * width // warp))
    blocks = -(-sizes["value"] // tile["value"]) if kernels.split else 1
    segment = next((s for s in (16, 32, 64) if s * s >= time), 128)
    return Launch(dict(sizes), tile, blocks, warps, segment)


def _power(size: int) -> int:
    return 1 << max(0, size - 1).bit_length()
