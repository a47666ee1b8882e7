"""Plans of kernels that were first written by hand, on the joint programs of the rules they compute.

They are here to prove that the type of a plan says what such kernels do: walks in both directions over
one program, a state that several programs share, a sum that arrives a turn late.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from miras_dsl.codegen.derive.block_edge import at_block_start
from miras_dsl.codegen.pipeline import CompiledMemory
from miras_dsl.codegen.plan.build import PlanBuilder, Scope
from miras_dsl.codegen.plan.joint import JointProgram, join
from miras_dsl.codegen.plan.kernel_plan import (
    Along,
    Buffer,
    Carry,
    Compute,
    Edge,
    Exchange,
    Kernel,
    KernelPlan,
    Phase,
    Statement,
    Walk,
)
from miras_dsl.codegen.plan.partition import is_statement, stored_as
from miras_dsl.codegen.plan.torch_plan import edge_statements
from miras_dsl.ir import Axis, Input, Node, postorder


@dataclass
class Draft:
    """A plan by hand: which values a kernel computes follows from what it must give."""

    memory: CompiledMemory
    chunk: int
    kernels: list[Kernel] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)

    def __post_init__(self) -> None:
        form, reverse = self.memory.form, self.memory.reverse
        assert form is not None and reverse is not None
        self.joint: JointProgram = join(form.program, reverse)
        self.builder = PlanBuilder("hand", {})
        programs = (self.joint.forward, self.joint.backward)
        roots = [node for program in programs for _, node in program.results]
        states = [state for state, _ in self.joint.backward.carried]
        self.scope: Scope = self.builder.scope("chunk", [*roots, *states], self.joint.labels)
        for name, node in (*self.joint.forward.results, *self.joint.backward.results):
            self.builder.id(self.scope, stored_as(node), name.replace(".", "_") + "_out")

    def node(self, result: str) -> Node:
        """The value of a result of either pass."""
        both = dict(self.joint.forward.results) | dict(self.joint.backward.results)
        return stored_as(both[result])

    def id(self, node: Node) -> int:
        return self.builder.id(self.scope, node)

    def needed(self, wanted: Iterable[Node], given: Iterable[Node] = ()) -> tuple[int, ...]:
        """The statements that compute some values, from what is given."""
        given = set(given)
        todo = [stored_as(node) for node in wanted]
        reached: set[Node] = set()
        while todo:
            node = todo.pop()
            if node in reached or node in given or not is_statement(node):
                continue
            reached.add(node)
            todo += [stored_as(o) for o in node.operands]
        order = [n for n in postorder(wanted) if n in reached]
        return tuple(self.id(node) for node in order)

    def carry(self, *names: str) -> tuple[Carry, ...]:
        """Carried states, or cotangents of states, by the names of their results."""
        both = (*self.joint.forward.carried, *self.joint.backward.carried)
        states = {name: state for state, name in both}
        return tuple(Carry(self.id(states[name]), self.id(self.node(name))) for name in names)

    def kernel(
        self,
        name: str,
        phase: Phase,
        body: Sequence[Statement],
        writes: Iterable[Node],
        grid: tuple[Along | Axis, ...] = (),
        group: tuple[Axis, int] | None = None,
    ) -> None:
        ids = tuple(self.id(node) for node in writes)
        self.kernels.append(Kernel(name, phase, grid, tuple(body), (), ids, group))

    def keep(self, *states: str) -> None:
        """Keep states on entry of each chunk for the backward pass."""
        carried = {name: state for state, name in self.joint.forward.carried}
        for name in states:
            state: Input = carried[name]
            self.buffers.append(Buffer(self.id(state), Along.CHUNK, state.axes, saved=True))

    def plan(self, results: dict[Phase, Sequence[str]]) -> KernelPlan:
        whole = self.memory.plan
        listed = tuple(
            (phase, name, self.id(self.node(name)))
            for phase, names in results.items()
            for name in names
        )
        return replace(
            whole,
            values=tuple(self.builder.values),
            kernels=tuple(self.kernels),
            buffers=tuple(self.buffers),
            results=listed,
            chunk=self.chunk,
            block=self.chunk if whole.block else 0,
        )


def scalar_decay(memory: CompiledMemory, chunk: int) -> KernelPlan:
    """Four walks: the forward one; the gradient of queries, which needs the states again and walks
    forwards; the gradients of keys and of values, each of which walks backwards with the cotangent of
    the state.  Gates follow from the kept states, chunk by chunk."""
    draft = Draft(memory, chunk)
    y, state = draft.node("y"), draft.node("W")

    def walk(step: int, carried: str, *wanted: Node) -> Walk:
        return Walk(
            Along.CHUNK,
            step,
            draft.carry(carried),
            (Compute(draft.needed([*wanted, draft.node(carried)])),),
        )

    draft.kernel("forward", Phase.FORWARD, [walk(1, "W", y)], [y, state])
    draft.keep("W")
    for name, step, carried in (
        ("d_query", 1, "W"),
        ("d_key", -1, "d_W"),
        ("d_value", -1, "d_W"),
    ):
        gradient = draft.node(name)
        draft.kernel(name, Phase.BACKWARD, [walk(step, carried, gradient)], [gradient])
    gates = [n for n, _ in draft.joint.backward.results if n.startswith("d_log") or n == "d_eta"]
    wanted = [draft.node(name) for name in gates]
    body = [Compute(draft.needed(wanted))]
    draft.kernel("gates", Phase.BACKWARD, body, wanted, (Along.CHUNK,))
    backward = ["d_query", "d_key", "d_value", *gates, "d_W"]
    return draft.plan({Phase.FORWARD: ["y", "W"], Phase.BACKWARD: backward})


def delta(memory: CompiledMemory, chunk: int, inverse: type[Node]) -> KernelPlan:
    """Two kernels: one inverts for all chunks at once, the other walks along them."""
    draft = Draft(memory, chunk)
    y, state = draft.node("y"), draft.node("W")
    (solve,) = [n for n in postorder([y]) if isinstance(n, inverse)]
    draft.kernel("invert", Phase.FORWARD, [Compute(draft.needed([solve]))], [solve], (Along.CHUNK,))
    body = (Compute(draft.needed([y, state], [solve])),)
    walk = Walk(Along.CHUNK, 1, draft.carry("W"), body)
    draft.kernel("walk", Phase.FORWARD, [walk], [y, state])
    return draft.plan({Phase.FORWARD: ["y", "W"]})


def deep(memory: CompiledMemory, chunk: int, hidden: Axis, programs: int) -> KernelPlan:
    """One kernel whose programs share the hidden axis: what the memory answers to the keys is summed
    over them once a chunk; what it answers to the queries is summed while the next chunk runs."""
    draft = Draft(memory, chunk)
    y = draft.node("y")
    names = [name for _, name in draft.joint.forward.carried]
    states = [draft.node(name) for name in names]
    answers = [n for n in postorder(states) if is_statement(n) and _sums(n, hidden)]
    (answer,) = answers
    first = draft.needed([answer])
    rest = tuple(id for id in draft.needed([y, *states]) if id not in first)
    body = (
        *edge_statements(draft.builder, Edge.START, at_block_start(memory.rule)),
        Compute(first),
        Exchange((draft.id(answer),), hidden, 0),
        Compute(rest),
        Exchange((draft.id(y),), hidden, 1),
    )
    walk = Walk(Along.CHUNK, 1, draft.carry(*names), body)
    draft.kernel("deep", Phase.FORWARD, [walk], [], (), (hidden, programs))
    return draft.plan({Phase.FORWARD: ["y", *names]})


def _sums(node: Node, axis: Axis) -> bool:
    return axis in getattr(node, "over", ()) and axis not in node.axes
