"""Where gates start: their formulas with learned maps at 0 and learned constants at their first values.

A constant of a decay may be drawn at random; then the formula is taken at both ends of the draw, and a
gate starts somewhere between.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from math import expm1, log

import numpy as np

from miras_dsl.codegen.model.module_types import (
    LayerOp,
    LayerOperation,
    LayerValue,
    ModuleModel,
    ValueKind,
)
from miras_dsl.codegen.model.types import POSITIONS
from miras_dsl.ir import Axis, Input, Node, Role, inputs_of
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
    starts = [_Start(module, sizes, dict(zip(DRAWN, chosen, strict=True))) for chosen in ends]
    found = {}
    for value in module.values:
        if value.kind is ValueKind.GATE:
            corners = [start.gate(value) for start in starts]
            found[value.name, value.weight] = Interval(min(corners), max(corners))
    return found


class _Start:
    """A layer's formulas at the start.

    ends  which end of the draw constants of each kind have
    """

    def __init__(
        self, module: ModuleModel, sizes: Mapping[str, int], ends: Mapping[str, int]
    ) -> None:
        self.drawn = {word: DRAWN[word][end] for word, end in ends.items()}
        self.sizes = sizes
        self.operations = dict(module.results)
        self.values = {value.value: value for value in module.values}

    def gate(self, value: LayerValue) -> float:
        """The value of a gate."""
        return float(np.mean(self.node(value.formula)))

    def node(self, node: Node) -> Array:
        given: dict[Input, Array] = {}
        for x in inputs_of([node]):
            shape = [1] * len(x.axes)
            given[x] = np.broadcast_to(np.asarray(self.input(x), dtype=float), shape)
        return evaluate([node], given, dict.fromkeys(_axes_of(node), 1))[0]

    def input(self, x: Input) -> float:
        if x in self.operations:
            return self.operation(self.operations[x])
        if x in self.values:
            return self.gate(self.values[x])
        if x.role is Role.SIZE:
            return float(self.sizes[x.name])
        # The first place of a block; learned maps of the layer's input count as 0.
        return 1.0 if x.role is Role.POSITION else 0.0

    def operation(self, operation: LayerOperation) -> float:
        match operation.op:
            case LayerOp.CONSTANT:
                return self.drawn.get(operation.start, operation.init)
            case LayerOp.SUM | LayerOp.MEAN | LayerOp.NORM if operation.x is not None:
                # What starts at 0 in every entry sums to 0; anything else depends on the size.
                return float(np.mean(self.node(operation.x)))
            case _:
                return 0.0


def _axes_of(node: Node) -> set[Axis]:
    return {axis for x in inputs_of([node]) for axis in x.axes} | set(node.axes) | {POSITIONS}
