"""Decays as logarithms: factors of states with their gates written as e^log, and the exponents."""

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp

from miras_dsl.codegen.model.types import MemoryInput, MemoryModel
from miras_dsl.codegen.passes.affine_state import AffineUpdate, NotChunkable
from miras_dsl.codegen.passes.inline_maps import has_logarithm, inline
from miras_dsl.ir import Axis, Input, Node, Role, elementwise, formula, inputs_of, substitute
from miras_dsl.scalar.functions import OPERANDS


def with_logarithms(
    linear: Mapping[Input, AffineUpdate], model: MemoryModel
) -> dict[Input, AffineUpdate]:
    """Every state's factor of itself with its gates written as e^log; the same gates are written so
    where they multiply another state.

    A factor stays as it is where it has no logarithm: it is no product, or a gate in it may be negative.
    """
    feeds = {feed.as_input(): feed for feed in model.inputs}
    log_of = {(feed.of, feed.weight): feed.as_input() for feed in model.inputs if feed.log}

    def gates_of(nodes: list[Node]) -> list[MemoryInput]:
        found = (feeds[x] for x in inputs_of(nodes) if x in feeds)
        return [feed for feed in found if feed.role is Role.GATE]

    def chained(node: Node, only: set[str] | None) -> Node:
        gates = [g for g in gates_of([node]) if not g.log]
        if not has_logarithm(node) or any(g.signed for g in gates):
            return node
        exchange: dict[Node, Node] = {
            g.as_input(): elementwise(sp.exp(OPERANDS[0]), log_of[g.of, g.weight])
            for g in gates
            if only is None or g.of in only
        }
        return substitute([node], exchange)[0] if exchange else node

    own = {s: chained(c, None) for s, form in linear.items() for t, c in form.keep if t is s}
    logs = {gate.of for gate in gates_of(list(own.values())) if gate.log}
    return {
        s: AffineUpdate(
            tuple((t, own[s] if t is s else chained(c, logs)) for t, c in form.keep), form.writes
        )
        for s, form in linear.items()
    }


def decay_logarithms(coefficient: Node, state: Input) -> dict[Axis | None, Node]:
    """The logarithm of a decay, by axis.  Raises NotChunkable when it is not a product of exponentials."""
    whole, args = inline(coefficient)
    nodes = dict(zip(OPERANDS, args, strict=False))
    result: dict[Axis | None, Node] = {}
    for factor in sp.Mul.make_args(whole):
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
