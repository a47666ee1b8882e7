"""The gradient of the logarithm of a decay.

What is left at token i of something written at token j is ``e^(log[j+1] + … + log[i])``, computed as
``e^(a_i - b_j)`` of two running sums of ``log``.  The derivative with respect to ``log[s]`` is the sum
over the pairs with ``i >= s > j``: each of them has the decay of token s as a factor, so a decay near 0
has a gradient near 0, to the last digit.  Through ``a`` and ``b`` the same sum would be a difference of
two sums over all pairs, in which a small gradient is lost; a gate's formula may then divide it by the
decay.
"""

from __future__ import annotations

from dataclasses import dataclass

from miras_dsl.ir import (
    Axis,
    Cumsum,
    GatedSpan,
    I,
    Mask,
    Node,
    Rename,
    Shift,
    Triangle,
    broadcast,
    reduce_sum,
    rename,
)


@dataclass(frozen=True, slots=True)
class DecayLog:
    """A decay whose exponent is a difference of running sums of one logarithm.

    log        the logarithm of each token
    inclusive  the decay of token i is part of what is left at token i
    """

    log: Node
    inclusive: bool

    def of_pairs(self, pairs: Node, triangle: Triangle) -> Node:
        """The gradient [i, *] of ``log``.

        pairs  [i, j, *] on the triangle: what is left of j at i, times its gradient
        """
        row, col = triangle.row, triangle.col
        begun = Shift(Cumsum(pairs, col), col, 1)  # [i, s]: pairs of i that begin before s
        spanning = Mask(begun, Triangle(row, col, strict=not self.inclusive))
        return rename(reduce_sum(spanning, (row,)), {col: I})

    def of_products(
        self, m: Node, x: Node, y: Node, a: Node, b: Node, channel: Axis, triangle: Triangle
    ) -> Node:
        """The gradient [i, channel] of ``log`` where a pair is ``m[i, j] x[i, d] y[j, d] e^(a - b)``."""
        m = broadcast(m, (triangle.row, triangle.col))
        made = GatedSpan(m, x, y, a, b, channel, triangle, self.inclusive)
        return rename(made, {triangle.row: I})


def decay_log(a: Node, b: Node) -> DecayLog | None:
    """The logarithm whose running sums are the exponents of ``e^(a - b)``; None for other exponents."""
    later, earlier = (x.x if isinstance(x, Rename) else x for x in (a, b))
    if not isinstance(earlier, Cumsum) or earlier.reverse:
        return None
    if later is earlier:
        return DecayLog(earlier.x, True)
    if isinstance(later, Shift) and later.x is earlier and later.by == 1:
        return DecayLog(earlier.x, False)
    return None
