"""Decays as logarithms: a gate in the factor of a state is written as e^log, and the log read off.

The logarithm of a gate is an input of its own, which the layer computes from the gate's formula.  Sums
of such logarithms keep the digits that products of decays near 0 or 1 would lose.
"""

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp

from miras_dsl.codegen.model.types import MemoryInput, MemoryModel
from miras_dsl.codegen.passes.affine_state import AffineUpdate, NotChunkable
from miras_dsl.codegen.passes.inline_maps import has_logarithm, inline
from miras_dsl.ir import Axis, Input, Node, Role, elementwise, formula, inputs_of, substitute
from miras_dsl.scalar.functions import OPERANDS

from .rotation import rotation


def with_logarithms(
    updates: Mapping[Input, AffineUpdate], model: MemoryModel
) -> dict[Input, AffineUpdate]:
    """The same updates, with the gates in each state's own factor written as e^log.

    These gates are written as e^log also where they multiply another state.  A factor that has no
    logarithm stays as it is: it is not a product, or one of its gates may be negative.

    updates  new value of each state, as an affine formula of the old states
    """
    known = {given.as_input(): given for given in model.inputs}
    log_of = {(given.of, given.weight): given.as_input() for given in model.inputs if given.log}

    def gates_of(nodes: list[Node]) -> list[MemoryInput]:
        found = (known[x] for x in inputs_of(nodes) if x in known)
        return [given for given in found if given.role is Role.GATE]

    def with_exponentials(node: Node, only: set[str] | None) -> Node:
        gates = [g for g in gates_of([node]) if not g.log]
        if not has_logarithm(node) or any(g.signed for g in gates):
            return node
        exchange: dict[Node, Node] = {
            g.as_input(): elementwise(sp.exp(OPERANDS[0]), log_of[g.of, g.weight])
            for g in gates
            if only is None or g.of in only
        }
        return substitute([node], exchange)[0] if exchange else node

    turning = {s: found for s in updates if (found := rotation(s, updates)) is not None}
    own = {
        s: with_exponentials(turning[s].length if s in turning else c, None)
        for s, form in updates.items()
        for t, c in form.keep
        if t is s
    }
    logs = {gate.of for gate in gates_of(list(own.values())) if gate.log}

    def factor(state: Input, kept: Input, old: Node) -> Node:
        if state in turning:
            return turning[state].factor(kept, own[state])
        return own[state] if kept is state else with_exponentials(old, logs)

    return {
        s: AffineUpdate(tuple((t, factor(s, t, c)) for t, c in form.keep), form.writes)
        for s, form in updates.items()
    }


def decay_logarithms(coefficient: Node, state: Input) -> dict[Axis | None, Node]:
    """The logarithm of a decay: of its scalar part (None) and of its part along each axis of ``state``.

    Raises NotChunkable when the decay is not a product of exponentials and positive numbers, or has a
    factor that depends on several axes.
    """
    product, args = inline(coefficient)
    nodes = dict(zip(OPERANDS, args, strict=False))
    result: dict[Axis | None, Node] = {}
    for factor in sp.Mul.make_args(product):
        if factor == 1:
            continue
        if isinstance(factor, sp.exp):
            log = factor.args[0]
        elif factor.is_positive and factor.is_number:
            log = sp.log(factor)
        else:
            raise NotChunkable(f"{state.name} is multiplied by something that may be negative or 0")
        for term in sp.Add.make_args(log):
            held = {axis for slot in term.free_symbols for axis in nodes[slot].axes}
            if len(held) > 1 or not held <= set(state.axes):
                raise NotChunkable(f"{state.name} has a decay for every entry of its own")
            axis = next(iter(held), None)
            part = formula(term, nodes)
            result[axis] = result[axis] + part if axis in result else part
    return result
