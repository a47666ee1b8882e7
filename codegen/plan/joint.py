"""A chunk program and its adjoint as one: they know which of their values are the same.

The adjoint of a chunk reads the states on entry as the forward program has them, and nodes that say
the same are the same object.  So what the backward pass needs of the forward pass is read off: it is
computed again by the same statements, or kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from miras_dsl.codegen.passes.cse import eliminate_common_subexpressions, is_work
from miras_dsl.codegen.passes.fuse_maps import fuse, fusible
from miras_dsl.ir import Label, Node, Program, postorder

from .partition import is_statement, partition, stored_as


@dataclass(frozen=True, slots=True)
class JointProgram:
    """Both programs, every node of which that is computed is one statement.

    recomputed  nodes of the forward program that the backward program reads or needs for what it reads
    """

    forward: Program
    backward: Program
    recomputed: frozenset[Node]

    @property
    def labels(self) -> dict[Node, Label]:
        """What the derivation calls the values of both."""
        return {**self.backward.labels, **self.forward.labels}


def join(forward: Program, backward: Program) -> JointProgram:
    """Both programs with repeated terms computed once and formulas written into their only reader.

    A term that needs no carried value leaves the loop when it becomes a node, and may meet its like
    before it; hence the repetition.
    """
    for _ in range(3):
        shared = _shared(forward, backward)
        if (shared[0].results, shared[1].results) == (forward.results, backward.results):
            break
        forward, backward = shared
    own = set(_order(forward))
    reverse = [node for node in _order(backward) if node not in own]
    boundary = {stored_as(o) for node in reverse for o in node.operands}
    boundary |= {stored_as(node) for _, node in backward.results}
    inner: set[Node] = set()
    for region in partition(forward):
        users = users_of(region.nodes)
        inner |= fusible(region.nodes, set(region.writes) | boundary, users)
    for region in partition(backward):
        nodes = [node for node in region.nodes if node not in own]
        inner |= fusible(nodes, set(region.writes), users_of(nodes))
    made = fuse([*_order(forward), *reverse], inner)
    forward, backward = forward.with_results(made), backward.with_results(made)
    statements = {node for node in _order(forward) if is_statement(node)}
    return JointProgram(forward, backward, frozenset(statements & set(_order(backward))))


def _shared(forward: Program, backward: Program) -> tuple[Program, Program]:
    """Both programs with repeated terms as nodes: the forward program and what the backward program
    computes before its loop are one part, its loop and what comes after it are parts of their own."""
    own = _order(forward)
    parts: dict[str, list[Node]] = {"before": list(own), "loop": [], "after": []}
    known = set(own)
    for region in partition(backward):
        parts[region.name] += [node for node in region.nodes if node not in known]
    labelled = [n for n in (*forward.labels, *backward.labels)]
    reached = {*own, *_order(backward)}
    labelled = [node for node in dict.fromkeys(labelled) if node in reached]
    ends = [node for program in (forward, backward) for _, node in program.results]
    roots = [*ends, *labelled]
    new = eliminate_common_subexpressions(roots, is_work, parts.values())
    made = dict(zip(roots, new, strict=True))
    return forward.with_results(made), backward.with_results(made)


def _order(program: Program) -> list[Node]:
    return postorder(node for _, node in program.results)


def users_of(order: Iterable[Node]) -> dict[Node, list[Node]]:
    """Who reads each node, among some nodes."""
    users: dict[Node, list[Node]] = {}
    for node in order:
        for operand in {stored_as(o) for o in node.operands}:
            users.setdefault(operand, []).append(node)
    return users
