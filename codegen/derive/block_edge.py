"""What happens to the carried states at the start and at the end of a block, as programs.

Each is a `Program` like the update of a token, so its adjoint is derived by the same function.
"""

from __future__ import annotations

from miras_dsl.ir import Node, Program, Role, inputs_of

from .update import UpdateRule


def at_block_start(rule: UpdateRule) -> Program | None:
    """The states before the first token of a block, from those before the block; None: as they were."""
    return _edge(rule, rule.block_start)


def at_block_end(rule: UpdateRule) -> Program | None:
    """The states after the last token of a block, changed once more; None: as the token left them."""
    return _edge(rule, rule.block_end)


def _edge(rule: UpdateRule, changes: tuple[tuple[str, Node], ...]) -> Program | None:
    if not changes:
        return None
    becomes = dict(changes)
    results = tuple((s.name, becomes.get(s.name, s)) for s in rule.states)
    others = [x for x in inputs_of(node for _, node in results) if x.role is not Role.STATE]
    return Program((*others, *rule.states), results, rule.program.carried)
