"""A state that is the largest value so far: `max(log + S, new)` for every token of a chunk.

Unrolled from the chunk's start it is ``max(a_i + S_0, max_j (a_i - a_j + new_j))`` with ``a`` the running
sum of the logarithms: addition and the maximum take the places of the product and the sum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sympy as sp

from miras_dsl.codegen.model.inputs import VALID
from miras_dsl.codegen.passes.inline_maps import inline
from miras_dsl.ir import (
    ONE,
    Cumsum,
    I,
    Input,
    J,
    Map,
    Mask,
    Node,
    Reduce,
    Shift,
    Triangle,
    broadcast,
    contract,
    elementwise,
    inputs_of,
    reduce_sum,
    rename,
)
from miras_dsl.scalar import functions as scalars
from miras_dsl.scalar.functions import OPERANDS

from .transition import When

X, Y, Z = OPERANDS[:3]
LOWEST = -sp.Float("1e30")
"""Stands for minus infinity: below every number that a memory holds, and finite in each type."""


@dataclass(frozen=True, slots=True)
class MaxUpdate:
    """``max(log + S, new)``: a number or a vector that keeps the largest of what it has met.

    log, new  formulas of one token, without the state itself
    oldest    of equal values the oldest is kept: its derivative counts
    """

    log: Node
    new: Node
    oldest: bool

    keep = ()
    writes = ()

    def as_node(self, state: Input) -> Node:
        """The formula as a node again."""
        return _larger(self.log + state, self.new, self.oldest)


def max_update(node: Node, state: Input) -> MaxUpdate | None:
    """A new state as the maximum of what it was, moved, and something else; None if it is not one."""
    if len(state.axes) > 1 or not isinstance(node, Map):
        return None
    formula = node.formula
    if not isinstance(formula, scalars.where) or formula != scalars.maximum(*formula.args[1:]):
        return None
    sides = [elementwise(side, *node.args) for side in formula.args[1:]]
    reads = [state in inputs_of([side]) for side in sides]
    if reads.count(True) != 1:
        return None
    moved, new = (sides[0], sides[1]) if reads[0] else (sides[1], sides[0])
    formula, args = inline(moved - state)
    log = elementwise(sp.expand(formula), *args)
    if state in inputs_of([log]):
        return None
    return MaxUpdate(log, new, reads[0])


def running_max(
    update: MaxUpdate, state: Input, when: When, vectorize: Callable[[Node], Node]
) -> Node:
    """The state at a moment of every token of a chunk, [i, *axes].

    What a token finds is what the one before it left, so that both choose alike where values are equal.
    """
    log, new = (broadcast(vectorize(x), (I, *state.axes)) for x in (update.log, update.new))
    total = Cumsum(log * VALID, I)
    new = elementwise(scalars.where(X, Y, LOWEST), VALID, new)
    reach = Mask(broadcast(ONE, (I, J)), Triangle(I, J))
    candidates = elementwise(
        scalars.where(X, Y, LOWEST), reach, total - rename(total, {I: J}) + rename(new, {I: J})
    )
    # The derivative of a maximum is that of the candidate which it is: of equal ones, the oldest or newest.
    largest = Reduce("max", candidates, (J,))
    equal = elementwise(1 - scalars.absolute(scalars.sign(X - Y)), candidates, largest)
    place = Cumsum(equal, J, not update.oldest)
    chosen = elementwise(scalars.where(scalars.gt0(X - 1), sp.Integer(0), Y), place, equal)
    after = _larger(
        total + broadcast(state, (I,)), contract(chosen, candidates, (J,)), update.oldest
    )
    if when is When.AFTER:
        return after
    before = reduce_sum(Mask(broadcast(ONE, (I, J)), Triangle(I, J, strict=True)), (J,))
    is_first = elementwise(1 - scalars.gt0(X), before)
    return Shift(after, I, 1) + is_first * state


def _larger(older: Node, newer: Node, oldest: bool) -> Node:
    if oldest:
        return elementwise(scalars.maximum(X, Y), older, newer)
    return elementwise(scalars.maximum(Y, X), older, newer)
