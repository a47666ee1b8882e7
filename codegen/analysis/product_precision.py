"""Which products are summed in double precision: those whose rows are normalised next.

A normalisation divides by what is left of a row once its mean is gone.  Where that is little, the
rounding of the sum before it is all that grows, and a few sweeps multiply it again.
"""

from __future__ import annotations

from collections.abc import Iterable

from miras_dsl.ir import Broadcast, Contract, Map, Node, Reduce, Rename, is_token_axis
from miras_dsl.scalar.functions import rsqrt


def fp64_products(nodes: Iterable[Node]) -> set[Node]:
    """The contractions over channels that a reciprocal root is taken of, through any maps."""
    todo = [
        arg
        for node in nodes
        if isinstance(node, Map) and node.formula.has(rsqrt)
        for arg in node.args
    ]
    seen: set[Node] = set()
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            todo += node.operands if isinstance(node, Map | Reduce | Broadcast | Rename) else ()
    return {
        node
        for node in seen
        if isinstance(node, Contract) and not any(is_token_axis(axis) for axis in node.over)
    }
