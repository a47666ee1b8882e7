"""The plan of torch text: the trivial one.

Forwards, one kernel computes for all chunks at once what needs no carried value, one walks along the
chunks, and one computes for all chunks what only reads what the walk has carried; backwards the same
on the adjoint.  Every value of a region is computed where it is read: the backward pass keeps the
states on entry of each chunk and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from miras_dsl.codegen.derive.block_edge import at_block_end, at_block_start
from miras_dsl.codegen.derive.chunk import ChunkForm
from miras_dsl.codegen.derive.update import UpdateRule
from miras_dsl.codegen.passes.autodiff import adjoint
from miras_dsl.codegen.passes.cse import eliminate_in_program, is_work
from miras_dsl.codegen.passes.fuse_maps import fuse, fusible
from miras_dsl.ir import Node, Number, Program, inputs_of, ordered, postorder

from .build import PlanBuilder, Scope, fused_roots, users_of
from .factor_decays import decay_ranges, factor_decay_products, logarithms_of
from .interface import citations, interface
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
    Statement,
    Walk,
)
from .naming import identifier_of
from .partition import is_statement, partition, stored_as

CHUNK = 64
"""Tokens of a chunk where the meaning of the rule does not fix it."""


Edges = Mapping[Edge, tuple[AtBlock, ...]]


def plan_in_torch(
    rule: UpdateRule, form: ChunkForm | None, reverse: Program | None, obstacle: str, prefix: str
) -> KernelPlan:
    """The plan of a rule's torch text, with products factored where the gates' ranges allow it.

    reverse   the adjoint of the chunk form
    obstacle  why a rule has no chunk form
    prefix    what its functions begin with
    """
    chunk = rule.block * rule.micro or CHUNK
    if form is None or reverse is None:
        return torch_plan(rule, None, None, prefix, chunk, "token by token", (obstacle,))
    known = logarithms_of(rule.model.spec, rule.feeds)
    programs = [factor_decay_products(p, known, chunk) for p in (form.program, reverse)]
    ranges = decay_ranges(form.program, rule.model.spec, rule.feeds, chunk)
    why = (*form.evidence, *map(str, ranges))
    return torch_plan(rule, programs[0], programs[1], prefix, chunk, form.family, why)


def torch_plan(
    rule: UpdateRule,
    forward: Program | None,
    backward: Program | None,
    prefix: str,
    chunk: int,
    family: str,
    why: tuple[str, ...],
) -> KernelPlan:
    """The plan of a rule's torch text.

    forward, backward  its chunk program and the adjoint of that; None for a rule that has none
    prefix     what its functions begin with
    """
    made = PlanBuilder(prefix, citations(rule))
    kernels: list[Kernel] = []
    buffers: list[Buffer] = []
    results: list[tuple[Phase, str, int]] = []
    changes = {Edge.START: at_block_start(rule), Edge.END: at_block_end(rule)}
    edges = {where: _edge(made, where, change) for where, change in changes.items()}
    if forward is not None and backward is not None:
        programs = [_settled(program) for program in (forward, backward)]
        labels = {**programs[0].labels, **programs[1].labels}
        roots = [node for program in programs for _, node in program.results]
        scope = made.scope("chunk", [*roots, *(x for x, _ in programs[1].carried)], labels)
        back = {where: _edge(made, where, change, True) for where, change in changes.items()}
        kernels += _pass(made, scope, programs[0], Phase.FORWARD, edges)
        kernels += _pass(made, scope, programs[1], Phase.BACKWARD, back)
        for program, phase in zip(programs, (Phase.FORWARD, Phase.BACKWARD), strict=True):
            for name, node in program.results:
                results.append((phase, name, made.id(scope, stored_as(node))))
        buffers = _buffers(made, scope, kernels)
    step = straight_kernel(made, "token", Phase.STEP, rule.program)
    body = (*edges[Edge.START], *step.body, *edges[Edge.END])
    kernels.append(replace(step, body=body))
    token = {name: id for name, id in zip(dict(rule.program.results), step.writes, strict=True)}
    results += [(Phase.STEP, name, id) for name, id in token.items()]
    return KernelPlan(
        name=rule.name,
        target="torch",
        values=tuple(made.values),
        kernels=tuple(kernels),
        buffers=tuple(buffers),
        results=tuple(results),
        rows=tuple(made.rows.values()),
        chunk=chunk,
        block=rule.block,
        interface=interface(rule),
        family=family,
        why=why,
    )


def _settled(program: Program) -> Program:
    """A program whose nodes are the statements that will be printed: in each region a term is computed
    once, and formulas that one other formula reads are written into it.

    A term that needs no carried value leaves the loop when it becomes a node, and may meet its like
    before it.
    """
    for _ in range(3):
        regions = partition(program)
        parts = [region.nodes for region in regions]
        shared = eliminate_in_program(program, is_work, parts)
        if shared.results == program.results:
            break
        program = shared
    order = postorder(node for _, node in program.results)
    inner: set[Node] = set()
    for region in partition(program):
        inner |= fusible(region.nodes, set(region.writes), users_of(region.nodes))
    return program.with_results(fuse(order, inner))


def _pass(
    made: PlanBuilder,
    scope: Scope,
    program: Program,
    phase: Phase,
    edges: Edges,
) -> list[Kernel]:
    regions = {region.name: region for region in partition(program)}
    back = phase is Phase.BACKWARD
    results = {stored_as(node): identifier_of(name) for name, node in program.results}
    wishes = results | {
        stored_as(program.result(name)): f"{identifier_of(state.name)}_next"
        for state, name in program.carried
    }
    kernels = []
    for name in ("before", "loop", "after"):
        if name not in regions:
            continue
        region = regions[name]
        ids = tuple(made.id(scope, node, wishes.get(node, "")) for node in region.nodes)
        body: tuple[Statement, ...] = (Compute(ids),)
        if name == "loop":
            body = (_walk(made, scope, program, body, back, edges),)
        grid = () if name == "loop" else (Along.CHUNK,)
        reads = _ids(made, scope, region.reads, wishes)
        writes = _ids(made, scope, region.writes, wishes)
        title = f"back_{name}" if back else name
        kernels.append(Kernel(title, phase, grid, body, reads, writes))
    return kernels


def _ids(
    made: PlanBuilder, scope: Scope, nodes: Iterable[Node], wishes: Mapping[Node, str]
) -> tuple[int, ...]:
    return tuple(made.id(scope, node, wishes.get(node, "")) for node in nodes)


def _walk(
    made: PlanBuilder,
    scope: Scope,
    program: Program,
    body: tuple[Statement, ...],
    back: bool,
    edges: Edges,
) -> Walk:
    carry = tuple(
        Carry(made.id(scope, state), made.id(scope, stored_as(program.result(name))))
        for state, name in program.carried
    )
    first, last = edges[Edge.START], edges[Edge.END]
    if back:
        first, last = last, first
    return Walk(Along.CHUNK, -1 if back else 1, carry, (*first, *body, *last))


def _edge(
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


def _buffers(made: PlanBuilder, scope: Scope, kernels: Iterable[Kernel]) -> list[Buffer]:
    """What passes between kernels: a value of every chunk; carried states are kept for the backward
    pass as they are on entry of each chunk."""
    kernels = list(kernels)
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
