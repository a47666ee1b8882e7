"""The size of a formula when definitions are written out, and its limit."""

from __future__ import annotations

from dataclasses import dataclass

from miras_dsl.diagnostics import problem
from miras_dsl.source import Span
from miras_dsl.spec import Apply, Expr

MAX_PARTS = 5000
MAX_DEPTH = 200


@dataclass(frozen=True, slots=True)
class ExpandedSize:
    """The number of parts of a formula and its depth.

    The formula is held so that its `id`, under which sizes are kept, is not given to another one.
    """

    expr: Expr
    parts: int
    depth: int


def expanded_size(expr: Expr, span: Span, known: dict[int, ExpandedSize]) -> ExpandedSize:
    """The size of ``expr``; a part that is used twice counts twice.  Raises Problem above the limits.

    known  `id` of a formula -> its size; new ones are added
    """
    stack: list[Expr] = [expr]
    while stack:
        node = stack[-1]
        below = node.args if isinstance(node, Apply) else ()
        waiting = [a for a in below if id(a) not in known]
        if waiting:
            stack += waiting
            continue
        stack.pop()
        found = [known[id(a)] for a in below]
        parts = 1 + sum(m.parts for m in found)
        depth = 1 + max((m.depth for m in found), default=0)
        if parts > MAX_PARTS or depth > MAX_DEPTH:
            raise problem(
                "M0003",
                f"written out, this formula has more than {MAX_PARTS} parts or {MAX_DEPTH} levels",
                span,
                "too large",
                help="use an argument fewer times in a definition, or `M` fewer times",
            )
        known[id(node)] = ExpandedSize(node, parts, depth)
    return known[id(expr)]
