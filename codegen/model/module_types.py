"""Stage 3, the layer's half: what a layer computes of its input to feed a memory.

Every token and gate is a formula of nodes over the results of operations.  Operations are what is not
elementwise: learned maps, the previous token, and what runs over an axis.  So a layer's text is printed
from here, and a kernel can compute the elementwise end of a formula itself.

Axes are named as in the memory's programs.  `HEADS` is an axis like any other here: a tensor that
lacks it is the same for all heads.  Features are the axis of the layer's input (`WIDTH`) and of learned
maps without heads; batch and time are not written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import sympy as sp

from miras_dsl.ir import HEADS, Axes, Axis, Input, Node, Role, features
from miras_dsl.source import Span

WIDTH = features("width")
"""The axis of the layer's input."""
X = Input("x", (WIDTH,), Role.TOKEN)
"""The layer's input."""
HEAD = Input("head", (HEADS,), Role.CONSTANT)
"""The number of each head, from 1."""
HEAD_COUNT = Input("heads", (), Role.SIZE)
"""How many heads there are."""
MIN_GATE = sp.Float("1.2e-38")
"""A gate below it is 0: about the least normal number in single precision."""
LOG_ZERO = sp.Integer(-800)
"""The logarithm of a decay that is 0 in every type."""


class LayerOp(Enum):
    """What an operation does; ``x`` is its operand."""

    LINEAR = "linear"  # learned: all entries of x to `result`'s entries
    CONV = "conv"  # learned: depthwise over the last tokens
    CONSTANT = "param"  # learned: the same for every token; no operand
    SHIFT = "shift"  # x of the token before, 0 for the first
    SUM = "sum"  # over `over`
    MEAN = "mean"  # over `over`
    NORM = "norm"  # (sum |x|^p)^(1/p) over `over`
    NORMALIZE = "normalize"  # x / max(|x|, 1e-6), the norm over `over`
    SOFTMAX = "softmax"  # over `over`
    LARGEST = "topk"  # the `count` largest entries over `over`, the first of equal ones; else 0
    STANDARDIZE = "standardize"  # (x - mean) / sqrt(variance + 1e-6) over `over`
    ORTHOGONAL = "orthogonal"  # Newton-Schulz steps on a matrix


@dataclass(frozen=True, slots=True)
class LayerOperation:
    """One operation of a layer.

    op      what it does
    x       its operand, a formula over earlier results; None for a learned constant
    result  what later formulas read; role CONSTANT where it is the same for every token
    over    the axes that it runs over
    part    number of the part of the layer that keeps its parameters or its last tokens: operations
            with the same number share it; None where it keeps nothing
    rank    of a linear map, 0 for a full one
    width   tokens that a convolution sees
    init    first value of a learned constant
    start   "log_uniform_rate" or "inverse_softplus_step" where a learned constant of a decay starts so;
            "" where it starts at ``init``
    power   p of a norm
    steps   of Newton-Schulz
    count   entries that stay
    """

    op: LayerOp
    x: Node | None
    result: Input
    over: Axes = ()
    part: int | None = None
    rank: int = 0
    width: int = 0
    init: float = 0.0
    start: str = ""
    power: sp.Expr | None = None
    steps: int = 0
    count: int = 0


class ValueKind(Enum):
    """What a value of a layer is."""

    TOKEN = "token"  # in the type of the computation, after the backbone's convolution and norm
    GATE = "gate"  # in single precision at least
    CONSTANT = "constant"  # of the network inside the memory, learned


@dataclass(frozen=True, slots=True)
class LayerValue:
    """A token, a gate or a constant of the network, as the layer computes it.

    name     in the spec
    weight   for a gate per row: the weight whose rows it steers
    kind     what it is
    value    what other formulas read
    formula  how it is computed
    axes     its own axes, without `HEADS`; a formula that lacks one is the same along it
    span     where the spec defines it
    log      its logarithm, for a gate; written without a logarithm of ``value`` where the formula
             allows it, so that no digit is lost near 0 and 1
    written  whether the spec's author wrote it: the backbone shapes no token that the checker made
    """

    name: str
    weight: str | None
    kind: ValueKind
    value: Input
    formula: Node
    axes: Axes
    span: Span
    log: Node | None = None
    written: bool = True


@dataclass(frozen=True, slots=True)
class FirstWeight:
    """What a weight starts from.

    axes  as the spec gives them, outputs first
    init  "zero", "learned" (a parameter per head) or "positive" (learned, rows on the simplex)
    """

    name: str
    axes: Axes
    init: str
    span: Span


@dataclass(frozen=True, slots=True)
class ModuleModel:
    """A memory as a layer.

    name        of the memory
    span        where it is defined
    params      size parameters, with their default
    sizes       of every axis, over the parameters and `width`
    operations  in an order in which they can be computed
    values      tokens, gates and constants of the network
    weights     what the memory's weights start from
    positions   whether the memory counts tokens from the start of a block
    window      how many tokens each step learns from
    """

    name: str
    span: Span
    params: tuple[tuple[str, int | None], ...]
    sizes: tuple[tuple[Axis, sp.Expr], ...]
    operations: tuple[LayerOperation, ...]
    values: tuple[LayerValue, ...]
    weights: tuple[FirstWeight, ...]
    positions: bool
    window: int

    def size(self, axis: Axis) -> sp.Expr:
        """The size of an axis."""
        return dict(self.sizes)[axis]

    def value_of(self, name: str, weight: str | None) -> LayerValue:
        """A token, gate or constant by name; of a gate per row, the one of a weight."""
        return next(v for v in self.values if (v.name, v.weight) == (name, weight))

    def weight(self, name: str) -> FirstWeight:
        """What a weight starts from, by name."""
        return next(w for w in self.weights if w.name == name)

    @property
    def results(self) -> Mapping[Input, LayerOperation]:
        """The operation that makes each result."""
        return {operation.result: operation for operation in self.operations}
