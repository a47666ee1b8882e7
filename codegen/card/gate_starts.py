"""Where gates start: their formulas with learned maps at 0 and learned constants at their first values.

A constant of a decay may be drawn at random, and a formula may differ from head to head; then it is
taken at both ends of the draw and for the first and the last head, and a gate starts somewhere between.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from math import expm1, log

import numpy as np

from miras_dsl.codegen.emit.layer.modules import HEADS as MOST_HEADS
from miras_dsl.codegen.model.module_types import (
    HEAD,
    HEAD_COUNT,
    LayerOp,
    LayerOperation,
    LayerValue,
    ModuleModel,
    ValueKind,
)
from miras_dsl.codegen.model.types import POSITIONS
from miras_dsl.ir import HEADS, Axis, AxisRole, Input, Node, Role, inputs_of
from miras_dsl.ir.interpreter import Array, evaluate
from miras_dsl.scalar.interval import Interval

DRAWN: Mapping[str, tuple[float, float]] = {
    "log_uniform_rate": (log(1), log(16)),
    "inverse_softplus_step": (log(expm1(1e-3)), log(expm1(1e-1))),
}
"""The ends of constants that are drawn: their exponential lies in [1, 16], their softplus in
[0.001, 0.1]."""


def gate_starts(
    module: ModuleModel, sizes: Mapping[str, int]
) -> dict[tuple[str, str | None], Interval]:
    """(gate, weight) -> where the gate starts; the weight is None unless there is a gate per row.

    sizes  values of the size parameters
    """
    drawn = any(operation.start for operation in module.operations)
    ends = list(product((0, 1), repeat=len(DRAWN))) if drawn else [(0,) * len(DRAWN)]
    starts = [
        _Start(module, sizes, dict(zip(DRAWN, chosen, strict=True)), head)
        for chosen in ends
        for head in (1, MOST_HEADS)
    ]
    found = {}
    for value in module.values:
        if value.kind is ValueKind.GATE:
            corners = [start.gate(value) for start in starts]
            low, high = min(c.min() for c in corners), max(c.max() for c in corners)
            found[value.name, value.weight] = Interval(float(low), float(high))
    return found


class _Start:
    """A layer's formulas at the start.

    ends  which end of the draw constants of each kind have
    head  the number of the head
    """

    def __init__(
        self, module: ModuleModel, sizes: Mapping[str, int], ends: Mapping[str, int], head: int
    ) -> None:
        self.module, self.head = module, head
        self.drawn = {word: DRAWN[word][end] for word, end in ends.items()}
        self.sizes = sizes
        self.operations = dict(module.results)
        self.values = {value.value: value for value in module.values}

    def gate(self, value: LayerValue) -> Array:
        """A gate, with the axes of its formula."""
        return self.node(value.formula)

    def node(self, node: Node) -> Array:
        given = {x: self.input(x) for x in inputs_of([node])}
        extents = {axis: self.extent(axis) for axis in _axes_of(node)}
        return evaluate([node], given, extents)[0]

    def extent(self, axis: Axis) -> int:
        """The size of an axis; heads are one at a time, and of features one stands for all."""
        if axis in (HEADS, POSITIONS) or axis.role is AxisRole.FEATURE:
            return 1
        size = self.module.size(axis)
        return int(size.subs({symbol: self.sizes[str(symbol)] for symbol in size.free_symbols}))

    def input(self, x: Input) -> Array:
        """The value of an input, with its axes."""
        if x in self.operations:
            made: Array | float = self.operation(self.operations[x])
        elif x in self.values:
            made = self.gate(self.values[x])
        elif x in (HEAD, HEAD_COUNT):
            made = float(self.head if x is HEAD else MOST_HEADS)
        elif x.role is Role.SIZE:
            made = float(self.sizes[x.name])
        else:
            # The first place of a block; learned maps of the layer's input count as 0.
            made = 1.0 if x.role is Role.POSITION else 0.0
        return np.broadcast_to(np.asarray(made, dtype=float), [self.extent(a) for a in x.axes])

    def operation(self, operation: LayerOperation) -> Array | float:
        if operation.x is None:
            return self.drawn.get(operation.start, operation.init)
        x, axes = self.node(operation.x), operation.x.axes
        over = tuple(axes.index(axis) for axis in operation.over)
        match operation.op:
            case LayerOp.SUM:
                return x.sum(over)
            case LayerOp.MEAN:
                return x.mean(over)
            case LayerOp.NORM:
                power = float(operation.power or 2)
                return (np.abs(x) ** power).sum(over) ** (1 / power)
            case LayerOp.SOFTMAX:
                powers = np.exp(x - x.max(over, keepdims=True))
                return powers / powers.sum(over, keepdims=True)
            case LayerOp.NORMALIZE:
                return x / np.maximum(np.sqrt((x**2).sum(over, keepdims=True)), 1e-6)
            case LayerOp.LARGEST:
                falling = np.argsort(-x, over[0], kind="stable")
                return np.where(np.argsort(falling, over[0]) < operation.count, x, 0.0)
            case LayerOp.SHIFT:  # of a token that is not the first
                return x
            case _:
                return 0.0


def _axes_of(node: Node) -> set[Axis]:
    return {axis for x in inputs_of([node]) for axis in x.axes} | set(node.axes) | {POSITIONS}
