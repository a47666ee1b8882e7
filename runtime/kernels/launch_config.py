"""The table of a rule's kernels, and the tile sizes with which they are launched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt, prod
from typing import Any

WARPS = 8
"""Warps of a program whose rule lets programs divide up the value axis; else up to twice as many."""

RECOMPUTE_BYTES = 1 << 30
"""Bytes of states that one backward launch recomputes; further sequences go to further launches."""

SATURATING_PROGRAMS = 1024
"""Programs that keep the largest GPUs busy: about eight for each multiprocessor."""

Named = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class Recurrence:
    """The two kernels of a rule, and what their launcher must know beyond the rule's `MemoryTable`.

    forward, backward          Triton kernels
    tokens, constants, states  (name, axes) in the order of the kernels' parameters
    split   whether programs divide up the value axis
    values  entries of the value axis in a program, a power of two; None: as many as fit
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
    """How kernels are launched for one problem size.

    sizes    of the axes
    tile     axis -> size of a program's tile, a power of two
    blocks   programs that divide up the value axis
    warps    of a program
    segment  steps between two states that the forward pass saves for the backward pass
    group    sequences of one backward launch
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
    """Tiles that are as large as registers allow, and segments that need little memory.

    longest  steps of the longest sequence

    A warp has 512 elements of a tile, 16 in each thread; fewer if more than two states are carried,
    so that all tiles of a backward step fit into registers.  A segment has about sqrt(longest) steps:
    then as many states are saved (one for each segment) as are recomputed (one for each step of a
    segment).  Sequences whose recomputed states exceed `RECOMPUTE_BYTES` are given to several
    backward launches; segments are shorter if a launch would otherwise leave a GPU partly idle.
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
    """How many sequences, each of so many bytes, fit into `RECOMPUTE_BYTES`."""
    return max(1, min(sequences, RECOMPUTE_BYTES // each))


def checkpoints(launch: LaunchConfig, steps: int, sequences: int) -> int:
    """How many states the forward pass saves at most: one before each segment of each sequence."""
    return steps // launch.segment + sequences


def recompute_rows(axes: tuple[str, ...], blocks: int, sequences: int) -> int:
    """How many copies of a state, each of a segment's steps, the backward pass recomputes.

    Programs that divide up the value axis each need a copy of a state without that axis.
    """
    return sequences if "value" in axes else sequences * blocks


def scratch_bytes(
    kernels: Recurrence, launch: LaunchConfig, heads: int, steps: int, sequences: int
) -> int:
    """Bytes of a forward and a backward pass beside inputs, outputs and gradients."""
    kept = checkpoints(launch, steps, sequences)
    return sum(
        (kept + recompute_rows(axes, launch.blocks, launch.group) * launch.segment)
        * _bytes(launch.sizes, axes, heads)
        for _, axes in kernels.states
    )


def _bytes(sizes: Mapping[str, int], axes: tuple[str, ...], heads: int) -> int:
    """Bytes of a state of one sequence, in float32."""
    return 4 * heads * prod(sizes[axis] for axis in axes)


def _power(size: int) -> int:
    return 1 << max(0, size - 1).bit_length()
