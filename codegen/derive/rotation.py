"""Two states that turn into each other: the real and the imaginary part of a complex state.

    re' = r cos(t) re - r sin(t) im        im' = r sin(t) re + r cos(t) im

is multiplication by ``r e^(it)``.  Angles add along the tokens as logarithms of decays do, and
``cos(a - b) = cos a cos b + sin a sin b`` parts a turn between two tokens into a factor of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import sympy as sp

from miras_dsl.codegen.passes.affine_state import AffineUpdate
from miras_dsl.codegen.passes.inline_maps import inline
from miras_dsl.ir import Axis, Input, Node, elementwise, formula, is_zero
from miras_dsl.scalar.functions import OPERANDS

from .running_max import MaxUpdate
from .transition import Turn

X = OPERANDS[0]


@dataclass(frozen=True, slots=True)
class Rotation:
    """How a state turns into its partner.

    partner  the other state of the pair
    sign     the partner enters this state with ``sign * sin(angle)``
    angle    of one token
    length   what both are multiplied by besides
    """

    partner: Input
    sign: int
    angle: Node
    length: Node

    def factor(self, kept: Input, length: Node) -> Node:
        """What the partner or the state itself is multiplied by, with another length."""
        return length * wave(self.angle, self.sign if kept is self.partner else 0)


def rotation(state: Input, updates: Mapping[Input, AffineUpdate | MaxUpdate]) -> Rotation | None:
    """How a state turns; None where it does not turn into one other state and back."""
    found = _half(state, updates)
    if found is None:
        return None
    back = _half(found.partner, updates)
    if back is None or back.partner is not state or back.sign != -found.sign:
        return None
    same = _equal(back.angle, found.angle) and _equal(back.length, found.length)
    return found if same else None


def _half(state: Input, updates: Mapping[Input, AffineUpdate | MaxUpdate]) -> Rotation | None:
    """One of the two equations of a turn."""
    keep = dict(updates[state].keep)
    if set(keep) - {state} == set() or len(keep) != 2 or state not in keep:
        return None
    ((partner, entering),) = ((s, c) for s, c in keep.items() if s is not state)
    product, args = inline(keep[state])
    turning = [factor for factor in sp.Mul.make_args(product) if isinstance(factor, sp.cos)]
    if len(turning) != 1 or partner.axes != state.axes:
        return None
    nodes = dict(zip(OPERANDS, args, strict=False))
    length, angle = product / turning[0], turning[0].args[0]
    for sign in (1, -1):
        if _equal(entering, formula(sign * length * sp.sin(angle), nodes)):
            return Rotation(partner, sign, formula(angle, nodes), formula(length, nodes))
    return None


def _equal(a: Node, b: Node) -> bool:
    """Whether two formulas are the same, however their products are written."""
    difference = a - b
    return is_zero(difference) or bool(sp.expand(inline(difference)[0]) == 0)


def turns(angle: Node, before: Node, sign: int, axis: Axis | None) -> Iterator[Turn]:
    """``cos(angle_i - before_j)`` (sign 0), or ``sign * sin(angle_i - before_j)``, as sums of products."""
    if sign == 0:
        yield Turn(axis, wave(angle, 0), wave(before, 0))
        yield Turn(axis, wave(angle, 1), wave(before, 1))
    else:
        yield Turn(axis, wave(angle, sign), wave(before, 0))
        yield Turn(axis, elementwise(-sign * X, wave(angle, 0)), wave(before, 1))


def wave(angle: Node, sign: int) -> Node:
    """``cos(angle)`` (sign 0), or ``sign * sin(angle)``."""
    return elementwise(sp.cos(X) if sign == 0 else sign * sp.sin(X), angle)
