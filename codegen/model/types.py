"""Stage 3: a memory as tensor nodes.  Later stages read nothing else about it.

A formula that is applied to something later, such as a rule for every weight, is a node over inputs of
role HOLE; `substitute` puts in what they stand for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from functools import reduce
from operator import mul

import sympy as sp

from miras_dsl.ir import Axes, Axis, Input, Node, Role, elementwise, hidden
from miras_dsl.scalar.functions import OPERANDS
from miras_dsl.scalar.interval import ANYWHERE, Interval
from miras_dsl.source import NOWHERE, Span

POSITIONS = hidden("position")
"""The axis of a gate that has a number for every position of a block."""


@dataclass(frozen=True, slots=True)
class MemoryInput:
    """One input of a memory's programs, and which token or gate of the spec it is.

    name    identifier in programs and generated code: `query`, `eta`, `log_alpha`, `log_alpha_W1`
    of      the token, gate or network constant of the spec
    kind    "token" (a vector per token and head), "gate", "constant" (per head, no time axis) or
            "position" (per head and position of a block; programs see the entry of their token)
    axes    its axes, `row` already replaced by the row axis of `weight`
    weight  for a gate per row: the weight whose rows it steers
    log     the program wants the logarithm of the gate (it is a decay)
    range   where the numbers of this input lie; of a logarithm, where the logarithms lie
    span    where the spec defines it
    """

    name: str
    of: str
    kind: str
    axes: Axes
    weight: str | None = None
    log: bool = False
    range: Interval = ANYWHERE
    span: Span = NOWHERE

    @property
    def role(self) -> Role:
        """What it is in a program: constants per head, and gates and tokens of every token."""
        return {"token": Role.TOKEN, "constant": Role.CONSTANT}.get(self.kind, Role.GATE)

    @property
    def signed(self) -> bool:
        """Whether it is a gate that may be negative: such a gate has no logarithm."""
        return not self.log and self.role is Role.GATE and self.range.low < 0

    def as_input(self) -> Input:
        """The program input; a gate per position is one number of every token there."""
        axes = tuple(axis for axis in self.axes if axis != POSITIONS)
        return Input(self.name, axes, self.role)


class StateKind(Enum):
    """What a carried tensor holds."""

    WEIGHT = auto()  # a weight, or its dual where a link acts at every token
    CARRIED = auto()  # a tensor that the algorithm carries, such as a momentum
    ANCHOR = auto()  # a weight as the block began
    TRAJECTORY = auto()  # a weight in an earlier sweep over the block
    DUAL = auto()  # the dual of a weight, where a link acts at the end of a block


@dataclass(frozen=True, slots=True)
class InitialValue:
    """What a weight that begins positive starts from.

    mass   what each of its rows sums to
    slope  what is carried for it, a formula of the weight (`UNKNOWN`); None: the weight itself
    """

    mass: sp.Expr
    slope: sp.Expr | None = None


@dataclass(frozen=True, slots=True)
class StateTensor:
    """A tensor that the memory carries from token to token.

    name   as in a state dictionary: `W`, `S.W` (momentum of W), `W.anchor`, `W.1` (a trajectory)
    of     the weight of the spec that it belongs to
    init   "zero", "learned", "positive", or "weight": starts equal to the weight `of`
    kind   what it holds
    start  of a tensor whose first value comes from positive rows: how
    """

    name: str
    of: str
    axes: Axes
    init: str
    kind: StateKind = StateKind.WEIGHT
    start: InitialValue | None = None


@dataclass(frozen=True, slots=True)
class ElementFormula:
    """A formula about one element of a weight.

    unknown  stands for the element; it has the axes that the formula gives it
    before   stands for the element before the step, in a penalty
    """

    node: Node
    unknown: Input
    before: Input


@dataclass(frozen=True, slots=True)
class WeightFormulas:
    """What retention and algorithm say about one weight.

    decays     the factors of the weight at each token: numbers, gates or e^(logarithm of a gate)
    link       the weight as a formula of ``dual``
    potential  of one element: its slope is what is carried
    penalty    of one element and the one before the step
    mass       what each row sums to, where the potential lives on the simplex
    column     the axis along which a row of the weight runs; None for a number
    rules      (target, value) in order, over the holes of this and of other weights; the target "W" is
               the weight, any other one a carried tensor
    grad       stands for the gradient of the bias
    kept       stands for the weight that the write finds
    newest     stands for the weight as the rules before have left it
    carried    stand for the carried tensors, by name
    dual       stands for the carried dual
    """

    decays: tuple[Node, ...]
    link: Node | None
    potential: ElementFormula | None
    penalty: ElementFormula | None
    mass: Node | None
    column: Axis | None
    rules: tuple[tuple[str, Node], ...]
    grad: Input
    kept: Input
    newest: Input
    carried: tuple[tuple[str, Input], ...]
    dual: Input

    @property
    def decay(self) -> Node | None:
        """The product of the decays; None without one."""
        return reduce(mul, self.decays) if self.decays else None


@dataclass(frozen=True, slots=True)
class DecayGate:
    """A gate that is a decay.

    name    in the spec
    signed  it may be negative, so programs take the gate and not its logarithm
    shared  another formula of the memory reads it too
    """

    name: str
    signed: bool
    shared: bool


@dataclass(frozen=True, slots=True)
class WeightTurn:
    """Two weights are the real and the imaginary part of one that is multiplied by e^(i angle).

    angle  of one token; it may have one axis of the weights
    """

    angle: Node
    real: str
    imaginary: str

    def of(self, real: Node, imaginary: Node) -> tuple[Node, Node]:
        """Both parts after the turn."""
        cos, sin = (elementwise(wave(OPERANDS[0]), self.angle) for wave in (sp.cos, sp.sin))
        return real * cos - imaginary * sin, real * sin + imaginary * cos


@dataclass(frozen=True, slots=True)
class AnchoredLearning:
    """Gradients are taken at the weights with which a block began.

    block        tokens of a block
    sweeps       times that a block is learned, each from the weights of the time before
    reads_start  answers come from the weights with which the block began
    scale        how far a weight has moved from its anchor when it is used, as a factor; None is 1
    """

    block: int
    sweeps: int
    reads_start: bool
    scale: Node | None


@dataclass(frozen=True, slots=True)
class Window:
    """Each step learns from the last ``width`` tokens.

    inputs  names of the inputs whose past it reads
    past    these inputs of earlier tokens, as programs have them
    """

    width: int
    inputs: tuple[str, ...]
    past: tuple[MemoryInput, ...]


@dataclass(frozen=True, slots=True)
class ClauseSpans:
    """Where the clauses of a memory stand, for citing them."""

    memory: Span
    bias: Span
    retention: Span
    algorithm: Span


@dataclass(frozen=True, slots=True)
class MemoryModel:
    """A memory whose formulas are nodes over its inputs and weights.

    params       size parameters in order, with their defaults
    sizes        axis -> size, over the size parameters
    inputs       every input that its programs may have, with what it is and where it lies
    gradients    weight -> its gradient (rates applied), as a node over weights at the point where
                 gradients are taken; weights appear as inputs of role WEIGHT
    given_write  a term of the bias is a given write, not a loss
    answer       what leaves the memory, over weights and inputs
    formulas     weight -> its retention and rules, in the order in which these run
    decay_gates  the gates that are decays
    turns        what turns with each decay
    at_chunk     link, potential or penalty act at the end of a block, not at every token
    carry        names of the tensors that the algorithm carries for every weight
    steps        steps with the same pair
    pairs        pairs of a token, learned one after the other
    implicit     a step ends where its own equation holds
    reset        tokens after which the state is its first value again; 0: never
    order        the events of a token, out of decay, predict, write, read
    """

    name: str
    spans: ClauseSpans
    params: tuple[tuple[str, int | None], ...]
    sizes: tuple[tuple[Axis, sp.Expr], ...]
    inputs: tuple[MemoryInput, ...]
    weights: tuple[StateTensor, ...]
    gradients: tuple[tuple[str, Node], ...]
    given_write: bool
    answer: Node
    formulas: tuple[tuple[str, WeightFormulas], ...]
    decay_gates: tuple[DecayGate, ...]
    turns: tuple[WeightTurn, ...]
    at_chunk: bool
    carry: tuple[str, ...]
    anchored: AnchoredLearning | None
    window: Window | None
    steps: int
    pairs: int
    implicit: bool
    reset: int
    order: tuple[str, ...]

    def formulas_of(self, weight: str) -> WeightFormulas:
        """What retention and algorithm say about a weight."""
        return dict(self.formulas)[weight]

    @property
    def steps_per_token(self) -> int:
        """Steps that one token takes: several pairs, or the same pair again."""
        return max(self.pairs, self.steps)

    @property
    def window_inputs(self) -> tuple[str, ...]:
        """The tokens and gates whose past a memory with a window learns from again."""
        return self.window.inputs if self.window else ()

    @property
    def logarithms(self) -> Mapping[str, Interval]:
        """The inputs that are logarithms of decays, by name, with where they lie."""
        return {given.name: given.range for given in self.inputs if given.log}

    @property
    def ranges(self) -> Mapping[Node, Interval]:
        """Where the inputs of programs lie."""
        past = self.window.past if self.window else ()
        return {given.as_input(): given.range for given in (*self.inputs, *past)}
