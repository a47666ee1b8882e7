"""What a launcher knows of a rule's kernels, and the tiles that it gives to one size of problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt, prod
from typing import Any

WARPS = 8
"""Warps of a program where the rule lets the value axis be shared out; else up to twice as many."""

RECOMPUTE_BYTES = 1 << 30
"""Bytes of states that one backward launch computes again; sequences beyond that wait their turn."""

SATURATING_PROGRAMS = 1024
"""Programs that keep the largest GPUs busy: some eight on each of their multiprocessors."""

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
class LaunchConfig:
    """One size of problem: extents, tiles and how many programs share the value axis.

    segment  steps between the states that the forward pass keeps for the backward pass
    group    sequences that one backward launch takes
    """

    sizes: dict[str, int]
    tile: dict[str, int]
    blocks: int
    warps: int
    segment: int
    group: int


def configure_launch(
    kernels: Recurrence,
    sizes: Mapping[str, int],
    longest: int,
    heads: int = 1,
    sequences: int = 1,
) -> LaunchConfig:
    """Tiles for a problem: as many values in a program as leave the tiles in its registers.

    A warp takes 512 elements of a tile, 16 for each thread, and fewer where more than two states
    are carried, so that all tiles of a backward step fit beside each other.  A segment is the root
    of the ``longest`` sequence: then the states that are kept, one for each segment, and those that
    are computed again, one for each step of a segment, are about as many.  Sequences whose states
    do not fit `RECOMPUTE_BYTES` take turns; segments are shorter where turns would leave a GPU half empty.
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
    step = sum(
        recompute_rows(axes, blocks, 1) * _bytes(sizes, axes, heads) for _, axes in kernels.states
    )
    segment = max(16, _power(isqrt(max(1, longest) - 1) + 1))
    enough = min(sequences, SATURATING_PROGRAMS // (heads * blocks))
    while segment > 16 and sequences_per_launch(segment * step, sequences) < enough:
        segment //= 2
    return LaunchConfig(
        sizes, tile, blocks, warps, segment, sequences_per_launch(segment * step, sequences)
    )


def sequences_per_launch(each: int, sequences: int) -> int:
    """How many sequences of so many bytes fit `RECOMPUTE_BYTES`."""
    return max(1, min(sequences, RECOMPUTE_BYTES // each))


def checkpoints(launch: LaunchConfig, steps: int, sequences: int) -> int:
    """Rows for the states before each segment: a sequence's last segment may be a short one."""
    return steps // launch.segment + sequences


def recompute_rows(axes: tuple[str, ...], blocks: int, sequences: int) -> int:
    """Rows, of a segment each, for a state that is computed again; blocks of values share none."""
    return sequences if "value" in axes else sequences * blocks


def scratch_bytes(
    kernels: Recurrence, launch: LaunchConfig, heads: int, steps: int, sequences: int
) -> int:
    """What a forward and a backward pass hold beside inputs, outputs and gradients."""
    kept = checkpoints(launch, steps, sequences)
    return sum(
        (kept + recompute_rows(axes, launch.blocks, launch.group) * launch.segment)
        * _bytes(launch.sizes, axes, heads)
        for _, axes in kernels.states
    )


def _bytes(sizes: Mapping[str, int], axes: tuple[str, ...], heads: int) -> int:
    """A state of one sequence, in float32."""
    return 4 * heads * prod(sizes[axis] for axis in axes)


def _power(size: int) -> int:
    return 1 << max(0, size - 1).bit_length()
