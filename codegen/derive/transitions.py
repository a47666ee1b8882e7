"""How a write reaches a later token: the unrolled `Φ(i, j)` of every state.

A state that only decays has a path in closed form: one logarithm per token for a scalar decay, one per
channel for a row or column gate.  States that feed others (a momentum feeds its weight) have dense
triangles, one product of triangles per coupling; they need scalar gates.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto

import sympy as sp

from miras_dsl.codegen.model.inputs import VALID
from miras_dsl.codegen.passes.affine_state import AffineUpdate, NotChunkable
from miras_dsl.codegen.passes.inline_maps import inline
from miras_dsl.ir import (
    ONE,
    Axis,
    Cumsum,
    Decay,
    I,
    Input,
    J,
    L,
    Label,
    Mask,
    Node,
    Role,
    Shift,
    TakeLast,
    Triangle,
    broadcast,
    contract,
    elementwise,
    is_zero,
    reduce_sum,
    rename,
)
from miras_dsl.scalar.functions import OPERANDS

from .logarithms import decay_logarithms


def exponential(log: Node) -> Node:
    """e^log."""
    return ONE if is_zero(log) else elementwise(sp.exp(OPERANDS[0]), log)


class When(Enum):
    """The moment of a token at which a state is read."""

    BEFORE = auto()  # as the token before has left it
    DECAYED = auto()  # after its own decay
    AFTER = auto()  # after the token's write

    @staticmethod
    def of(state: Input) -> When:
        """The moment that an input of role STATE or NEXT stands for."""
        return When.AFTER if state.role is Role.NEXT else When.BEFORE


@dataclass(frozen=True, slots=True)
class InitialTransition:
    """How the chunk's first state reaches token i: a factor [#i], or logarithms per channel."""

    scalar: Node | None
    logs: tuple[tuple[Axis, Node], ...]


@dataclass(frozen=True, slots=True)
class Transition:
    """How write j reaches token i.

    dense    the triangle [#i, #j] itself, where states are coupled (scale included)
    scalar   (a, b): the triangle is e^(a_i - b_j)
    logs     (axis, a, b): a factor e^(a_i - b_j) for each channel of the axis
    scale    [#i], the write's own scale, at its own token
    strict   only tokens before i, not i itself
    """

    dense: Node | None
    scalar: tuple[Node, Node] | None
    logs: tuple[tuple[Axis, Node, Node], ...]
    scale: Node
    strict: bool

    @property
    def reach(self) -> Triangle:
        """The pairs (i, j) of a token and a write that it sees."""
        return Triangle(I, J, self.strict)

    def triangle(self) -> Node | None:
        """The factor [#i, #j] that all channels share, or None if it is 1."""
        if self.dense is not None:
            return self.dense
        if self.scalar is None:
            return None
        return Decay(self.scalar[0], rename(self.scalar[1], {I: J}), self.reach)

    def gates(self, axis: Axis) -> tuple[Node, Node] | None:
        """The logarithms (a, b) of a channel gate on an axis."""
        return next(((a, b) for name, a, b in self.logs if name == axis), None)

    def dense_channels(self, weight: Node) -> Node:
        """``weight`` times every channel's decay, masked: for a state materialised per token."""
        for _, a, b in self.logs:
            weight = weight * Decay(a, rename(b, {I: J}), self.reach)
        return weight if self.logs or self.triangle() is not None else Mask(weight, self.reach)


class Transitions:
    """The unrolled recurrences of a rule.

    logarithms  names of the inputs that are logarithms of decays
    """

    def __init__(
        self,
        linear: Mapping[Input, AffineUpdate],
        lift: Callable[[Node], Node],
        logarithms: Container[str],
    ) -> None:
        self.linear = linear
        self.logarithms = logarithms
        self.lift = lift
        self._logs: dict[Input, dict[Axis | None, Node]] = {}
        self._dense: dict[
            Input, tuple[dict[Input, Node], dict[tuple[Node, Node | None], Node]]
        ] = {}
        self._coupling_now: list[Input] = []
        self.labels: dict[Node, Label] = {}

    # ------------------------------------------------------------ decays

    def logs(self, state: Input) -> dict[Axis | None, Node]:
        """The state's own decay: None (scalar) or an axis -> logarithm per token [#i, axis]."""
        if state not in self._logs:
            own = dict(self.linear[state].keep).get(state)
            if own is None:
                raise NotChunkable(f"{state.name} forgets everything at every token")
            self._logs[state] = {
                axis: self._per_token(self.lift(log))
                for axis, log in decay_logarithms(own, state).items()
            }
        return self._logs[state]

    def _per_token(self, log: Node) -> Node:
        """A decay acts at every token and at no padding, where logarithms that are fed are 0."""
        whole, args = inline(log)
        fed = all(isinstance(arg, Input) and arg.name in self.logarithms for arg in args)
        sums = all(term.as_coeff_Mul()[1] in OPERANDS for term in sp.Add.make_args(whole))
        return log if fed and sums else log * VALID

    def coupled(self, state: Input) -> list[tuple[Input, Node]]:
        """The other states that this one takes in."""
        return [(other, c) for other, c in self.linear[state].keep if other is not state]

    # ------------------------------------------------------------ at a token

    def entries(self, state: Input, when: When) -> Iterator[tuple[Input, InitialTransition]]:
        """How each first state reaches this one at a moment of a token."""
        upto = {axis: self._upto(log, when) for axis, log in self.logs(state).items()}
        scalar = exponential(upto[None]) if None in upto else None
        for log in upto.values():
            self.labels.setdefault(log, Label("log_since_start", "retention"))
            self.labels.setdefault(exponential(log), Label("since_start", "retention"))
        yield (
            state,
            InitialTransition(
                scalar, tuple((axis, log) for axis, log in upto.items() if axis is not None)
            ),
        )
        if self.coupled(state):
            for other, factor in self._coupling(state)[0].items():
                yield (
                    other,
                    InitialTransition(factor if when is When.AFTER else Shift(factor, I, 1), ()),
                )

    def writes(
        self, state: Input, when: When
    ) -> Iterator[tuple[tuple[Node, Node | None], Transition]]:
        """How each write reaches the state."""
        if self.coupled(state):
            for key, dense in self._coupling(state)[1].items():
                if when is When.AFTER:
                    yield key, Transition(dense, None, (), ONE, False)
                else:
                    yield key, Transition(Shift(dense, I, 1), None, (), ONE, True)
            return
        logs = self.logs(state)
        strict = when is not When.AFTER
        pairs = {axis: (self._upto(log, when), Cumsum(log, I)) for axis, log in logs.items()}
        channels = tuple((axis, a, b) for axis, (a, b) in pairs.items() if axis is not None)
        for write in self.linear[state].writes:
            scale = broadcast(self.lift(write.scale), (I,))
            yield (write.u, write.x), Transition(None, pairs.get(None), channels, scale, strict)

    @staticmethod
    def _upto(log: Node, when: When) -> Node:
        whole = Cumsum(log, I)
        return whole - log if when is When.BEFORE else whole

    def _coupling(
        self, state: Input
    ) -> tuple[dict[Input, Node], dict[tuple[Node, Node | None], Node]]:
        """For a state that takes in others: their first states' factors [#i], and dense triangles."""
        if state in self._dense:
            return self._dense[state]
        if state in self._coupling_now:
            raise NotChunkable(f"{state.name} feeds itself through another state")
        self._coupling_now.append(state)
        try:
            self._dense[state] = self._coupled(state)
        finally:
            self._coupling_now.pop()
        return self._dense[state]

    def _coupled(
        self, state: Input
    ) -> tuple[dict[Input, Node], dict[tuple[Node, Node | None], Node]]:
        logs = self.logs(state)
        if set(logs) - {None}:
            raise NotChunkable(f"{state.name} is fed by another state and decays by channel")
        own = self._own(logs.get(None))
        firsts: dict[Input, Node] = {}
        dense: dict[tuple[Node, Node | None], Node] = {}
        triangle = rename(own, {L: J})
        for write in self.linear[state].writes:
            dense[write.u, write.x] = triangle * rename(
                broadcast(self.lift(write.scale), (I,)), {I: J}
            )
        for other, coefficient in self.coupled(state):
            taken = self.lift(coefficient)
            if set(taken.axes) - {I}:
                raise NotChunkable(f"{state.name} takes in {other.name} by channel")
            taken = rename(taken * VALID, {I: L})
            for first, entry in self.entries(other, When.BEFORE):
                if entry.logs:
                    raise NotChunkable(f"{other.name} feeds {state.name} and decays by channel")
                factor = broadcast(ONE if entry.scalar is None else entry.scalar, (I,))
                reach = contract(own, rename(factor, {I: L}) * taken, (L,))
                firsts[first] = firsts[first] + reach if first in firsts else reach
            for key, path in self.writes(other, When.BEFORE):
                source = path.triangle()
                if path.logs:
                    raise NotChunkable(f"{other.name} feeds {state.name} and decays by channel")
                if source is None:
                    source = Mask(broadcast(ONE, (I, J)), Triangle(I, J, strict=True))
                source = source * rename(path.scale, {I: J})
                reach = contract(own, rename(source, {I: L}) * taken, (L,))
                dense[key] = dense[key] + reach if key in dense else reach
        return firsts, dense

    @staticmethod
    def _own(log: Node | None) -> Node:
        """The triangle [#i, #l] of a state's own decay."""
        if log is None:
            return Mask(broadcast(ONE, (I, L)), Triangle(I, L))
        whole = Cumsum(broadcast(log, (I,)), I)
        return Decay(whole, rename(whole, {I: L}), Triangle(I, L))

    # ------------------------------------------------------------ at the chunk's end

    def end_entries(self, state: Input) -> Iterator[tuple[Input, Node]]:
        """Each first state and its factor at the chunk's end."""
        factor: Node = ONE
        for log in self.logs(state).values():
            whole = reduce_sum(log, (I,))
            self.labels.setdefault(whole, Label("log_whole_chunk", "retention"))
            self.labels.setdefault(exponential(whole), Label("whole_chunk", "retention"))
            factor = factor * exponential(whole)
        yield state, factor
        if self.coupled(state):
            for other, reach in self._coupling(state)[0].items():
                yield other, TakeLast(reach, I)

    def end_writes(
        self, state: Input
    ) -> Iterator[tuple[tuple[Node, Node | None], Node, Node, Node]]:
        """Each write with the scale [#i], row gate and column gate that it has at the chunk's end."""
        if self.coupled(state):
            for key, dense in self._coupling(state)[1].items():
                yield key, rename(TakeLast(dense, I), {J: I}), ONE, ONE
            return
        left = {
            axis: exponential(reduce_sum(log, (I,)) - Cumsum(log, I))
            for axis, log in self.logs(state).items()
        }
        for factor in left.values():
            self.labels.setdefault(factor, Label("until_end", "retention"))
        row = left.get(state.axes[0], ONE)
        column = left.get(state.axes[-1], ONE) if len(state.axes) > 1 else ONE
        for write in self.linear[state].writes:
            scale = broadcast(self.lift(write.scale), (I,)) * left.get(None, ONE)
            yield (write.u, write.x), scale, row, column
