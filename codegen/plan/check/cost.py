"""What a plan costs: arithmetic, memory traffic, and how many steps wait for one another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, assert_never

import sympy as sp

from miras_dsl.codegen.plan.kernel_plan import Along, KernelPlan, Phase, computed, walks
from miras_dsl.ir import (
    Axis,
    AxisSize,
    Broadcast,
    Contract,
    Cumsum,
    Decay,
    ForwardSubstitution,
    GatedApply,
    GatedContract,
    GatedSpan,
    Input,
    Inverse,
    Join,
    Map,
    Mask,
    Node,
    Number,
    PlaceLast,
    Reduce,
    Rename,
    Shift,
    Split,
    TakeLast,
    is_token_axis,
)

BYTES = {"float64": 8, "float32": 4}


@dataclass(frozen=True, slots=True)
class Cost:
    """For one sequence and head.

    flops  floating-point operations: two for each product that is summed, one for each operation or
           function of an elementwise formula
    bytes  what kernels read and write of values that are not on chip
    depth  turns of loops and rows of substitutions that wait for one another
    """

    flops: int
    bytes: int
    depth: int


def cost(plan: KernelPlan, sizes: Mapping[Axis, int], tokens: int, phase: Phase) -> Cost:
    """The cost of a phase over ``tokens`` tokens.

    sizes  of channel and hidden axes; token axes have the plan's chunk
    """
    chunks = -(-tokens // plan.chunk) if phase is not Phase.STEP else 1

    def extent(*nodes: Node) -> int:
        axes = {axis for node in nodes for axis in node.axes}
        return prod(plan.chunk if is_token_axis(axis) else sizes[axis] for axis in axes)

    flops = traffic = depth = 0
    for kernel in plan.kernels_of(phase):
        looped = bool(walks(kernel)) or Along.CHUNK in kernel.grid
        turns = chunks if looped else 1
        nodes = [plan.values[id].node for id in computed(kernel.body)]
        flops += turns * sum(_operations(node, extent, plan.chunk) for node in nodes)
        for id in (*kernel.reads, *kernel.writes):
            value = plan.values[id]
            if not isinstance(value.node, Number):
                traffic += turns * BYTES[value.dtype] * extent(value.node)
        rows = plan.chunk * sum(isinstance(node, ForwardSubstitution) for node in nodes)
        depth += max(rows, 1) * (chunks if walks(kernel) else 1)
    return Cost(flops, traffic, depth)


def flops_formula(plan: KernelPlan, sizes: Mapping[Axis, sp.Expr], phase: Phase) -> sp.Expr:
    """The floating-point operations of a token, over the size parameters.

    sizes  of channel and hidden axes, over the parameters
    """

    def extent(*nodes: Node) -> sp.Expr:
        axes = {axis for node in nodes for axis in node.axes}
        return sp.prod([plan.chunk if is_token_axis(axis) else sizes[axis] for axis in axes])

    tokens = plan.chunk if phase is not Phase.STEP else 1
    total: sp.Expr = sp.Integer(0)
    for kernel in plan.kernels_of(phase):
        for id in computed(kernel.body):
            total = total + _operations(plan.values[id].node, extent, plan.chunk)
    return sp.expand(total / tokens)


def _operations(node: Node, extent: Callable[..., Any], chunk: int) -> Any:
    """Floating-point operations of one value, for one chunk; ``extent`` multiplies sizes of axes."""
    match node:
        case Contract(left, right, _):
            return 2 * extent(left, right)
        case GatedContract(x, y, _, _) | GatedApply(x, y, _, _):
            return 4 * extent(x, y)
        case GatedSpan(m, x, y):
            return 8 * extent(m, x, y)
        case Map(formula):
            return max(1, int(sp.count_ops(formula))) * extent(node)
        case Decay():
            return 2 * extent(node)
        case Reduce() | Cumsum():
            return extent(node, *node.operands)
        case Inverse():
            return chunk**3 // 3
        case ForwardSubstitution(a, p):
            return 2 * extent(a, p)
        case (
            Broadcast() | Rename() | Shift() | TakeLast() | PlaceLast() | Mask() | Split() | Join()
        ):
            return 0
        case Input() | Number() | AxisSize():
            return 0
        case _:
            assert_never(node)
