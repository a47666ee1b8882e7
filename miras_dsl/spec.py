"""Stage 2: what a `.mem` file means.  Names are resolved, shapes are known, ranges are computed.

Everything here is frozen data.  A formula is a tree of `Number`, `Ref` and `Apply`; every node knows
its axes (its shape), so nothing after the checker has to infer a shape or look a name up again.
Library definitions (biases, networks, algorithms) are expanded in place: this stage contains no name
of the library, so the same rule written with and without it compiles to the same program.

Axes are names, not positions.  `key` and `value` are the axes of tokens, `h1`, `h2` … those of hidden
layers, `pair` numbers the (key, value) pairs of one token.  Their sizes are sympy expressions over the
memory's parameters (`MemorySpec.sizes`): `{"key": dk, "value": dv}`, `{"h1": 4*d}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import sympy as sp

from .scalar.interval import Interval as Interval
from .source import NOWHERE, Span
from .typed_formula import FEATURE as FEATURE
from .typed_formula import POINTWISE as POINTWISE
from .typed_formula import TENSOR as TENSOR
from .typed_formula import Apply as Apply
from .typed_formula import Axes as Axes
from .typed_formula import Axis as Axis
from .typed_formula import Expr as Expr
from .typed_formula import Number as Number
from .typed_formula import Ref as Ref
from .typed_formula import iter_nodes as iter_nodes


@dataclass(frozen=True, slots=True)
class Gate:
    """A number or vector per token and head, such as a rate or a decay.

    axes   () one number; ("key",) one per key channel; ("row",) one per row of *every* weight: it
           stands for one gate per weight, on that weight's row axis, each with its own learned map;
           ("pair",) one per pair; ("position",) a constant for each position of an anchored block
    expr   its formula over x, param and other gates
    range  where its values lie, by interval arithmetic on the formula
    """

    name: str
    axes: Axes
    expr: Expr
    range: Interval
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Token:
    """A per-token, per-head vector; ``expr`` is None for a plain projection of the layer's input."""

    name: str
    axes: Axes
    expr: Expr | None
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class State:
    """A weight of the memory: axes (row, column) for a matrix, one axis for a vector, none for a number.

    init  "zero", "learned" (a parameter per head, small normal) or "positive" (rows on the simplex)
    """

    name: str
    axes: Axes
    init: str
    span: Span = field(default=NOWHERE, compare=False, repr=False)

    def with_rows(self, axes: Axes) -> Axes:
        """The axes of a gate with those of this weight's rows in place of `row`; a number has none."""
        return tuple(a for axis in axes for a in (self.axes[:1] if axis == "row" else (axis,)))


@dataclass(frozen=True, slots=True)
class Network:
    """The memory as a function: `body` is M(input), a formula over states and Ref(kind="input").

    params  learned constants inside the network (layer norm weights …): name -> (axes, init)
    """

    input: Ref
    body: Expr
    params: tuple[tuple[str, Axes, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Loss:
    """One term of the attentional bias: a scalar formula, whose gradient the memory descends.

    rate  of this term's gradient
    """

    name: str
    loss: Expr
    rate: Expr
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Write:
    """A given update: `write error at place`.

    It takes the place of a gradient: outer(error, place) for a matrix; for a network, its transposed
    Jacobian at `place` times `error`, where error itself is not differentiated.

    answer  M(place)
    """

    name: str
    error: Expr
    place: Expr
    answer: Expr
    rate: Expr
    span: Span = field(default=NOWHERE, compare=False, repr=False)


Term = Loss | Write


@dataclass(frozen=True, slots=True)
class Decay:
    """A factor of what the memory carries: a Ref to a gate, or a Number.

    A formula has become a gate of its own.  A factor with an axis scales along it: it is one number, or
    has one axis of the weights that it is for (`row`: the first axis of each).

    weights  whose factor it is; (): of every weight
    """

    factor: Ref | Number
    weights: tuple[str, ...] = ()

    def is_of(self, weight: str) -> bool:
        """Whether this weight is multiplied by the factor."""
        return not self.weights or weight in self.weights


@dataclass(frozen=True, slots=True)
class Turn:
    """A complex weight is multiplied by e^(i angle) at every token, with its decay.

    angle      a Ref to a gate, or a Number, with at most one axis of the weight
    real       the weight that is its real part
    imaginary  the weight that is its imaginary part
    """

    angle: Ref | Number
    real: str
    imaginary: str


@dataclass(frozen=True, slots=True)
class Retention:
    """How the memory keeps its weights.

    decays   factors of the carried state at every token; a weight may have several
    turns    angles by which complex weights turn at every token
    bregman  a potential F(w) (formula over Ref("w", "dual")): the carried state is F'(w)
    link     the weight as a formula of the carried state `a` (given, instead of a potential)
    simplex  total mass of each row, when the potential lives on the simplex; else None
    penalty  P(w, w0): the step is argmin_w <grad, w> + P(w, w0); carried state is w. The learning rate is
             the one in the penalty, (w - w0)^2 / (2 eta)
    at       "token" or "chunk": where link, potential or penalty acts
    """

    decays: tuple[Decay, ...] = ()
    turns: tuple[Turn, ...] = ()
    bregman: Expr | None = None
    link: Expr | None = None
    simplex: Expr | None = None
    penalty: Expr | None = None
    at: str | None = None
    span: Span = field(default=NOWHERE, compare=False, repr=False)

    def factors(self, weight: str) -> tuple[Ref | Number, ...]:
        """The factors of one weight at every token."""
        return tuple(decay.factor for decay in self.decays if decay.is_of(weight))


@dataclass(frozen=True, slots=True)
class Anchored:
    """Gradients are taken at the weights with which a block of tokens began, the anchor.

    block   tokens of a block
    sweeps  number of trajectories of the weights: the first learns from gradients at the anchor, each
            further one from gradients at the one before it; the last is the next anchor
    reads   "running": answers come from the last trajectory; "start": from the anchor
    scale   the weight in use is anchor + scale * (weight - anchor); None is 1
    """

    block: int
    sweeps: int = 1
    reads: str = "running"
    scale: Expr | None = None


@dataclass(frozen=True, slots=True)
class Algorithm:
    """The learning algorithm: rules, whose Refs are of kinds weight, keep, grad, carry, and modifiers.

    rules     in order: (target, formula), target "W" or a carried name; each holds for every weight;
              W, keep, grad and carried names have the axes of the only weight, ("row", "column") else
    by_weight each rule is for one weight instead, its target, and has that weight's axes; every weight
              has one, and nothing else is carried
    carry     names of carried tensors, zero at the start
    anchored  None means exact: every gradient at the newest weights
    steps     the same pair again, n times (decay once)
    pairs     the token has n pairs of its own on the `pair` axis, learned one after the other; a
              bias sees one pair at a time, so its Refs leave the `pair` axis out
    window    (w, discount): each step learns from the last w tokens, discount^age each
    implicit  the step solves argmin loss + |W - keep(W)|^2 / (2 eta) exactly
    reset     every n tokens the state returns to its initial value; 0 never
    """

    rules: tuple[tuple[str, Expr], ...]
    carry: tuple[str, ...] = ()
    by_weight: bool = False
    anchored: Anchored | None = None
    steps: int = 1
    pairs: int = 1
    window: tuple[int, Expr] | None = None
    implicit: bool = False
    reset: int = 0
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class MemorySpec:
    """One memory, complete.

    params  size parameters in order, with their default (None: must be given or follows the head)
    sizes   axis -> size, a sympy expression over the parameters
    order   the events of one token in order, out of decay, predict, write, read
    read    the answer that leaves the memory, a formula with axes (value,)
    unused  size parameters that no clause names
    """

    name: str
    params: tuple[tuple[str, int | None], ...]
    sizes: tuple[tuple[Axis, sp.Expr], ...]
    tokens: tuple[Token, ...]
    gates: tuple[Gate, ...]
    states: tuple[State, ...]
    network: Network
    terms: tuple[Term, ...]
    retention: Retention
    algorithm: Algorithm
    order: tuple[str, ...]
    read: Expr
    unused: tuple[str, ...] = ()
    doc: str = ""
    span: Span = field(default=NOWHERE, compare=False, repr=False)

    def size(self, axis: Axis) -> sp.Expr:
        """The size of an axis, over the memory's parameters."""
        return dict(self.sizes)[axis]


@dataclass(frozen=True, slots=True)
class Use:
    """A memory inside a layer, with its parameters given by name."""

    memory: str
    arguments: tuple[tuple[str, int], ...] = ()
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Chain:
    """`a -> b`: the output of each part is the input of the next."""

    parts: tuple[Mixing, ...]


@dataclass(frozen=True, slots=True)
class Together:
    """`a + b`: every part reads the same input; outputs are added."""

    parts: tuple[Mixing, ...]


Mixing = Use | Chain | Together


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """A token mixer: memories in a composition, and what surrounds each of them.

    heads        default number of heads
    conv         width of the causal convolution after each projection; 0 none
    activation   of query, key and value after the convolution: "silu" or None
    normalize    names of tokens that are l2-normalised
    output_norm  per-head normalisation of the memory's answer (on unless `plain_output`)
    output_gate  multiply the answer by a learned gate of the input
    """

    name: str
    body: Mixing
    heads: int | None = None
    conv: int = 0
    activation: str | None = None
    normalize: tuple[str, ...] = ()
    output_norm: bool = True
    output_gate: bool = False
    doc: str = ""
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Block:
    """One residual block of a model: a layer by name, or `swiglu`."""

    kind: str
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A language model: embeddings, pre-norm residual blocks in order (repeats unrolled), head."""

    name: str
    width: int
    vocab: int
    blocks: tuple[Block, ...]
    doc: str = ""
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class FileSpec:
    """A whole checked file: its memories, layers and models by name."""

    memories: Mapping[str, MemorySpec]
    layers: Mapping[str, LayerSpec]
    models: Mapping[str, ModelSpec]
