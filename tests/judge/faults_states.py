"""Faults of rules with several weights: turning pairs, running maxima, a retention for each weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from miras_dsl.codegen.derive import running_max, state_reader, transitions
from miras_dsl.codegen.derive.running_max import MaxUpdate
from miras_dsl.codegen.derive.transition import Turn, When
from miras_dsl.codegen.derive.transitions import Transitions
from miras_dsl.ir import Axis, I, Input, Node, Number, Shift, substitute
from tests.judge.faults import Patch, fault


@fault("turning", "the turn of a write is measured from the token before it")
def _(patch: Patch) -> None:
    made = transitions.turns

    def early(angle: Node, before: Node, sign: int, axis: Axis | None) -> Iterator[Turn]:
        return made(angle, Shift(before, I, 1), sign, axis)

    patch.setattr(transitions, "turns", early)


@fault("turning", "an imaginary part turns back into the real one with the wrong sign")
def _(patch: Patch) -> None:
    made = transitions.turns

    def turned(angle: Node, before: Node, sign: int, axis: Axis | None) -> Iterator[Turn]:
        return made(angle, before, abs(sign), axis)

    patch.setattr(transitions, "turns", turned)


@fault("largest", "a running maximum forgets what it was when the chunk began")
def _(patch: Patch) -> None:
    made = running_max.running_max

    def without_start(
        update: MaxUpdate, state: Input, when: When, vectorize: Callable[[Node], Node]
    ) -> Node:
        (found,) = substitute(
            [made(update, state, when, vectorize)], {state: Number(running_max.LOWEST)}
        )
        return found

    patch.setattr(state_reader, "running_max", without_start)


@fault("largest", "of equal values the newest has the derivative of the oldest")
def _(patch: Patch) -> None:
    made = running_max.Cumsum

    def reversed_order(x: Node, axis: Axis, reverse: bool = False) -> Node:
        return made(x, axis, not reverse if axis != I else reverse)

    patch.setattr(running_max, "Cumsum", reversed_order)


@fault("two retentions", "the retention of one weight is applied to another")
def _(patch: Patch) -> None:
    made = Transitions.logs

    def of_first(self: Transitions, state: Input) -> dict[Axis | None, Node]:
        return made(self, next(x for x in self.updates if x.name == "S"))

    patch.setattr(Transitions, "logs", of_first)
