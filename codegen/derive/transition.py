"""What is left, at one token of a chunk, of the state at its start and of a write of an earlier token."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

import sympy as sp

from miras_dsl.ir import (
    ONE,
    Axis,
    Decay,
    I,
    Input,
    J,
    Mask,
    Node,
    Role,
    Triangle,
    elementwise,
    is_zero,
    rename,
)
from miras_dsl.scalar.functions import OPERANDS


def exponential(log: Node) -> Node:
    """``e^log``, elementwise."""
    return ONE if is_zero(log) else elementwise(sp.exp(OPERANDS[0]), log)


class When(Enum):
    """At which moment of a token a state is read."""

    BEFORE = auto()  # as the previous token has left it
    DECAYED = auto()  # after its own decay
    AFTER = auto()  # after the token's write

    @staticmethod
    def of(state: Input) -> When:
        """The moment that an input stands for: BEFORE for role STATE, AFTER for role NEXT."""
        return When.AFTER if state.role is Role.NEXT else When.BEFORE


@dataclass(frozen=True, slots=True)
class Turn:
    """A factor of a token i and one of an earlier token j, which together are a part of a turn.

    axis    along which they run besides the tokens; None for one angle of all channels
    after   [i] or [i, axis]
    before  [i] or [i, axis], of the token that wrote
    """

    axis: Axis | None
    after: Node
    before: Node


@dataclass(frozen=True, slots=True)
class InitialTransition:
    """``Φ(i, 0)``: what is left at token i of the state at the start of the chunk.

    scalar  a factor [i]; None is 1
    logs    (axis, logarithm [i, axis]): a further factor for each channel of the axis
    turn    (axis, factor [i] or [i, axis]) of a state that turns; None is 1
    """

    scalar: Node | None
    logs: tuple[tuple[Axis, Node], ...]
    turn: tuple[Axis | None, Node] | None = None


@dataclass(frozen=True, slots=True)
class Transition:
    """``Φ(i, j)``: what is left at token i of the write of token j.

    dense    the triangle [i, j] itself, where states are coupled; it holds the scale of the write
    scalar   (a, b), each [i]: the triangle is e^(a_i - b_j)
    logs     (axis, a, b), each [i, axis]: a factor e^(a_i - b_j) for each channel of the axis
    scale    [i], the scale of the write at its own token
    strict   the write of token i itself does not count, only those before it
    turn     a factor of token i and one of token j, of a state that turns; None is 1
    """

    dense: Node | None
    scalar: tuple[Node, Node] | None
    logs: tuple[tuple[Axis, Node, Node], ...]
    scale: Node
    strict: bool
    turn: Turn | None = None

    @property
    def reach(self) -> Triangle:
        """The pairs (i, j) where token i sees the write of token j."""
        return Triangle(I, J, self.strict)

    def triangle(self) -> Node | None:
        """The factor [i, j] that all channels share; None if it is 1."""
        if self.dense is not None:
            return self.dense
        if self.scalar is None:
            return None
        return Decay(self.scalar[0], rename(self.scalar[1], {I: J}), self.reach)

    def gates(self, axis: Axis) -> tuple[Node, Node] | None:
        """The logarithms (a, b) of the gate on the channels of an axis; None if there is none."""
        return next(((a, b) for name, a, b in self.logs if name == axis), None)

    def dense_channels(self, weight: Node) -> Node:
        """``weight`` [i, j] times the decay of every channel, 0 outside the triangle: [i, j, *channels]."""
        for _, a, b in self.logs:
            weight = weight * Decay(a, rename(b, {I: J}), self.reach)
        return weight if self.logs or self.triangle() is not None else Mask(weight, self.reach)
