"""The plan of token-by-token kernels: two walks along the tokens of the update rule's own program.

One program of a launch has one head of one sequence and, where nothing couples the value axis, a block
of its values.  The state stays on chip.  The forward kernel keeps the states before each segment; the
backward kernel goes through the segments from the last to the first, computes a segment's states
again, and then goes through its tokens from the last to the first with the adjoint of the step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from miras_dsl.codegen.analysis.padding import masked_axes, padding_values
from miras_dsl.codegen.derive.update import UpdateRule
from miras_dsl.ir import (
    VALUE,
    ZERO,
    Axis,
    Broadcast,
    Input,
    Label,
    Node,
    Number,
    Program,
    Role,
    inputs_of,
    is_zero,
    postorder,
)

from .build import PlanBuilder, Scope
from .interface import citations, input_citations, interface
from .kernel_plan import (
    Along,
    AtBlock,
    Buffer,
    Carry,
    Compute,
    Edge,
    Kernel,
    KernelPlan,
    Phase,
    Walk,
)
from .naming import identifier_of, kernel_names
from .partition import is_statement
from .token.legality import unsupported_reason, value_axis_obstacle
from .token.programs import TokenPrograms, in_order_of_inputs, issue_order, merged, token_programs


def token_plan(rule: UpdateRule, prefix: str) -> KernelPlan:
    """The plan of a rule's token-by-token kernels, whose names begin with ``prefix``.

    ValueError, with the reason, where `unsupported_reason` finds one.
    """
    reason = unsupported_reason(rule)
    if reason:
        raise ValueError(f"{rule.name} has no token-by-token kernel: {reason}")
    programs = token_programs(rule)
    split = value_axis_obstacle(programs.forward, programs.backward, rule.states)
    return _TokenPlanner(rule, prefix, programs, split).plan()


class _TokenPlanner:
    """Makes the plan of one rule.

    obstacle  what keeps the value axis in one program
    """

    def __init__(
        self, rule: UpdateRule, prefix: str, programs: TokenPrograms, obstacle: str
    ) -> None:
        step, back = programs.step, programs.back
        joint = merged(programs.joint)
        self.step = joint.results[: len(step.results)]
        self.back = joint.results[len(step.results) :]
        self.edges = {where: merged(program) for where, program in programs.edges.items()}
        self.edge_adjoints = {
            where: merged(program) for where, program in programs.edge_adjoints.items()
        }
        self.rule, self.obstacle = rule, obstacle
        self.states = rule.states
        self.cotangents = tuple(x for x, _ in back.carried)
        every = [*joint.inputs, *(x for p in self._edge_programs() for x in p.inputs)]
        self.tokens = in_order_of_inputs(rule, (x for x in every if x.role.per_token))
        self.constants = tuple(dict.fromkeys(x for x in every if x.role is Role.CONSTANT))
        named = {name for name, _ in self.back}
        # A predicate has no gradient, and a gate of a block's edge none in the step.
        self.back += tuple(
            (f"d_{x.name}", ZERO)
            for x in (*self.tokens, *self.constants)
            if f"d_{x.name}" not in named
        )
        self.lanes = padding_values(
            [
                Program(step.inputs, self.step, step.carried),
                Program(joint.inputs, self.back, back.carried),
                *self._edge_programs(),
            ]
        )
        inputs = (*self.tokens, *self.constants, *self.states, *self.cotangents)
        labels = dict(joint.labels)
        for edge in self._edge_programs():
            labels |= edge.labels
        labels |= {x: Label(x.name, f"input {x.name}") for x in inputs}
        self.names = kernel_names(labels, inputs)
        self.edge_scopes: dict[str, Scope] = {}
        self.edge_gradients: set[tuple[str, int]] = set()
        self.made = PlanBuilder(
            prefix, citations(rule) | input_citations(rule), rule.model.logarithms
        )
        self.token = self._scope("token", (*inputs, Input("d_y", (VALUE,), Role.COTANGENT)))

    def _edge_programs(self) -> list[Program]:
        return [*self.edges.values(), *self.edge_adjoints.values()]

    def plan(self) -> KernelPlan:
        """Both kernels, and what passes between them."""
        self._name_results()
        kernels, buffers = (self._forward(), self._backward()), self._buffers()
        answers = [(Phase.FORWARD, name, self._id(node)) for name, node in self.step]
        gradients = [(Phase.BACKWARD, name, id) for name, id in sorted(self.edge_gradients)]
        gradients += [(Phase.BACKWARD, name, self._id(node)) for name, node in self.back]
        return KernelPlan(
            name=self.rule.name,
            target="triton",
            values=tuple(
                replace(v, masked=masked_axes(v.node, self.lanes)) for v in self.made.values
            ),
            kernels=kernels,
            buffers=buffers,
            results=(*answers, *gradients),
            rows=(),
            chunk=1,
            block=self.rule.block,
            interface=interface(self.rule),
            family="token by token",
            why=(self.obstacle,) if self.obstacle else (),
        )

    def _scope(self, name: str, inputs: Iterable[Input]) -> Scope:
        """A scope whose values have names of their own: all scopes stand in one kernel, and the same
        formula of a state or a cotangent has another value before and after a step."""
        scope = Scope(name, self.names.inner())
        for x in inputs:
            self.made.id(scope, x)
        return scope

    def _id(self, node: Node) -> int:
        return self.made.id(self.token, node)

    def _name_results(self) -> None:
        """Results are called by what they belong to: `W_next`, `d_key`, `d_W_next`."""
        states = {state.name: state for state in self.states}
        cotangents = {x.name: x for x in self.cotangents}
        self._name(self.token, dict(self.step)["y"], "y")
        word = self.names.name
        for name, node in self.step:
            if name in states:
                self._name(self.token, node, f"{word(states[name])}_next")
        for name, node in self.back:
            if name in cotangents:
                self._name(self.token, node, f"{word(cotangents[name])}_next")
        for x, node in self._gradients():
            self._name(self.token, node, f"d_{word(x)}")

    def _name(self, scope: Scope, node: Node, wish: str) -> None:
        if not isinstance(node, Number):
            scope.names.name(node, wish)

    def _gradients(self) -> list[tuple[Input, Node]]:
        """Tokens and constants with their gradients in the step."""
        back = dict(self.back)
        return [(x, back[f"d_{x.name}"]) for x in (*self.tokens, *self.constants)]

    def _forward(self) -> Kernel:
        given = (*self.tokens, *self.constants, *self.states)
        body = (
            *self._edge(Edge.START),
            self._compute(self.token, self.step),
            *self._edge(Edge.END),
        )
        return Kernel(
            name="forward",
            phase=Phase.FORWARD,
            grid=self.grid,
            body=(Walk(Along.TOKEN, 1, self._carry(self.step, self.states), body),),
            reads=tuple(map(self._id, given)),
            writes=tuple(self._id(node) for _, node in self.step),
        )

    def _backward(self) -> Kernel:
        next_states = [(name, node) for name, node in self.step if name != "y"]
        replay = Walk(
            Along.TOKEN,
            1,
            self._carry(self.step, self.states),
            (
                *self._edge(Edge.START),
                self._compute(self.token, next_states),
                *self._edge(Edge.END),
            ),
        )
        carry = self._carry(self.back, self.cotangents)
        issued = issue_order(self.back, (*self.tokens, *self.constants))
        adjoint_walk = Walk(
            Along.TOKEN,
            -1,
            carry,
            (
                *self._edge(Edge.START),
                *self._edge_adjoint(Edge.END),
                self._compute(self.token, issued),
                *self._edge_adjoint(Edge.START),
            ),
        )
        d_y = Input("d_y", (VALUE,), Role.COTANGENT)
        given = (*self.tokens, *self.constants, d_y, *self.states, *self.cotangents)
        return Kernel(
            name="backward",
            phase=Phase.BACKWARD,
            grid=self.grid,
            body=(Walk(Along.SEGMENT, -1, carry, (replay, adjoint_walk)),),
            reads=tuple(map(self._id, given)),
            writes=tuple(self._id(node) for _, node in self.back),
        )

    @property
    def grid(self) -> tuple[Axis, ...]:
        return () if self.obstacle else (VALUE,)

    def _compute(self, scope: Scope, results: Iterable[tuple[str, Node]]) -> Compute:
        """What some results need.  Values repeat along an axis by themselves; a result that only
        repeats another value is a statement."""
        roots = [node for _, node in results]
        for x in inputs_of(roots):
            self.made.id(scope, x)
        lines = (node for node in postorder(roots) if is_statement(node))
        kept = (node for node in lines if node in roots or not isinstance(node, Broadcast))
        return Compute(tuple(self.made.id(scope, node) for node in kept))

    def _carry(
        self, results: Iterable[tuple[str, Node]], carried: Iterable[Input]
    ) -> tuple[Carry, ...]:
        found = dict(results)
        return tuple(Carry(self._id(x), self._id(found[x.name])) for x in carried)

    def _edge(self, where: Edge) -> tuple[AtBlock, ...]:
        """What the states become at the edge of a block."""
        if where not in self.edges:
            return ()
        return (self._at_block(where, self.edges[where], f"block {where.value}"),)

    def _edge_adjoint(self, where: Edge) -> tuple[AtBlock, ...]:
        """The adjoint of that: cotangents of the states before it, and gradients of its gates."""
        if where not in self.edge_adjoints:
            return ()
        title = f"block {where.value}, adjoint"
        return (self._at_block(where, self.edge_adjoints[where], title),)

    def _at_block(self, where: Edge, program: Program, title: str) -> AtBlock:
        if title not in self.edge_scopes:
            read = inputs_of(node for _, node in program.results)
            carried = [x for x, _ in program.carried]
            self.edge_scopes[title] = self._scope(title, dict.fromkeys((*read, *carried)))
        scope = self.edge_scopes[title]
        for name, node in program.results:
            self._name(scope, node, f"{identifier_of(name)}_at_{where.value}")
        body = self._compute(scope, program.results)
        states = {name: state for state, name in program.carried}
        carry, gradients = [], []
        for name, node in program.results:
            if name in states:
                carry.append(Carry(self.made.id(scope, states[name]), self.made.id(scope, node)))
            elif not is_zero(node):
                gradients.append((name, self.made.id(scope, node)))
        self.edge_gradients |= {(name, id) for name, id in gradients}
        return AtBlock(where, tuple(carry), (body,), tuple(id for _, id in gradients))

    def _buffers(self) -> tuple[Buffer, ...]:
        """States after the last token, before each segment (kept for the backward pass) and before
        each token of a segment; gradients, which are shares of sums where values are split."""
        found = []
        for x in self.states:
            id = self._id(x)
            found += [
                Buffer(id, Along.CALL, x.axes),
                Buffer(id, Along.SEGMENT, x.axes, saved=True),
                Buffer(id, Along.TOKEN, x.axes),
            ]
        results = [(x, self._id(node)) for x, node in self._gradients()]
        results += [(x, self._id(x)) for x in self.cotangents]
        for x, id in results:
            whole = Along.TOKEN if x.role.per_token else Along.CALL
            shared = not self.obstacle and VALUE not in x.axes
            found.append(Buffer(id, Along.SHARE if shared else whole, x.axes))
        return tuple(dict.fromkeys(found))
