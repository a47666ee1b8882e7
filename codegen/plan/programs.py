"""The programs of a kernel: each has its slice of the axes that a grid or a group divides up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from miras_dsl.ir import Axis, Node
from miras_dsl.ir.interpreter import Array

from .kernel_plan import Kernel


@dataclass(slots=True)
class Program:
    """One program of a kernel: its slice of some axes, and what it has computed for one chunk."""

    slices: Mapping[Axis, slice]
    done: dict[Node, Array] = field(default_factory=dict)
    carried: dict[Node, Array] = field(default_factory=dict)


def programs_of(kernel: Kernel, sizes: Mapping[Axis, int]) -> list[Program]:
    """One program for each part of the axes that a kernel's grid or group divides up."""
    parts: list[dict[Axis, slice]] = [{}]
    divided = [(axis, sizes[axis]) for axis in kernel.grid if isinstance(axis, Axis)]
    if kernel.group is not None:
        divided.append(kernel.group)
    for axis, count in divided:
        size = -(-sizes[axis] // count)
        ends = range(0, sizes[axis], size)
        parts = [{**part, axis: slice(at, at + size)} for part in parts for at in ends]
    return [Program(part) for part in parts]


def cut(x: Array, axes: Sequence[Axis], program: Program) -> Array:
    """A program's part of an array."""
    place = tuple(program.slices.get(axis, slice(None)) for axis in axes)
    return x[place] if place else x


def joined(node: Node, parts: Sequence[tuple[Program, Array]], sizes: Mapping[Axis, int]) -> Array:
    """The whole of a value from the programs' parts of it."""
    first = parts[0][1]
    divided = [axis for axis in parts[0][0].slices if axis in node.axes]
    if not divided:
        for _, x in parts[1:]:
            if not np.allclose(x, first, rtol=1e-9, atol=1e-12):
                raise ValueError("programs disagree on a value that all of them have")
        return first
    shape = [sizes.get(a, n) for a, n in zip(node.axes, first.shape, strict=True)]
    whole = np.full(shape, np.nan)
    for program, x in parts:
        place = tuple(program.slices.get(axis, slice(None)) for axis in node.axes)
        whole[place] = x
    return whole
