"""How large a derivation may grow: a stranger's spec ends in a diagnostic, never in an hour's work."""

from __future__ import annotations

from collections.abc import Iterable
from math import comb, prod

import sympy as sp

from miras_dsl.codegen.errors import DerivationError
from miras_dsl.ir import Map, Node, postorder
from miras_dsl.scalar.functions import OPERANDS

MOST_PARTS = 6_000
"""The most operations that are derived from a file: about two seconds of work."""
MOST_TERMS = 300
"""The most terms that a formula may have when it is multiplied out."""


MOST_TERMS_OF_FUNCTIONS = 24
"""The same for a formula with functions of what it is to be affine in: those seldom cancel."""
MOST_INLINED = 5_000
"""The most operations of a tower of formulas that is written out as one."""


class TooLarge(DerivationError):
    """A formula that derivation would blow up."""

    code = "M0007"
    help = "name parts of the formula as gates or tokens, or write a shorter one"


class NoNumber(DerivationError):
    """A formula that is not a real number for any token."""

    code = "M0215"
    help = "look for a difference or a product that is always 0, as `r - r` is"


def check_size(nodes: Iterable[Node], times: int = 1) -> int:
    """How many operations these formulas have between them.

    Raises TooLarge when there are more than `MOST_PARTS` in ``times`` copies of them, and NoNumber for
    a formula that divides by what is always 0.
    """
    parts = 0
    for node in postorder(nodes):
        parts += 1
        if isinstance(node, Map):
            parts += _operations(node.formula)
            if node.formula.has(sp.zoo, sp.nan, sp.I):
                raise NoNumber("what is derived divides by something that is always 0")
        if parts * times > MOST_PARTS:
            raise TooLarge(f"what is derived has more than {MOST_PARTS} parts")
    return parts


def can_expand(expr: sp.Expr, most: int = MOST_TERMS) -> bool:
    """Whether a formula multiplied out has at most ``most`` terms."""
    return _terms(expr) <= most


def can_inline(node: Node) -> bool:
    """Whether a tower of maps written out as one formula has at most `MOST_INLINED` operations."""
    sizes: dict[Node, int] = {}
    for part in postorder([node]):
        if isinstance(part, Map):
            own = _operations(part.formula)
            sizes[part] = own + sum(
                part.formula.count(slot) * sizes.get(arg, 1)
                for slot, arg in zip(OPERANDS, part.args, strict=False)
                if sizes.get(arg, 1) > 1
            )
    return sizes.get(node, 1) <= MOST_INLINED


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
