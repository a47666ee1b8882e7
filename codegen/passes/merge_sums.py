"""Sums of the same linear operation: ``op(x) + op(y)`` becomes ``op(x + y)``, which runs it once.

The gradients of two decays that share a logarithm, say, are each a sum over pairs of tokens: their pairs
are added first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import Any, cast

import sympy as sp

from miras_dsl.ir import (
    Cumsum,
    Map,
    Mask,
    Node,
    PlaceLast,
    Program,
    Reduce,
    Rename,
    Shift,
    TakeLast,
    elementwise,
    postorder,
    with_operands,
)
from miras_dsl.scalar.functions import OPERANDS

PLACES: dict[sp.Expr, int] = {slot: place for place, slot in enumerate(OPERANDS)}
Linear = Cumsum | Shift | Mask | Rename | Reduce | TakeLast | PlaceLast
"""Operations on one node, ``x``; a `Reduce` only if it sums."""


def merge_sums(program: Program) -> Program:
    """The same program, in which no sum has two terms of one linear operation that nothing else reads.

    Each round merges one level: under ``op(x) + op(y)`` there may be another such sum ``x + y``.
    """
    while (made := _round(program)) is not program:
        program = made
    return program


def _round(program: Program) -> Program:
    """One round; ``program`` itself if there is nothing to merge."""
    nodes = list(postorder(root for _, root in program.results))
    users = Counter(operand for node in nodes for operand in node.operands)
    users.update(root for _, root in program.results)
    made: dict[Node, Node] = {}
    changed = False
    for node in nodes:
        merged = _merged(node, users) if isinstance(node, Map) and node.formula.is_Add else None
        if merged is None:
            made[node] = with_operands(node, made) if node.operands else node
            continue
        changed = True
        for inner in postorder([merged]):
            if inner not in made:
                made[inner] = with_operands(inner, made) if inner.operands else inner
        made[node] = made[merged]
    return program.with_results(made) if changed else program


def _merged(node: Map, users: Counter[Node]) -> Node | None:
    """The map with terms of the same operation merged; None if there are none."""
    terms, args = _flat(node, users)
    groups: dict[Any, list[tuple[int, sp.Expr]]] = {}
    for place, number, slot in _multiples(terms):
        arg = args[PLACES[slot]]
        if (key := _operation(arg)) is not None and users[arg] == 1:
            groups.setdefault(key, []).append((place, number))
    groups = {key: found for key, found in groups.items() if len(found) > 1}
    if not groups:
        return None
    for found in groups.values():
        slots = [terms[place].as_coeff_Mul(rational=True)[1] for place, _ in found]
        own = [cast("Linear", args[PLACES[slot]]) for slot in slots]
        total = sp.Add(*(n * s for (_, n), s in zip(found, OPERANDS, strict=False)))
        args[PLACES[slots[0]]] = replace(own[0], x=elementwise(total, *(one.x for one in own)))
        for (place, _), slot in zip(found, slots, strict=True):
            terms[place] = slot if slot == slots[0] else sp.Integer(0)
    return elementwise(sp.Add(*terms), *args)


def _multiples(terms: Sequence[sp.Expr]) -> Iterator[tuple[int, sp.Expr, sp.Expr]]:
    """The terms that are a number times an operand which no other term has: (place, number, operand)."""
    counts = Counter(symbol for term in terms for symbol in term.free_symbols)
    for place, term in enumerate(terms):
        number, slot = term.as_coeff_Mul(rational=True)
        if slot in PLACES and counts[slot] == 1:
            yield place, number, slot


def _flat(node: Map, users: Counter[Node]) -> tuple[list[sp.Expr], list[Node]]:
    """The terms of a map, and its operands; where a term is a sum that nothing else reads, its terms."""
    terms, args = list(sp.Add.make_args(node.formula)), list(node.args)
    found = True
    while found:
        found = False
        for place, number, slot in _multiples(terms):
            inner = args[PLACES[slot]]
            fits = isinstance(inner, Map) and len(args) + len(inner.args) <= len(OPERANDS)
            if fits and users[inner] == 1 and inner.axes == node.axes:
                names = dict(zip(OPERANDS, OPERANDS[len(args) :], strict=False))
                own = sp.Add.make_args(inner.formula.xreplace(names))
                terms[place : place + 1] = [number * term for term in own]
                args += inner.args
                found = True
                break
    return terms, args


def _operation(x: Node) -> tuple[object, ...] | None:
    """What must agree for two linear operations to be one; None for other nodes."""
    if not isinstance(x, Linear) or (isinstance(x, Reduce) and x.kind != "sum"):
        return None
    rest = [getattr(x, field.name) for field in fields(x) if field.name != "x"]
    return (type(x), x.x.axes, *rest)
