"""What happens to the carried tensors where a block begins or ends, as programs of the usual type."""

from __future__ import annotations

from miras_dsl.ir import Node, Program, Role, inputs_of

from .update import UpdateRule


def at_block_start(rule: UpdateRule) -> Program | None:
    """What the states become before the first token of a block; None where nothing happens."""
    return _edge(rule, rule.block_start)


def at_block_end(rule: UpdateRule) -> Program | None:
    """What the states become after the last token of a block; None where nothing happens."""
    return _edge(rule, rule.block_end)


def _edge(rule: UpdateRule, changes: tuple[tuple[str, Node], ...]) -> Program | None:
    if not changes:
        return None
    becomes = dict(changes)
    results = tuple((s.name, becomes.get(s.name, s)) for s in rule.states)
    others = [x for x in inputs_of(node for _, node in results) if x.role is not Role.STATE]
    return Program((*others, *rule.states), results, rule.program.carried)
