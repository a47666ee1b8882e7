"""What a launcher knows of a rule's kernels, and the tiles that it gives to one size of problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

WARPS = 8
"""Warps of a program where the rule lets the value axis be shared out; else up to twice as many."""

PAST = 1 << 30
"""Bytes of states that one backward launch computes again; sequences beyond that wait their turn."""

Named = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class Recurrence:
    """The two kernels of a rule, and what their launcher must know beyond the rule's `Memory`.

    tokens, constants, states  (name, axes) in the order of the kernels' parameters
    split   programs share out the value axis in blocks
    values  values that a program holds, a power of two; None: as many as fit
    """

    forward: Any
    backward: Any
    tokens: Named
    constants: Named
    states: Named
    split: bool
    values: int | None = None


@dataclass(frozen=True, slots=True)
class Launch:
    """One size of problem: extents, tiles and how many programs share the value axis.

    segment  steps between the states that the forward pass keeps for the backward pass
    """

    sizes: dict[str, int]
    tile: dict[str, int]
    blocks: int
    warps: int
    segment: int


def launch_of(kernels: Recurrence, sizes: Mapping[str, int], longest: int) -> Launch:
    """Tiles for a problem: as many values in a program as leave the tiles in its registers.

    A warp takes 512 elements of a tile, 16 for each thread, and fewer where more than two states
    are carried, so that all tiles of a backward step fit beside each other.  A segment is the root
    of the ``longest`` sequence: then the states that are kept, one for each segment, and those that
    are computed again, one for each step of a segment, are about as many.
    """
    named = (*kernels.tokens, *kernels.constants, *kernels.states)
    sizes = {axis: sizes[axis] for _, axes in named for axis in axes}
    tile = {axis: _power(size) for axis, size in sizes.items()}
    width = tile.get("key", 1)
    warp = max(128, 1024 // _power(max(2, len(kernels.states))))
    if kernels.split:
        fits = max(8, min(64, WARPS * warp // width)) if "key" in tile else 64
        tile["value"] = min(tile["value"], kernels.values or fits)
    warps = min(2 * WARPS, max(1, tile["value"] * width // warp))
    blocks = -(-sizes["value"] // tile["value"]) if kernels.split else 1
    segment = 16
    while segment * segment < longest:
        segment *= 2
    return Launch(sizes, tile, blocks, warps, segment)


def checkpoints(launch: Launch, steps: int, sequences: int) -> int:
    """Rows for the states before each segment: a sequence's last segment may be a short one."""
    return steps // launch.segment + sequences


def past_rows(launch: Launch, axes: tuple[str, ...], sequences: int) -> int:
    """Rows, of a segment each, for a state that is computed again; blocks of values share none."""
    return sequences if "value" in axes else sequences * launch.blocks


def group_of(kernels: Recurrence, launch: Launch, heads: int, sequences: int) -> int:
    """How many sequences one backward launch takes: as many as compute no more than `PAST` again."""
    each = sum(
        past_rows(launch, axes, 1) * _state_bytes(launch, axes, heads) for _, axes in kernels.states
    )
    return min(sequences, max(1, PAST // (launch.segment * each)))


def scratch_bytes(
    kernels: Recurrence, launch: Launch, heads: int, steps: int, sequences: int
) -> int:
    """What a forward and a backward pass hold beside inputs, outputs and gradients."""
    group = group_of(kernels, launch, heads, sequences)
    kept = checkpoints(launch, steps, sequences)
    return sum(
        (kept + past_rows(launch, axes, group) * launch.segment)
        * _state_bytes(launch, axes, heads)
        for _, axes in kernels.states
    )


def _state_bytes(launch: Launch, axes: tuple[str, ...], heads: int) -> int:
    """A state of one sequence, in float32."""
    return 4 * heads * prod(launch.sizes[axis] for axis in axes)


def _power(size: int) -> int:
    return 1 << max(0, size - 1).bit_length()
