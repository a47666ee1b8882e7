"""The transition `Φ(i, j)` of every state: what is left at token i of something written at token j.

For a state that only decays it is an exponential: of one logarithm per token for a scalar decay, of one
per channel for a row or column gate.  A state that takes in another one (a weight takes in its momentum)
has a dense triangle of numbers `Φ[i, j]`, one product of triangles for each state taken in; the gates
of such states must be scalars.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager

import sympy as sp

from miras_dsl.codegen.model.inputs import VALID
from miras_dsl.codegen.passes.affine_state import AffineUpdate, NotChunkable, RankOneWrite
from miras_dsl.codegen.passes.inline_maps import inline
from miras_dsl.ir import (
    ONE,
    Axis,
    Cumsum,
    I,
    Input,
    J,
    Label,
    Node,
    Shift,
    TakeLast,
    broadcast,
    elementwise,
    reduce_sum,
    rename,
)
from miras_dsl.scalar.functions import OPERANDS, within_turn

from .coupled_transitions import Coupled, coupled_transitions
from .logarithms import decay_logarithms
from .rotation import Rotation, rotation, turns, wave
from .running_max import MaxUpdate
from .transition import InitialTransition, Transition, Turn, When, exponential


class Transitions:
    """The transitions of all states of a rule.

    updates     each state's new value as an affine formula of the old states
    vectorize   turns a formula of one token into one of all tokens of a chunk
    logarithms  names of the inputs that are logarithms of decays
    labels      what the derivation calls some of the values
    """

    def __init__(
        self,
        updates: Mapping[Input, AffineUpdate | MaxUpdate],
        vectorize: Callable[[Node], Node],
        logarithms: Container[str],
    ) -> None:
        self.updates = updates
        self.logarithms = logarithms
        self.vectorize = vectorize
        self._logs: dict[Input, dict[Axis | None, Node]] = {}
        self._dense: dict[Input, Coupled] = {}
        self._rotations: dict[Input, Rotation | None] = {}
        self._in_progress: list[tuple[str, Input]] = []
        self.labels: dict[Node, Label] = {}

    # ------------------------------------------------------------ decays

    def logs(self, state: Input) -> dict[Axis | None, Node]:
        """The logarithm of the state's own decay: axis -> [i, axis], and None -> [i] for a scalar one.

        Raises NotChunkable where the state keeps nothing, or its decay has no logarithm.
        """
        if state not in self._logs:
            turning = self.rotation(state)
            own = turning.length if turning else dict(self.updates[state].keep).get(state)
            if own is None:
                raise NotChunkable(f"{state.name} forgets everything at every token")
            with self.deriving("decay", state):
                self._logs[state] = {
                    axis: self._per_token(self.vectorize(log))
                    for axis, log in decay_logarithms(own, state).items()
                }
        return self._logs[state]

    def _per_token(self, log: Node) -> Node:
        """The logarithm with 0 at padding.  Logarithms that are inputs are 0 there already."""
        formula, args = inline(log)
        are_inputs = all(isinstance(a, Input) and a.name in self.logarithms for a in args)
        is_sum = all(term.as_coeff_Mul()[1] in OPERANDS for term in sp.Add.make_args(formula))
        return log if are_inputs and is_sum else log * VALID

    def rotation(self, state: Input) -> Rotation | None:
        """How a state turns into another one and back; None where it does not."""
        if state not in self._rotations:
            self._rotations[state] = rotation(state, self.updates)
        return self._rotations[state]

    def _angle(self, turning: Rotation) -> tuple[Axis | None, Node]:
        """The axis of the angle, and the angle of every token [i, axis] within one turn, 0 at padding."""
        if len(turning.angle.axes) > 1:
            raise NotChunkable(
                f"{turning.partner.name} turns by an angle for every entry of its own"
            )
        axis = turning.angle.axes[0] if turning.angle.axes else None
        angle = elementwise(within_turn(OPERANDS[0]), self.vectorize(turning.angle))
        return axis, broadcast(angle * VALID, (I,))

    def coupled_states(self, state: Input) -> list[tuple[Input, Node]]:
        """The other states that this one takes in, each with its coefficient, but for one into which it
        turns."""
        if self.rotation(state) is not None:
            return []
        return [(other, c) for other, c in self.updates[state].keep if other is not state]

    # ------------------------------------------------------------ at a token

    def initial(self, state: Input, when: When) -> Iterator[tuple[Input, InitialTransition]]:
        """How the states at the start of the chunk reach this one at a moment of each token."""
        since_start = {axis: self._log_until(log, when) for axis, log in self.logs(state).items()}
        scalar = exponential(since_start[None]) if None in since_start else None
        for log in since_start.values():
            self.labels.setdefault(log, Label("log_since_start", "retention"))
            self.labels.setdefault(exponential(log), Label("since_start", "retention"))
        channels = tuple((axis, log) for axis, log in since_start.items() if axis is not None)
        turning = self.rotation(state)
        if turning is None:
            yield state, InitialTransition(scalar, channels)
        else:
            axis, angle = self._angle(turning)
            turned = self._log_until(angle, when)
            for first, sign in ((state, 0), (turning.partner, turning.sign)):
                yield first, InitialTransition(scalar, channels, (axis, wave(turned, sign)))
        if self.coupled_states(state):
            for other, factor in self._coupled_transitions(state)[0].items():
                yield (
                    other,
                    InitialTransition(factor if when is When.AFTER else Shift(factor, I, 1), ()),
                )

    def of_writes(
        self, state: Input, when: When
    ) -> Iterator[tuple[tuple[Node, Node | None], Transition]]:
        """How each write reaches the state at a moment of each token; a write is named by its (u, x).

        A write that a state which turns receives at the token itself is left out (`own_writes`).
        """
        if self.coupled_states(state):
            for key, dense in self._coupled_transitions(state)[1].items():
                if when is When.AFTER:
                    yield key, Transition(dense, None, (), ONE, False)
                else:
                    yield key, Transition(Shift(dense, I, 1), None, (), ONE, True)
            return
        logs = self.logs(state)
        strict = when is not When.AFTER or self.rotation(state) is not None
        pairs = {axis: (self._log_until(log, when), Cumsum(log, I)) for axis, log in logs.items()}
        channels = tuple((axis, a, b) for axis, (a, b) in pairs.items() if axis is not None)
        for source, turn in self._sources(state, when):
            for write in self.updates[source].writes:
                scale = broadcast(self.vectorize(write.scale), (I,))
                made = Transition(None, pairs.get(None), channels, scale, strict, turn)
                yield (write.u, write.x), made

    def own_writes(self, state: Input, when: When) -> tuple[RankOneWrite, ...]:
        """The writes of the reading token itself that `of_writes` leaves out.

        They do not turn: as a difference of two angles, which are equal, they would leave rounding errors
        where the gradient of the angle is 0.
        """
        apart = when is When.AFTER and self.rotation(state) is not None
        return self.updates[state].writes if apart else ()

    def _sources(self, state: Input, when: When) -> Iterator[tuple[Input, Turn | None]]:
        """The states whose writes reach this one: itself, and what turns into it."""
        turning = self.rotation(state)
        if turning is None:
            yield state, None
            return
        axis, angle = self._angle(turning)
        for source, sign in ((state, 0), (turning.partner, turning.sign)):
            for turn in turns(self._log_until(angle, when), Cumsum(angle, I), sign, axis):
                yield source, turn

    @staticmethod
    def _log_until(log: Node, when: When) -> Node:
        """The sum of logarithms from the chunk's start to a moment of token i."""
        total = Cumsum(log, I)
        return Shift(total, I, 1) if when is When.BEFORE else total

    def _coupled_transitions(self, state: Input) -> Coupled:
        """For a state that takes in others: the factor [i] of each state at the start of the chunk, and
        the triangle [i, j] of each write."""
        if state in self._dense:
            return self._dense[state]
        with self.deriving("coupling", state):
            self._dense[state] = coupled_transitions(self, state)
        return self._dense[state]

    @contextmanager
    def deriving(self, what: str, state: Input) -> Iterator[None]:
        """While something about a state is derived.

        Raises NotChunkable where that asks for itself: the state feeds itself through another one.
        """
        if (what, state) in self._in_progress:
            raise NotChunkable(f"{state.name} feeds itself through another state")
        self._in_progress.append((what, state))
        try:
            yield
        finally:
            self._in_progress.pop()

    # ------------------------------------------------------------ at the chunk's end

    def initial_at_end(self, state: Input) -> Iterator[tuple[Input, Node]]:
        """Each state at the start of the chunk, with the factor that is left of it at the end."""
        factor: Node = ONE
        for log in self.logs(state).values():
            total = reduce_sum(log, (I,))
            self.labels.setdefault(total, Label("log_whole_chunk", "retention"))
            self.labels.setdefault(exponential(total), Label("whole_chunk", "retention"))
            factor = factor * exponential(total)
        turning = self.rotation(state)
        if turning is None:
            yield state, factor
        else:
            total = reduce_sum(self._angle(turning)[1], (I,))
            yield state, factor * wave(total, 0)
            yield turning.partner, factor * wave(total, turning.sign)
        if self.coupled_states(state):
            for other, reach in self._coupled_transitions(state)[0].items():
                yield other, TakeLast(reach, I)

    def writes_at_end(
        self, state: Input
    ) -> Iterator[tuple[tuple[Node, Node | None], Node, Node, Node]]:
        """Each write, with what is left of it at the chunk's end.

        Yields (write, scale [i], factor of each row [i, row], factor of each column [i, column]).
        """
        if self.coupled_states(state):
            for key, dense in self._coupled_transitions(state)[1].items():
                yield key, rename(TakeLast(dense, I), {J: I}), ONE, ONE
            return
        left: dict[Axis | None, Node] = {}
        for axis, log in self.logs(state).items():
            after = Shift(Cumsum(log, I, True), I, -1)
            left[axis] = exponential(after)
            self.labels.setdefault(after, Label("log_until_end", "retention"))
            self.labels.setdefault(left[axis], Label("until_end", "retention"))
        row = left.get(state.axes[0], ONE) if state.axes else ONE
        column = left.get(state.axes[-1], ONE) if len(state.axes) > 1 else ONE
        for source, turned in self._until_end(state):
            axis = turned.axes[-1] if turned.axes[1:] else None
            sides = [row, column]
            if axis is not None:
                side = 0 if axis == state.axes[0] else 1
                sides[side] = sides[side] * turned
            for write in self.updates[source].writes:
                scale = broadcast(self.vectorize(write.scale), (I,)) * left.get(None, ONE)
                yield (write.u, write.x), scale * (turned if axis is None else ONE), *sides

    def _until_end(self, state: Input) -> Iterator[tuple[Input, Node]]:
        """The states whose writes reach this one, with the turn [i] or [i, axis] up to the chunk's end."""
        turning = self.rotation(state)
        if turning is None:
            yield state, ONE
            return
        after = Shift(Cumsum(self._angle(turning)[1], I, True), I, -1)
        yield state, wave(after, 0)
        yield turning.partner, wave(after, turning.sign)
