"""How large a derivation may grow: a stranger's spec ends in a diagnostic, never in an hour's work."""

from __future__ import annotations

from collections.abc import Iterable
from math import comb, prod

import sympy as sp

from miras_dsl.codegen.errors import DerivationError
from miras_dsl.ir import Map, Node, postorder
from miras_dsl.scalar.functions import OPERANDS

MOST_PARTS = 20_000
MOST_TERMS = 2_000


class TooLarge(DerivationError):
    """A formula that derivation would blow up."""

    code = "M0007"
    help = "name parts of the formula as gates or tokens, or write a shorter one"


def check_size(nodes: Iterable[Node]) -> None:
    """Raise TooLarge when these formulas have more than `MOST_PARTS` operations between them."""
    parts = 0
    for node in postorder(nodes):
        parts += 1 + (_operations(node.formula) if isinstance(node, Map) else 0)
        if parts > MOST_PARTS:
            raise TooLarge(f"what is derived has more than {MOST_PARTS} parts")


def can_expand(expr: sp.Expr) -> bool:
    """Whether a formula multiplied out has at most `MOST_TERMS` terms."""
    return _terms(expr) <= MOST_TERMS


def can_inline(node: Node) -> bool:
    """Whether a tower of maps written out as one formula has at most `MOST_PARTS` / 4 operations."""
    sizes: dict[Node, int] = {}
    for part in postorder([node]):
        if isinstance(part, Map):
            own = _operations(part.formula)
            sizes[part] = own + sum(
                part.formula.count(slot) * sizes.get(arg, 1)
                for slot, arg in zip(OPERANDS, part.args, strict=False)
                if sizes.get(arg, 1) > 1
            )
    return sizes.get(node, 1) <= MOST_PARTS // 4


def _operations(expr: sp.Expr) -> int:
    return sum(1 for _ in sp.preorder_traversal(expr))


def _terms(expr: sp.Expr) -> int:
    """How many terms a formula has at most when it is multiplied out, functions too."""
    inner = [_terms(arg) for arg in expr.args]
    match expr:
        case sp.Add():
            return sum(inner)
        case sp.Mul():
            return prod(inner)
        case sp.Pow() if expr.exp.is_Integer and expr.exp > 0:
            return comb(inner[0] + int(expr.exp) - 1, int(expr.exp))
        case sp.Pow():
            return max(inner[0], 1)
        case _:
            return 1 if all(n <= MOST_TERMS for n in inner) else max(inner)
