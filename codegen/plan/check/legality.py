"""Whether a plan can be carried out, and what is wrong with it if not."""

from __future__ import annotations

from collections.abc import Iterable

import sympy as sp

from miras_dsl.codegen.plan.kernel_plan import (
    Along,
    Exchange,
    Kernel,
    KernelPlan,
    Phase,
    computed,
    statements,
    walks,
)
from miras_dsl.codegen.plan.partition import stored_as
from miras_dsl.ir import (
    Axis,
    AxisSize,
    Broadcast,
    Contract,
    Cumsum,
    GatedContract,
    Input,
    Join,
    Map,
    Mask,
    Node,
    Number,
    PlaceLast,
    Reduce,
    Rename,
    Shift,
    Split,
    TakeLast,
)
from miras_dsl.scalar.functions import OPERANDS


def legal(plan: KernelPlan) -> tuple[str, ...]:
    """The reasons why a plan cannot be carried out; none for a legal one.

    Every value is there before it is read; what the backward pass reads is kept or computed again;
    buffers store the axes of their values; a sum over an axis that programs divide up is added up.
    """
    found: list[str] = []
    saved = {buffer.value for buffer in plan.buffers if buffer.saved}
    for phase in Phase:
        there = set(saved) if phase is Phase.BACKWARD else set[int]()
        for kernel in plan.kernels_of(phase):
            found += _reads(plan, kernel, there)
            found += _divided(plan, kernel)
            there |= set(kernel.writes)
        made = {id for kernel in plan.kernels_of(phase) for id in computed(kernel.body)}
        for name, value in plan.results_of(phase).items():
            if value.id not in made and not isinstance(value.node, Input | Number):
                found.append(f"the result {name} of the {phase.value} phase is never computed")
    for buffer in plan.buffers:
        value = plan.values[buffer.value]
        if sorted(map(str, buffer.order)) != sorted(map(str, value.node.axes)):
            found.append(f"the buffer of {value.name} does not store the axes of its value")
    return tuple(dict.fromkeys(found))


def _reads(plan: KernelPlan, kernel: Kernel, there: set[int]) -> Iterable[str]:
    """Statements of a kernel that read what is not there."""
    ids = {(v.scope, v.node): v.id for v in plan.values}
    known = there | {c.state for walk in walks(kernel) for c in walk.carry}
    for id in computed(kernel.body):
        value = plan.values[id]
        for operand in map(stored_as, value.node.operands):
            if isinstance(operand, Input | Number | AxisSize):
                continue
            read = ids.get((value.scope, operand))
            if read is None or read not in known:
                name = plan.values[read].name if read is not None else type(operand).__name__
                yield f"{kernel.name} computes {value.name} before {name}, which it reads"
        known.add(id)
    for walk in walks(kernel):
        for carry in walk.carry:
            node = plan.values[carry.next].node
            if carry.next not in known and not isinstance(node, Input | Number):
                yield f"{kernel.name} carries {plan.values[carry.next].name}, which is not computed"


def _divided(plan: KernelPlan, kernel: Kernel) -> Iterable[str]:
    """Sums over an axis that the programs of a kernel divide up, and that nothing adds up.

    A program has a part of such a sum.  Parts may go through linear steps and be added up later.
    """
    axes = {axis for axis in kernel.grid if isinstance(axis, Axis)}
    axes |= {kernel.group[0]} if kernel.group else set()
    if not axes:
        return
    added = {b.value for b in plan.buffers if b.per is Along.SHARE}
    late: set[int] = set()
    for each in statements(kernel.body):
        if isinstance(each, Exchange):
            added |= set(each.values)
            late |= set(each.values) if each.lag else set()
    parts: set[Node] = set()
    for id in computed(kernel.body):
        value = plan.values[id]
        held = {o for o in value.node.operands if stored_as(o) in parts}
        whole = not held and not (_summed(value.node) & axes)
        if held and not _linear(value.node, held):
            yield f"{value.name} is not linear in a sum of which each program has a part"
        if not whole and (id not in added or id in late):
            parts.add(value.node)
    leaving = {*kernel.writes, *(c.next for walk in walks(kernel) for c in walk.carry)}
    for id in leaving - added:
        if plan.values[id].node in parts:
            name = plan.values[id].name
            yield f"{name} sums over {min(map(str, axes))}, which programs divide up"


def _summed(node: Node) -> set[Axis]:
    match node:
        case Contract(_, _, over) | Reduce(_, _, over):
            return set(over)
        case GatedContract(_, _, _, _, over):
            return {over}
        case _:
            return set()


def _linear(node: Node, held: set[Node]) -> bool:
    """Whether an operation is linear in some of its operands together."""
    match node:
        case Map(formula, args):
            slots = {s for s, a in zip(OPERANDS, args, strict=False) if a in held}
            if formula.xreplace(dict.fromkeys(slots, sp.Integer(0))) != 0:
                return False
            return all(not formula.diff(slot).free_symbols & slots for slot in slots)
        case Contract(left, right, _):
            return not (left in held and right in held)
        case Reduce("sum", _, _) | Broadcast() | Rename() | Cumsum() | Shift() | Mask():
            return True
        case TakeLast() | PlaceLast() | Split() | Join():
            return True
        case _:
            return False
