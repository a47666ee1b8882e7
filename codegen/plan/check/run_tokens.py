"""The meaning of a plan of token-by-token kernels: token after token in float64, or under a rounding.

Every program of a kernel has its part of the value axis and runs the kernel's loops as they stand: the
forward kernel one loop along the tokens; the backward kernel the segments from the last to the first,
and in each the states again from its checkpoint and then the adjoint of each token, from the last on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from miras_dsl.codegen.plan.kernel_plan import (
    Along,
    Carry,
    Compute,
    KernelPlan,
    Phase,
    Walk,
)
from miras_dsl.codegen.plan.partition import is_statement, stored_as
from miras_dsl.ir import VALUE, Axes, Axis, Input, Node, ordered
from miras_dsl.ir.interpreter import EXACT, Array, Rounding, apply

from .programs import Program, cut, programs_of

Arrays = Mapping[str, Array]
Carried = dict[Node, Array]


def run_token_plan(
    plan: KernelPlan,
    arrays: Arrays,
    sizes: Mapping[Axis, int],
    segment: int,
    rounding: Rounding = EXACT,
) -> dict[str, Array]:
    """The results of both kernels by name: `y` [T, …], `W` the last state, `d_key` [T, …] …

    arrays   inputs by name: tokens and gates [T, …] (logarithms where the plan wants them), constants,
             first states, `d_y` [T, …] and the cotangents of the last states
    sizes    of the axes
    segment  tokens of a segment

    Raises KeyError for an input without an array and for a value that is read before it is computed,
    ValueError for a rule with blocks, whose edges are not interpreted here.
    """
    if plan.block:
        raise ValueError(f"{plan.name} has blocks; their edges are not interpreted token by token")
    return _Run(plan, arrays, sizes, segment, rounding).results()


class _Run:
    """What the programs of the kernels have left so far.

    parts  by name of a result: the programs with their parts of it, [T, …] or of the whole call
    """

    def __init__(
        self,
        plan: KernelPlan,
        arrays: Arrays,
        sizes: Mapping[Axis, int],
        segment: int,
        rounding: Rounding,
    ) -> None:
        self.plan, self.arrays, self.sizes = plan, arrays, sizes
        self.rounding, self.segment = rounding, segment
        self.timed = {f.name for f in plan.interface.inputs if f.kind != "constant"}
        self.length = len(arrays[min(self.timed)])
        self.axes: dict[str, Axes] = {f.name: ordered(f.axes) for f in plan.interface.inputs}
        self.axes |= {s.name: ordered(s.axes) for s in plan.interface.states}
        self.axes["y"] = (VALUE,)
        for age in range(1, plan.interface.window):  # the inputs of earlier tokens
            past: dict[str, Axes] = {
                f"{name}_past{age}": self.axes[name] for name in plan.interface.window_inputs
            }
            past[f"written_past{age}"] = ()
            self.axes |= past
            self.timed |= past.keys()
        self.parts: dict[str, list[tuple[Program, Array]]] = {}

    def results(self) -> dict[str, Array]:
        (forward,), (backward,) = map(self.plan.kernels_of, (Phase.FORWARD, Phase.BACKWARD))
        (steps,), (segments,) = forward.body, backward.body
        assert isinstance(steps, Walk) and isinstance(segments, Walk), "a token kernel is a loop"
        for program in programs_of(forward, self.sizes):
            checkpoints = self.forward(steps, program)
            self.backward(segments, program, checkpoints)
        return {name: self.whole(name, parts) for name, parts in self.parts.items()}

    def forward(self, walk: Walk, program: Program) -> list[Carried]:
        """The forward loop; returns the states before each segment."""
        states, checkpoints = self.first(walk.carry, program), []
        for t in range(self.length):
            if t % self.segment == 0:
                checkpoints.append(states)
            states = self.turn(walk, program, t, states, {}, Phase.FORWARD)
        self.last(states, program)
        return checkpoints

    def backward(self, walk: Walk, program: Program, checkpoints: list[Carried]) -> None:
        assert walk.along is Along.SEGMENT and walk.step == -1, "the last segment comes first"
        replay, adjoint = walk.body
        assert isinstance(replay, Walk) and isinstance(adjoint, Walk), "a segment has two loops"
        assert (replay.step, adjoint.step) == (1, -1), "states forwards, their adjoint backwards"
        cotangents = {
            x: array if self.brings(x.axes, program) else np.zeros_like(array)
            for x, array in self.first(walk.carry, program).items()
        }
        for number in reversed(range(len(checkpoints))):
            start = number * self.segment
            states, before = checkpoints[number], []
            for t in range(start, min(start + self.segment, self.length)):
                before.append(states)
                states = self.turn(replay, program, t, states, {}, None)
            for t in reversed(range(start, start + len(before))):
                known = before[t - start]
                cotangents = self.turn(adjoint, program, t, cotangents, known, Phase.BACKWARD)
        self.last(cotangents, program)

    def first(self, carry: Iterable[Carry], program: Program) -> Carried:
        states = [self.plan.values[c.state].node for c in carry]
        return {
            x: cut(self.arrays[x.name], x.axes, program) for x in states if isinstance(x, Input)
        }

    @staticmethod
    def brings(axes: Axes, program: Program) -> bool:
        """Whether a program starts with the cotangent of a last state: of programs that have shares of
        one, the first."""
        shared = [part for axis, part in program.slices.items() if axis not in axes]
        return all(part.start == 0 for part in shared)

    def last(self, carried: Carried, program: Program) -> None:
        for state, x in carried.items():
            assert isinstance(state, Input), "a loop carries inputs of its body"
            self.parts.setdefault(state.name, []).append((program, x))

    # -------------------------------------------------------- one token

    def turn(
        self,
        walk: Walk,
        program: Program,
        t: int,
        carried: Carried,
        states: Carried,
        leaves: Phase | None,
    ) -> Carried:
        """The carried values after a token.

        states  before the token, for its adjoint
        leaves  the phase whose results this loop leaves; None for states that are computed again
        """
        done = {**states, **carried}
        for statement in walk.body:
            assert isinstance(statement, Compute), "a token without blocks is a run of statements"
            for node in (self.plan.values[id].node for id in statement.values):
                for operand in node.operands:
                    self.given(operand, program, t, done)
                done[node] = apply(node, done, {}, self.extents(program), self.rounding)
        own = {x.name for x in carried if isinstance(x, Input)}
        for phase, name, id in self.plan.results:
            if phase is leaves and name not in own:
                self.leave(
                    name, self.given(self.plan.values[id].node, program, t, done), program, t
                )
        following = {
            self.plan.values[c.state].node: self.plan.values[c.next].node for c in walk.carry
        }
        return {
            state: np.broadcast_to(self.given(node, program, t, done), carried[state].shape)
            for state, node in following.items()
        }

    def given(self, node: Node, program: Program, t: int, done: Carried) -> Array:
        """A value that is there, or one that no statement computes: an input, a number, a repetition."""
        if node not in done:
            if isinstance(node, Input):
                whole = self.arrays[node.name]
                per_token = node.name == "d_y" or node.name in self.timed
                done[node] = cut(whole[t] if per_token else whole, node.axes, program)
            elif is_statement(node) and stored_as(node) is node:
                raise KeyError(f"{node} is read before it is computed")
            else:
                for operand in node.operands:
                    self.given(operand, program, t, done)
                done[node] = apply(node, done, {}, self.extents(program), self.rounding)
        return done[node]

    def leave(self, name: str, x: Array, program: Program, t: int) -> None:
        """A result of a token; what belongs to no token is summed over all of them."""
        of = name.removeprefix("d_")
        timed = name == "y" or of in self.timed
        sizes = self.extents(program)
        shape = tuple(sizes[axis] for axis in self.axes[name if name == "y" else of])
        mine = next((part for p, part in self.parts.get(name, []) if p is program), None)
        if mine is None:
            mine = np.zeros((self.length, *shape) if timed else shape)
            self.parts.setdefault(name, []).append((program, mine))
        mine[(t, ...) if timed else ...] += np.broadcast_to(x, shape)

    def extents(self, program: Program) -> dict[Axis, int]:
        parts = {axis: len(range(self.sizes[axis])[p]) for axis, p in program.slices.items()}
        return {**self.sizes, **parts}

    # -------------------------------------------------------- all programs

    def whole(self, name: str, parts: list[tuple[Program, Array]]) -> Array:
        """A result from the programs' parts: side by side along an axis that they divide up, else a
        state that each of them has, or a gradient of which each has a share."""
        axes = self.axes[name if name in self.axes else name.removeprefix("d_")]
        first, array = parts[0]
        divided = [axis for axis in first.slices if axis in axes]
        if not divided and name.startswith("d_"):
            return np.asarray(sum(x for _, x in parts))
        if not divided:
            assert all(np.array_equal(x, array) for _, x in parts), f"programs disagree on {name}"
            return array
        timed = array.ndim - len(axes)
        whole = np.full((*array.shape[:timed], *(self.sizes[axis] for axis in axes)), np.nan)
        for program, x in parts:
            place = tuple(program.slices.get(axis, slice(None)) for axis in axes)
            whole[(slice(None),) * timed + place] = x
        return whole
