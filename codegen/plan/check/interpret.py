"""The meaning of a plan: kernel after kernel in float64, or under a rounding, as its statements say.

Every program of a kernel runs its own part: a grid or a group along an axis gives each a slice of it,
and what programs have to add up is added up where the plan says so and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from miras_dsl.codegen.plan.kernel_plan import (
    Along,
    AtBlock,
    Compute,
    Edge,
    Exchange,
    Kernel,
    KernelPlan,
    Phase,
    Statement,
    Value,
    Walk,
)
from miras_dsl.ir import Axis, I, Input, J, L, M, Node, Role
from miras_dsl.ir.interpreter import EXACT, Array, Rounding, apply

from .programs import Program, cut, joined, programs_of

Arrays = Mapping[str, Array]


def run_plan(
    plan: KernelPlan,
    arrays: Arrays,
    sizes: Mapping[Axis, int],
    phases: Sequence[Phase] = (Phase.FORWARD, Phase.BACKWARD),
    rounding: Rounding = EXACT,
) -> dict[str, Array]:
    """The results of some phases by name: `y` [T, …], `W` the last state, `d_key` [T, …] …

    arrays  inputs by name: tokens [T, …] (logarithms where the plan wants them), `valid` [T], constants,
            first states; for the backward phase also `d_y` [T, …] and the cotangents of last states
    sizes   of channel and hidden axes; a block of tokens, where there is one, starts with the first

    Raises KeyError for an input without an array, ValueError for a plan whose programs disagree.
    """
    run = _Run(plan, arrays, sizes, rounding)
    found: dict[str, Array] = {}
    for phase in phases:
        for kernel in plan.kernels_of(phase):
            run.kernel(kernel)
        found |= run.results(phase)
    return found


class _Run:
    def __init__(
        self, plan: KernelPlan, arrays: Arrays, sizes: Mapping[Axis, int], rounding: Rounding
    ) -> None:
        self.plan, self.arrays, self.sizes, self.rounding = plan, arrays, sizes, rounding
        length = len(arrays["valid"])
        starts = range(0, length, plan.chunk)
        self.chunks = [slice(at, min(at + plan.chunk, length)) for at in starts]
        self.store: dict[Node, dict[int, Array]] = {}
        self.before_end: dict[Node, dict[int, Array]] = {}
        self.last: dict[str, Array] = {}
        self.at_edges: dict[str, Array] = {}
        self.length = length

    def kernel(self, kernel: Kernel) -> None:
        """Run all programs of a kernel, and keep what it writes."""
        programs = programs_of(kernel, self.sizes)
        if Along.CHUNK in kernel.grid:
            for n in range(len(self.chunks)):
                for program in programs:
                    program.done = {}
                self._body(kernel.body, programs, n)
                self._keep(kernel, programs, n)
        else:
            for statement in kernel.body:
                assert isinstance(statement, Walk), "a kernel of all chunks walks along them"
                self._walk(kernel, statement, programs)

    def _walk(self, kernel: Kernel, walk: Walk, programs: list[Program]) -> None:
        assert walk.along is Along.CHUNK, "only walks along chunks are interpreted here"
        values = self.plan.values
        for program in programs:
            for carry in walk.carry:
                state = values[carry.state].node
                assert isinstance(state, Input)
                program.carried[state] = cut(self.arrays[state.name], state.axes, program)
        order = range(len(self.chunks))
        late: list[tuple[int, Value, Array]] = []
        for n in order if walk.step > 0 else reversed(order):
            for program in programs:
                program.done = {}
            edges = [s for s in walk.body if isinstance(s, AtBlock)]
            rest = [s for s in walk.body if not isinstance(s, AtBlock)]
            first, second = (Edge.START, Edge.END) if walk.step > 0 else (Edge.END, Edge.START)
            self._edges([e for e in edges if e.when is first], programs, n, walk.step)
            for program in programs:
                program.done |= program.carried
            self._store_carried(programs, n)
            self._body(rest, programs, n, late)
            after = [
                {
                    values[c.state].node: np.broadcast_to(
                        self._value(values[c.next].node, program, n),
                        program.carried[values[c.state].node].shape,
                    )
                    for c in walk.carry
                }
                for program in programs
            ]
            for program, carried in zip(programs, after, strict=True):
                program.carried = carried
            if walk.step > 0:
                for node in programs[0].carried:
                    parts = [(p, p.carried[node]) for p in programs]
                    self.before_end.setdefault(node, {})[n] = joined(node, parts, self.sizes)
            self._edges([e for e in edges if e.when is second], programs, n, walk.step)
            self._keep(kernel, programs, n)
        for n, value, total in late:
            self.store.setdefault(value.node, {})[n] = total
        for carry in walk.carry:
            state = values[carry.state].node
            assert isinstance(state, Input)
            self.last[state.name] = joined(
                state, [(p, p.carried[state]) for p in programs], self.sizes
            )

    def _body(
        self,
        body: Iterable[Statement],
        programs: list[Program],
        n: int,
        late: list[tuple[int, Value, Array]] | None = None,
    ) -> None:
        for statement in body:
            match statement:
                case Compute(ids):
                    for program in programs:
                        for id in ids:
                            self._value(self.plan.values[id].node, program, n)
                case Exchange(ids, _, lag, inner):
                    self._body(inner, programs, n, late)
                    for id in ids:
                        value = self.plan.values[id]
                        total = sum(program.done[value.node] for program in programs)
                        if lag:
                            assert late is not None, "an exchange with a lag stands in a walk"
                            late.append((n, value, np.asarray(total)))
                            continue
                        for program in programs:
                            program.done[value.node] = np.asarray(total)
                case Walk() | AtBlock():
                    raise ValueError("walks inside a chunk are those of token kernels")

    # ------------------------------------------------------------ values

    def _value(self, node: Node, program: Program, n: int) -> Array:
        """The value of a node in one program for one chunk."""
        if node not in program.done:
            if node in self.store and n in self.store[node]:
                program.done[node] = cut(self.store[node][n], node.axes, program)
            elif isinstance(node, Input):
                program.done[node] = self._input(node, program, n)
            else:
                for operand in node.operands:
                    self._value(operand, program, n)
                program.done[node] = apply(
                    node, program.done, {}, self._sizes(program, n), self.rounding
                )
        return program.done[node]

    def _input(self, node: Input, program: Program, n: int) -> Array:
        whole = self.arrays[node.name]
        here = whole[self.chunks[n]] if node.per_token else whole
        return cut(here, node.axes, program)

    def _sizes(self, program: Program, n: int) -> dict[Axis, int]:
        rows = self.chunks[n].stop - self.chunks[n].start
        sizes = {**self.sizes, **dict.fromkeys((I, J, L, M), rows)}
        for axis, part in program.slices.items():
            sizes[axis] = len(range(self.sizes[axis])[part])
        return sizes

    # ------------------------------------------------------------ edges of blocks

    def _edges(self, edges: list[AtBlock], programs: list[Program], n: int, step: int) -> None:
        for edge in edges:
            rows = self.chunks[n].stop - self.chunks[n].start
            if edge.when is Edge.END and rows < self.plan.block:
                continue
            token = self.chunks[n].start if edge.when is Edge.START else self.chunks[n].stop - 1
            for program in programs:
                self._edge(edge, program, n, token, step)

    def _edge(self, edge: AtBlock, program: Program, n: int, token: int, step: int) -> None:
        values = self.plan.values
        done: dict[Node, Array] = {**program.carried}
        kept = {node.name: x for node, x in program.carried.items() if isinstance(node, Input)}

        def value(node: Node) -> Array:
            if node not in done:
                if isinstance(node, Input):
                    done[node] = self._at_edge(node, kept, program, n, token, edge, step)
                else:
                    for operand in node.operands:
                        value(operand)
                    done[node] = apply(node, done, {}, self._sizes(program, n), self.rounding)
            return done[node]

        made = {
            values[c.state].node: np.broadcast_to(
                value(values[c.next].node), program.carried[values[c.state].node].shape
            )
            for c in edge.carry
        }
        for id in edge.results:
            name = values[id].name
            total = self.at_edges.setdefault(
                name, np.zeros_like(self.arrays[name.removeprefix("d_")])
            )
            total[token] += value(values[id].node)
        program.carried |= made

    def _at_edge(
        self,
        node: Input,
        kept: Arrays,
        program: Program,
        n: int,
        token: int,
        edge: AtBlock,
        step: int,
    ) -> Array:
        """An input of an edge's program: a carried value, a state as it was there, the token's own."""
        if node.name in kept:
            return kept[node.name]
        if node.role is Role.STATE and step < 0:
            before = self._before_edge(node, n, edge)
            return cut(before, node.axes, program)
        whole = self.arrays[node.name]
        return cut(whole[token] if node.per_token else whole, node.axes, program)

    def _before_edge(self, node: Input, n: int, edge: AtBlock) -> Array:
        """A state as the forward pass had it at an edge: before the end of a block, and after its
        start, which changes no state that it reads."""
        return self.before_end[node][n] if edge.when is Edge.END else self.store[node][n]

    def _store_carried(self, programs: list[Program], n: int) -> None:
        for node in programs[0].carried:
            self.store.setdefault(node, {})[n] = joined(
                node, [(p, p.carried[node]) for p in programs], self.sizes
            )

    def _keep(self, kernel: Kernel, programs: list[Program], n: int) -> None:
        shares = {b.value for b in self.plan.buffers if b.per is Along.SHARE}
        for id in kernel.writes:
            node = self.plan.values[id].node
            parts = [(p, self._value(node, p, n)) for p in programs]
            if id in shares:
                total = np.asarray(sum(x for _, x in parts))
                self.store.setdefault(node, {})[n] = total
            elif n not in self.store.get(node, {}):
                self.store.setdefault(node, {})[n] = joined(node, parts, self.sizes)

    def results(self, phase: Phase) -> dict[str, Array]:
        """The results of a phase: of every token, or of all."""
        found: dict[str, Array] = {}
        for name, value in self.plan.results_of(phase).items():
            if name in self.last:
                found[name] = self.last[name]
                continue
            each = [self._whole(value.node, n) for n in range(len(self.chunks))]
            given = self.arrays.get(name.removeprefix("d_"))
            if I in value.node.axes or name == "y":
                found[name] = np.concatenate(each)
            elif given is not None and len(given) == self.length:
                found[name] = np.concatenate(
                    [
                        np.broadcast_to(x, given[c].shape)
                        for x, c in zip(each, self.chunks, strict=True)
                    ]
                )
            else:
                found[name] = np.asarray(sum(each))
            if name in self.at_edges:
                found[name] = found[name] + self.at_edges[name]
        return found

    def _whole(self, node: Node, n: int) -> Array:
        if n in self.store.get(node, {}):
            return self.store[node][n]
        return self._value(node, Program({}), n)
