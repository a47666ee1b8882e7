"""A new state as `Φ(old states) + Σ u xᵀ`: the first step of every derivation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import sympy as sp

from miras_dsl.ir import ONE, ZERO, Axes, Input, Map, Node, Number, formula, inputs_of, spread
from miras_dsl.scalar.functions import SLOTS

from .size_limits import expandable


class Obstacle(Exception):
    """Why a rule has no chunk form; the sentence is shown to the user."""


@dataclass(frozen=True, slots=True)
class Outer:
    """``scale · u xᵀ``: u on the row axis, x on the column axis (None for a vector state)."""

    u: Node
    x: Node | None
    scale: Node


@dataclass(frozen=True, slots=True)
class Linear:
    """``Σ keep[S] ⊙ S + Σ writes``: a state as an affine formula of the states before it."""

    keep: tuple[tuple[Input, Node], ...]
    writes: tuple[Outer, ...]

    def scaled(self, factor: Node, axes: Axes) -> Linear:
        """This formula times a number, a row gate or a column gate."""
        keep = tuple((state, coefficient * factor) for state, coefficient in self.keep)
        return Linear(keep, tuple(_scale(write, factor, axes) for write in self.writes))

    def plus(self, other: Linear) -> Linear:
        """The sum of two formulas; equal outer products are merged."""
        keep = dict(self.keep)
        for state, coefficient in other.keep:
            keep[state] = keep[state] + coefficient if state in keep else coefficient
        writes = {(w.u, w.x): w.scale for w in self.writes}
        for w in other.writes:
            writes[w.u, w.x] = writes[w.u, w.x] + w.scale if (w.u, w.x) in writes else w.scale
        return Linear(tuple(keep.items()), tuple(Outer(u, x, s) for (u, x), s in writes.items()))

    def as_node(self) -> Node:
        """The formula as a node again."""
        result: Node = ZERO
        for state, coefficient in self.keep:
            result = result + state * coefficient
        for write in self.writes:
            product = write.u if write.x is None else write.u * write.x
            result = result + product * write.scale
        return result


NOTHING = Linear((), ())


def collect(node: Node, axes: Axes, states: frozenset[Input]) -> Linear:
    """``node``, shaped ``axes``, as an affine formula of ``states``.

    Raises Obstacle when it is not one, with the reason in words of the language.
    """
    if isinstance(node, Number) and node.value == 0:
        return NOTHING
    if isinstance(node, Input) and node in states:
        return Linear(((node, ONE),), ())
    if len(axes) == 1 and not states & set(inputs_of([node])):
        return Linear((), (_pulled(Outer(spread(node, axes), None, ONE)),))
    if not isinstance(node, Map):
        if len(axes) == 1:
            return Linear((), (Outer(spread(node, axes), None, ONE),))
        raise Obstacle("the new state is not a sum of kept states and products u xᵀ")
    nodes = dict(zip(SLOTS, node.args, strict=False))
    whole = {
        slot: collect(arg, axes, states)
        for slot, arg in nodes.items()
        if _is_whole(arg, axes, states)
    }
    if len(axes) == 1:
        whole = {slot: inner for slot, inner in whole.items() if inner.keep}
    if whole and not expandable(node.formula):
        raise Obstacle("the update is too long a formula to be taken apart")
    result = NOTHING
    for term in sp.Add.make_args(sp.expand(node.formula) if whole else node.formula):
        factors = sp.Mul.make_args(term)
        inside = [slot for slot in whole if slot in term.free_symbols]
        if not inside:
            result = result.plus(Linear((), (_outer(term, nodes, axes),)))
            continue
        rest = [factor for factor in factors if factor != inside[0]]
        others = sp.Mul(*rest).free_symbols
        bent = inside[0] in others or states & set(inputs_of(nodes[slot] for slot in others))
        if len(inside) > 1 or len(rest) == len(factors) or bent:
            if len(axes) == 1:
                result = result.plus(Linear((), (_outer(term, nodes, axes),)))
                continue
            raise Obstacle("the new state is not linear in the old one")
        inner = whole[inside[0]]
        for factor in _by_axis(rest, nodes, axes).values():
            inner = inner.scaled(factor, axes)
        result = result.plus(inner)
    return result


def _is_whole(node: Node, axes: Axes, states: frozenset[Input]) -> bool:
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
            raise Obstacle("a factor of the update mixes rows and columns of the state")
        groups.setdefault(tuple(held), []).append(factor)
    return {held: formula(sp.Mul(*group), nodes) for held, group in groups.items()}


def _outer(term: sp.Expr, nodes: Mapping[sp.Symbol, Node], axes: Axes) -> Outer:
    """A product of vectors as ``scale · u xᵀ``; for a vector state, any vector as ``u``."""
    if len(axes) == 1:
        return _pulled(Outer(spread(formula(term, nodes), axes), None, ONE))
    parts = _by_axis(sp.Mul.make_args(term), nodes, axes)
    row, column = (parts.get((axis,)) for axis in axes)
    if row is None or column is None:
        raise Obstacle("the update adds the same vector to every row or column of the state")
    scale = parts.get((), ONE)
    if _asks(scale):
        row, scale = row * scale, ONE
    return _pulled(Outer(row, column, scale))


def _asks(node: Node) -> bool:
    """Whether a node depends on a state: then it belongs to the row that is solved for."""
    return any(x.kind == "state" for x in inputs_of([node]))


def _pulled(write: Outer) -> Outer:
    """The same write with per-token numbers that multiply u or x moved into the scale."""
    scale, sides = write.scale, []
    for side in (write.u, write.x):
        while isinstance(side, Map):
            nodes = dict(zip(SLOTS, side.args, strict=False))
            factors = sp.Mul.make_args(side.formula)
            free = [
                factor
                for factor in factors
                if not any(nodes[slot].axes or _asks(nodes[slot]) for slot in factor.free_symbols)
            ]
            bound = [f for f in factors if f not in free]
            if not free or not bound:
                break
            scale = scale * formula(sp.Mul(*free), nodes)
            side = formula(sp.Mul(*bound), nodes)
        sides.append(side)
    return Outer(sides[0], sides[1], scale)


def _scale(write: Outer, factor: Node, axes: Axes) -> Outer:
    if not factor.axes:
        return Outer(write.u, write.x, write.scale * factor)
    if write.x is None or factor.axes == (axes[0],):
        return Outer(write.u * factor, write.x, write.scale)
    return Outer(write.u, write.x * factor, write.scale)
