"""A new state as `Φ(old states) + Σ u xᵀ`: the first step of every derivation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import sympy as sp

from miras_dsl.ir import (
    ONE,
    ZERO,
    Axes,
    Input,
    Map,
    Node,
    Number,
    Role,
    broadcast,
    constant,
    elementwise,
    formula,
    inputs_of,
)
from miras_dsl.scalar.functions import OPERANDS

from .size_limits import can_expand


class NotChunkable(Exception):
    """Why a rule has no chunk form; the sentence is shown to the user."""


@dataclass(frozen=True, slots=True)
class RankOneWrite:
    """``scale · u xᵀ``: u on the row axis, x on the column axis (None for a vector or a number)."""

    u: Node
    x: Node | None
    scale: Node


@dataclass(frozen=True, slots=True)
class AffineUpdate:
    """``Σ keep[S] ⊙ S + Σ writes``: a state as an affine formula of the states before it."""

    keep: tuple[tuple[Input, Node], ...]
    writes: tuple[RankOneWrite, ...]

    def scaled(self, factor: Node, axes: Axes) -> AffineUpdate:
        """This formula times a number, a row gate or a column gate."""
        keep = tuple((state, coefficient * factor) for state, coefficient in self.keep)
        return AffineUpdate(keep, tuple(_scale(write, factor, axes) for write in self.writes))

    def plus(self, other: AffineUpdate) -> AffineUpdate:
        """The sum of two formulas; equal outer products are merged."""
        keep = dict(self.keep)
        for state, coefficient in other.keep:
            keep[state] = keep[state] + coefficient if state in keep else coefficient
        writes = {(w.u, w.x): w.scale for w in self.writes}
        for w in other.writes:
            writes[w.u, w.x] = writes[w.u, w.x] + w.scale if (w.u, w.x) in writes else w.scale
        return AffineUpdate(
            tuple(keep.items()), tuple(RankOneWrite(u, x, s) for (u, x), s in writes.items())
        )

    def as_node(self) -> Node:
        """The formula as a node again."""
        result: Node = ZERO
        for state, coefficient in self.keep:
            result = result + state * coefficient
        for write in self.writes:
            product = write.u if write.x is None else write.u * write.x
            result = result + product * write.scale
        return result


EMPTY = AffineUpdate((), ())


def with_positive_scales(updates: Mapping[Input, AffineUpdate]) -> dict[Input, AffineUpdate]:
    """The same updates with the sign of a descent in the written row: `rate · (target - prediction)`
    instead of `-rate · (prediction - target)`.

    A write that several states share keeps its rows the same in all of them.
    """
    scales: dict[tuple[Node, Node | None], list[Node]] = {}
    for update in updates.values():
        for write in update.writes:
            scales.setdefault((write.u, write.x), []).append(write.scale)
    turned = {key for key, found in scales.items() if all(map(_is_negative, found))}

    def positive(write: RankOneWrite) -> RankOneWrite:
        if (write.u, write.x) not in turned:
            return write
        return RankOneWrite(_negated(write.u), write.x, _negated(write.scale))

    return {
        state: AffineUpdate(update.keep, tuple(map(positive, update.writes)))
        for state, update in updates.items()
    }


def _is_negative(scale: Node) -> bool:
    """Whether a scale is written with a minus sign."""
    match scale:
        case Number(value):
            return bool(value.is_negative)
        case Map(formula_, _):
            return bool(formula_.could_extract_minus_sign())
        case _:
            return False


def _negated(node: Node) -> Node:
    """The negative of a node; a formula takes the sign in."""
    if isinstance(node, Map):
        return elementwise(-node.formula, *node.args)
    return constant(-node.value) if isinstance(node, Number) else -node


def to_affine_state(node: Node, axes: Axes, states: frozenset[Input]) -> AffineUpdate:
    """``node``, shaped ``axes``, as an affine formula of ``states``.

    Raises Obstacle when it is not one, with the reason in words of the language.
    """
    if isinstance(node, Number) and node.value == 0:
        return EMPTY
    if isinstance(node, Input) and node in states:
        return AffineUpdate(((node, ONE),), ())
    if len(axes) <= 1 and not states & set(inputs_of([node])):
        return AffineUpdate(
            (), (_factor_out_scalars(RankOneWrite(broadcast(node, axes), None, ONE)),)
        )
    if not isinstance(node, Map):
        if len(axes) <= 1:
            return AffineUpdate((), (RankOneWrite(broadcast(node, axes), None, ONE),))
        raise NotChunkable("the new state is not a sum of kept states and products u xᵀ")
    nodes = dict(zip(OPERANDS, node.args, strict=False))
    whole = {
        slot: to_affine_state(arg, axes, states)
        for slot, arg in nodes.items()
        if _is_state_shaped(arg, axes, states)
    }
    if len(axes) <= 1:
        whole = {slot: inner for slot, inner in whole.items() if inner.keep}
    if whole and not can_expand(node.formula):
        raise NotChunkable("the update is too long a formula to be taken apart")
    result = EMPTY
    for term in sp.Add.make_args(sp.expand(node.formula) if whole else node.formula):
        factors = sp.Mul.make_args(term)
        inside = [slot for slot in whole if slot in term.free_symbols]
        if not inside:
            result = result.plus(AffineUpdate((), (_outer(term, nodes, axes),)))
            continue
        rest = [factor for factor in factors if factor != inside[0]]
        others = sp.Mul(*rest).free_symbols
        # What is kept may be scaled by other states, never by itself; a write by any of them.
        own = {kept for kept, _ in whole[inside[0]].keep}
        bent = inside[0] in others or own & set(inputs_of(nodes[slot] for slot in others))
        if len(inside) > 1 or len(rest) == len(factors) or bent:
            if len(axes) <= 1:
                result = result.plus(AffineUpdate((), (_outer(term, nodes, axes),)))
                continue
            raise NotChunkable("the new state is not linear in the old one")
        inner = whole[inside[0]]
        for factor in _by_axis(rest, nodes, axes).values():
            inner = inner.scaled(factor, axes)
        result = result.plus(inner)
    return result


def _is_state_shaped(node: Node, axes: Axes, states: frozenset[Input]) -> bool:
    """Whether ``node`` is shaped like the state and must be collected itself."""
    if set(node.axes) != set(axes):
        return False
    return len(axes) > 1 or bool(states & set(inputs_of([node])))


def _by_axis(
    factors: Iterable[sp.Expr], nodes: Mapping[sp.Symbol, Node], axes: Axes
) -> dict[Axes, Node]:
    """The product of some factors, one node for those with each axis."""
    groups: dict[Axes, list[sp.Expr]] = {}
    for factor in factors:
        held = {axis for slot in factor.free_symbols for axis in nodes[slot].axes}
        if not held <= set(axes) or len(held) > 1:
            raise NotChunkable("a factor of the update mixes rows and columns of the state")
        groups.setdefault(tuple(held), []).append(factor)
    return {held: formula(sp.Mul(*group), nodes) for held, group in groups.items()}


def _outer(term: sp.Expr, nodes: Mapping[sp.Symbol, Node], axes: Axes) -> RankOneWrite:
    """A product of vectors as ``scale · u xᵀ``; for a vector or a number, anything as ``u``."""
    if len(axes) <= 1:
        return _factor_out_scalars(RankOneWrite(broadcast(formula(term, nodes), axes), None, ONE))
    parts = _by_axis(sp.Mul.make_args(term), nodes, axes)
    row, column = (parts.get((axis,)) for axis in axes)
    if row is None or column is None:
        raise NotChunkable("the update adds the same vector to every row or column of the state")
    scale = parts.get((), ONE)
    if _reads_state(scale):
        row, scale = row * scale, ONE
    return _factor_out_scalars(RankOneWrite(row, column, scale))


def _reads_state(node: Node) -> bool:
    """Whether a node depends on a state: then it belongs to the row that is solved for."""
    return any(x.role in (Role.STATE, Role.NEXT) for x in inputs_of([node]))


def _factor_out_scalars(write: RankOneWrite) -> RankOneWrite:
    """The same write with per-token numbers that multiply u or x moved into the scale."""
    scale, sides = write.scale, []
    for side in (write.u, write.x):
        while isinstance(side, Map):
            nodes = dict(zip(OPERANDS, side.args, strict=False))
            factors = sp.Mul.make_args(side.formula)
            free = [
                factor
                for factor in factors
                if not any(
                    nodes[slot].axes or _reads_state(nodes[slot]) for slot in factor.free_symbols
                )
            ]
            bound = [f for f in factors if f not in free]
            if not free or not bound:
                break
            scale = scale * formula(sp.Mul(*free), nodes)
            side = formula(sp.Mul(*bound), nodes)
        sides.append(side)
    return RankOneWrite(sides[0], sides[1], scale)


def _scale(write: RankOneWrite, factor: Node, axes: Axes) -> RankOneWrite:
    if not factor.axes:
        return RankOneWrite(write.u, write.x, write.scale * factor)
    if write.x is None or factor.axes == (axes[0],):
        return RankOneWrite(write.u * factor, write.x, write.scale)
    return RankOneWrite(write.u, write.x * factor, write.scale)
