"""Pieces that the plans of several targets are made of: edges of blocks, straight kernels, buffers."""

from __future__ import annotations

from collections.abc import Sequence

from miras_dsl.codegen.passes.autodiff import adjoint
from miras_dsl.ir import Node, Number, Program, inputs_of, ordered, postorder

from .build import PlanBuilder, fused_roots
from .kernel_plan import (
    Along,
    AtBlock,
    Buffer,
    Carry,
    Compute,
    Edge,
    Kernel,
    Phase,
    Walk,
)
from .naming import identifier_of
from .partition import is_statement


def edge_statements(
    made: PlanBuilder, where: Edge, program: Program | None, back: bool = False
) -> tuple[AtBlock, ...]:
    """What happens at the edge of a block, or the adjoint of that."""
    if program is None:
        return ()
    program = adjoint(program) if back else program
    roots = fused_roots([node for _, node in program.results])
    names = [name for name, _ in program.results]
    title = f"block {where.value}{', adjoint' if back else ''}"
    carried = [state for state, _ in program.carried]
    scope = made.scope(title, [*roots, *carried], program.labels)
    wishes = dict(zip(roots, map(identifier_of, names), strict=True))
    for x in inputs_of(roots):
        made.id(scope, x)
    order = [n for n in postorder(roots) if is_statement(n)]
    ids = tuple(made.id(scope, n, wishes.get(n, "")) for n in order)
    ends = dict(zip(names, (made.id(scope, root) for root in roots), strict=True))
    carry = tuple(Carry(made.id(scope, state), ends.pop(name)) for state, name in program.carried)
    return (AtBlock(where, carry, (Compute(ids),), tuple(ends.values())),)


def straight_kernel(made: PlanBuilder, name: str, phase: Phase, program: Program) -> Kernel:
    """A program without a loop as one kernel; it writes its results in their order."""
    roots = fused_roots([node for _, node in program.results])
    scope = made.scope(name, [*roots, *(state for state, _ in program.carried)], program.labels)
    states = {result: state for state, result in program.carried}
    wishes: dict[Node, str] = {}
    for root, (result, _) in zip(roots, program.results, strict=True):
        word = identifier_of(result)
        wishes.setdefault(root, f"{word}_next" if result in states else word)
    order = [n for n in postorder(roots) if is_statement(n)]
    ids = tuple(made.id(scope, n, wishes.get(n, "")) for n in order)
    reads = tuple(made.id(scope, x) for x in inputs_of(roots))
    writes = tuple(made.id(scope, root) for root in roots)
    return Kernel(name, phase, (), (Compute(ids),), reads, writes)


def buffers_between(made: PlanBuilder, kernels: Sequence[Kernel]) -> list[Buffer]:
    """What passes between kernels: a value of every chunk; carried states are kept for the backward
    pass as they are on entry of each chunk."""
    found: dict[int, Buffer] = {}
    for kernel in kernels:
        for id in kernel.writes:
            value = made.values[id]
            if not isinstance(value.node, Number):
                found[id] = Buffer(id, Along.CHUNK, ordered(value.node.axes))
        for statement in kernel.body:
            if isinstance(statement, Walk):
                for carry in statement.carry:
                    node = made.values[carry.state].node
                    saved = kernel.phase is Phase.FORWARD
                    found[carry.state] = Buffer(carry.state, Along.CHUNK, node.axes, saved)
    return list(found.values())
