"""Which parts of a formula need names of their own, so that nothing written out grows without bound."""

from __future__ import annotations

from collections.abc import Container

from miras_dsl.ir import Map, Node, postorder
from miras_dsl.scalar.functions import OPERANDS

MOST = 250
"""The most operations that one formula is written out with."""


def parts_to_name(root: Node, known: Container[Node], most: int = MOST) -> list[Node]:
    """The parts of ``root`` to be written by name, each after those that it reads.

    A part that is used twice is written twice, so formulas can be exponentially longer than the nodes
    they are made of.  With these parts named, and those in ``known``, no formula has more than about
    ``most`` operations.
    """
    sizes: dict[Node, int] = {}
    found: list[Node] = []
    for node in postorder([root]):
        size = 1 if node in known else _own(node, sizes)
        if size > most and node != root:
            found.append(node)
            size = 1
        sizes[node] = size
    return found


def _own(node: Node, sizes: dict[Node, int]) -> int:
    if not isinstance(node, Map):
        return 1 + sum(sizes.get(operand, 1) for operand in node.operands)
    counts = (node.formula.count(slot) for slot in OPERANDS)
    uses = zip(node.args, counts, strict=False)
    return 1 + sum(int(count) * sizes.get(operand, 1) for operand, count in uses)
