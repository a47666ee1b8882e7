"""The plan of torch text: the trivial one.

Forwards, one kernel computes for all chunks at once what needs no carried value, one walks along the
chunks, and one computes for all chunks what only reads what the walk has carried; backwards the same
on the adjoint.  Every value of a region is computed where it is read: the backward pass keeps the
states on entry of each chunk and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from miras_dsl.codegen.derive.block_edge import at_block_end, at_block_start
from miras_dsl.codegen.derive.chunk import ChunkForm
from miras_dsl.codegen.derive.update import UpdateRule
from miras_dsl.codegen.passes.factor_decays import decay_ranges, factor_decay_products
from miras_dsl.codegen.passes.merge_sums import merge_sums
from miras_dsl.codegen.passes.simplify import simplify
from miras_dsl.ir import AxisSize, Node, Number, Program

from .build import PlanBuilder, Scope
from .interface import citations, interface
from .joint import JointProgram, join
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
    computed,
    walks,
)
from .naming import identifier_of
from .partition import Region, partition, stored_as
from .pieces import buffers_between, edge_statements, straight_kernel

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
    chunk = rule.block * rule.steps_per_token or CHUNK
    if form is None or reverse is None:
        return torch_plan(rule, None, None, prefix, chunk, "token by token", (obstacle,))
    known = rule.model.logarithms
    programs = [
        factor_decay_products(merge_sums(simplify(p)), known, chunk)
        for p in (form.program, reverse)
    ]
    ranges = decay_ranges(form.program, rule.inputs, chunk)
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
    made = PlanBuilder(prefix, citations(rule), rule.model.logarithms)
    kernels: list[Kernel] = []
    buffers: list[Buffer] = []
    results: list[tuple[Phase, str, int]] = []
    changes = {Edge.START: at_block_start(rule), Edge.END: at_block_end(rule)}
    edges = {where: edge_statements(made, where, change) for where, change in changes.items()}
    if forward is not None and backward is not None:
        joint = join(forward, backward)
        programs = (joint.forward, joint.backward)
        roots = [node for program in programs for _, node in program.results]
        roots += [state for state, _ in joint.backward.carried]
        scope = made.scope("chunk", roots, joint.labels)
        back = {
            where: edge_statements(made, where, change, True) for where, change in changes.items()
        }
        kernels = [*_forward(made, scope, joint, edges), *_backward(made, scope, joint, back)]
        for program, phase in zip(programs, (Phase.FORWARD, Phase.BACKWARD), strict=True):
            for name, node in program.results:
                results.append((phase, name, made.id(scope, stored_as(node))))
        kernels = _with_writes(kernels, [id for *_, id in results])
        buffers = buffers_between(made, kernels)
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


REGIONS = {"before": ("before", "before_forward"), "loop": ("loop", "next_state"),
           "after": ("after", "answer")}  # fmt: skip
"""For each region of the forward program: what the backward pass computes again, and the rest."""


def _forward(made: PlanBuilder, scope: Scope, joint: JointProgram, edges: Edges) -> list[Kernel]:
    """The kernels of the forward pass."""
    program = joint.forward
    kernels = []
    for region in partition(program):
        parts = _parts(region, joint.recomputed)
        ids = {title: _compute(made, scope, program, part) for title, part in parts.items()}
        if region.name == "loop":
            body = tuple(compute for compute in ids.values() if compute.values)
            walk = _walk(made, scope, program, body, 1, edges)
            kernels.append(_kernel(made, "loop", Phase.FORWARD, (), (walk,), region, scope))
            continue
        for title, compute in ids.items():
            if compute.values:
                grid = (Along.CHUNK,)
                kernels.append(_kernel(made, title, Phase.FORWARD, grid, (compute,), region, scope))
    return kernels


def _parts(region: Region, recomputed: frozenset[Node]) -> dict[str, list[Node]]:
    again, rest = REGIONS[region.name]
    return {
        again: [node for node in region.nodes if node in recomputed],
        rest: [node for node in region.nodes if node not in recomputed],
    }


def _backward(made: PlanBuilder, scope: Scope, joint: JointProgram, edges: Edges) -> list[Kernel]:
    """The kernels of the backward pass: first what it needs of the forward pass, for all chunks at
    once, for the states on entry of each chunk are kept."""
    kernels = []
    for region in partition(joint.forward):
        (title, nodes), _ = _parts(region, joint.recomputed).items()
        if nodes:
            compute = _compute(made, scope, joint.forward, nodes)
            grid = (Along.CHUNK,)
            kernels.append(_kernel(made, title, Phase.BACKWARD, grid, (compute,), region, scope))
    program = joint.backward
    for region in partition(program):
        nodes = [node for node in region.nodes if node not in joint.recomputed]
        compute = _compute(made, scope, program, nodes)
        title = f"back_{region.name}"
        if region.name == "loop":
            walk = _walk(made, scope, program, (compute,), -1, edges)
            kernels.append(_kernel(made, title, Phase.BACKWARD, (), (walk,), region, scope))
        elif nodes:
            grid = (Along.CHUNK,)
            kernels.append(_kernel(made, title, Phase.BACKWARD, grid, (compute,), region, scope))
    return kernels


def _compute(made: PlanBuilder, scope: Scope, program: Program, nodes: Iterable[Node]) -> Compute:
    wishes = {stored_as(node): identifier_of(name) for name, node in program.results}
    wishes |= {
        stored_as(program.result(name)): f"{identifier_of(state.name)}_next"
        for state, name in program.carried
    }
    return Compute(tuple(made.id(scope, node, wishes.get(node, "")) for node in nodes))


def _kernel(
    made: PlanBuilder,
    title: str,
    phase: Phase,
    grid: tuple[Along, ...],
    body: tuple[Statement, ...],
    region: Region,
    scope: Scope,
) -> Kernel:
    """A kernel that reads what its statements need from elsewhere; what it writes is settled when all
    kernels are known (`_with_writes`)."""
    ids = list(computed(body))
    here = set(ids)
    reads = [
        made.id(scope, stored_as(operand))
        for id in ids
        for operand in made.values[id].node.operands
        if not isinstance(stored_as(operand), Number | AxisSize)
    ]
    if region.name == "loop":
        carries = [c for s in body if isinstance(s, Walk) for c in s.carry]
        reads += [c.next for c in carries if not isinstance(made.values[c.next].node, Number)]
    reads = [id for id in dict.fromkeys(reads) if id not in here]
    return Kernel(title, phase, grid, body, tuple(reads), ())


def _with_writes(kernels: Sequence[Kernel], results: Iterable[int]) -> list[Kernel]:
    """Kernels that write what another one reads, or what is a result; a kernel that is launched in
    both passes writes the same in both."""
    wanted = {id for kernel in kernels for id in kernel.reads} | set(results)
    found = []
    for kernel in kernels:
        made = list(computed(kernel.body))
        writes = [id for id in made if id in wanted]
        for walk in walks(kernel):
            # A carried value that is no statement of the loop leaves it all the same.
            writes += [c.next for c in walk.carry if c.next not in made]
        found.append(replace(kernel, writes=tuple(dict.fromkeys(writes))))
    return found


def _walk(
    made: PlanBuilder,
    scope: Scope,
    program: Program,
    body: tuple[Statement, ...],
    step: int,
    edges: Edges,
) -> Walk:
    carry = tuple(
        Carry(made.id(scope, state), made.id(scope, stored_as(program.result(name))))
        for state, name in program.carried
    )
    first, last = edges[Edge.START], edges[Edge.END]
    if step < 0:
        first, last = last, first
    return Walk(Along.CHUNK, step, carry, (*first, *body, *last))
