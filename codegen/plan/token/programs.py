"""What one token does, and what happens at the edges of a block: the programs of token kernels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from miras_dsl.codegen.derive.block_edge import at_block_end, at_block_start
from miras_dsl.codegen.derive.update import UpdateRule
from miras_dsl.codegen.passes.autodiff import adjoint
from miras_dsl.codegen.passes.cse import eliminate_in_program, is_work
from miras_dsl.codegen.passes.fuse_maps import fuse, fusible
from miras_dsl.codegen.plan.build import users_of
from miras_dsl.codegen.plan.kernel_plan import Edge
from miras_dsl.codegen.plan.partition import is_statement
from miras_dsl.ir import VALUE, Input, Map, Node, Program, Role, broadcast, postorder, substitute
from miras_dsl.scalar.functions import OPERANDS


@dataclass(frozen=True, slots=True)
class TokenPrograms:
    """What one token does and what happens at the edges of a block, with the adjoints of both.

    edges          what the states become there
    edge_adjoints  the adjoint of that; at a block's end over the states before its last token
    """

    step: Program
    back: Program
    edges: Mapping[Edge, Program]
    edge_adjoints: Mapping[Edge, Program]

    @property
    def joint(self) -> Program:
        """Step and adjoint as one: a value of the step that its adjoint needs too is one value."""
        step, back = self.step, self.back
        inputs = tuple(dict.fromkeys((*step.inputs, *back.inputs)))
        return Program(inputs, (*step.results, *back.results), back.carried, labels=back.labels)

    @property
    def forward(self) -> tuple[Program, ...]:
        return self.step, *self.edges.values()

    @property
    def backward(self) -> tuple[Program, ...]:
        return self.back, *self.edge_adjoints.values()


def token_programs(rule: UpdateRule) -> TokenPrograms:
    results = tuple((n, broadcast(r, (VALUE,)) if n == "y" else r) for n, r in rule.program.results)
    step = Program(rule.program.inputs, results, rule.program.carried)
    found = {Edge.START: at_block_start(rule), Edge.END: at_block_end(rule)}
    edges = {where: program for where, program in found.items() if program is not None}
    adjoints = {where: adjoint(program) for where, program in edges.items()}
    if Edge.END in adjoints:
        # It reads the states after the step, which are computed again from those before it.
        after: dict[Node, Node] = {state: step.result(name) for state, name in step.carried}
        back = adjoints[Edge.END]
        nodes = [node for _, node in back.results]
        made = dict(zip(nodes, substitute(nodes, after), strict=True))
        adjoints[Edge.END] = replace(back.with_results(made), inputs=(*back.inputs, *step.inputs))
    return TokenPrograms(step, adjoint(step), edges, adjoints)


def merged(program: Program) -> Program:
    """A program with repeated terms computed once and formulas written into their only reader."""
    shared = eliminate_in_program(program, is_work)
    order = postorder(node for _, node in shared.results)
    lines = [node for node in order if is_statement(node)]
    results = {node for _, node in shared.results}
    inner = fusible(lines, results, users_of(order)) | (_cheap(lines) - results)
    return shared.with_results(fuse(order, inner))


def _cheap(lines: Iterable[Node]) -> set[Node]:
    """Changes of sign, and products of smaller tensors: every formula that reads one has it written
    into it, for it costs less there, where small operands are multiplied first, than a tile does."""
    found: set[Node] = set()
    for node in lines:
        if not isinstance(node, Map):
            continue
        larger = all(len(arg.axes) < len(node.axes) for arg in node.args)
        if node.formula == -OPERANDS[0] or (larger and node.formula.is_Mul):
            found.add(node)
    return found


def in_order_of_inputs(rule: UpdateRule, inputs: Iterable[Input]) -> tuple[Input, ...]:
    """Inputs of every token in the order of the kernels' parameters: tokens before gates, for the
    first one sets the type of the answers; those of earlier tokens last."""
    feeds = [feed.name for feed in rule.inputs]
    found = [x for x in dict.fromkeys(inputs) if x.role is not Role.POSITION]
    found.sort(key=lambda x: feeds.index(x.name) if x.name in feeds else len(feeds))
    return tuple(found)


def issue_order(back: Iterable[tuple[str, Node]], given: Iterable[Input]) -> list[tuple[str, Node]]:
    """The results of a step's adjoint in the order in which their statements are issued.

    The gradients of ``given`` come first, in its order, and the carried cotangents last: so the values
    of the forward pass stand before those that need them, and registers hold fewer tiles at a time.
    """
    found = dict(back)
    names = dict.fromkeys(f"d_{x.name}" for x in given)
    return [(name, found[name]) for name in (*names, *(n for n in found if n not in names))]
