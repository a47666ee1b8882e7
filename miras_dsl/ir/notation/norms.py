"""Sums and norms in formulas: what they are of, and a formula of a norm's parts as one of the norm."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import sympy as sp

from miras_dsl import ir
from miras_dsl.ir import Axes, Axis, Node
from miras_dsl.scalar.functions import OPERANDS, absolute
from miras_dsl.scalar.norms import fixed, norm_root, ratio, share_power


def token_axes(axes: Iterable[Axis]) -> Axes:
    """Those that count tokens of a chunk."""
    return ir.ordered(axis for axis in axes if ir.is_token_axis(axis))


def channels(axes: Axes) -> Axes:
    """Those that count neither tokens nor pairs."""
    return tuple(axis for axis in axes if not ir.is_token_axis(axis) and axis != ir.PAIR)


def summed(node: Node) -> Axes:
    """The axes that a sum runs over; none for anything else."""
    match node:
        case ir.Contract(_, _, over) | ir.Reduce("sum", _, over):
            return over
        case _:
            return ()


def squared(node: Node) -> Node | None:
    """What a sum of squares over all channels is of."""
    match node:
        case ir.Contract(left, right, over) if left is right and set(over) == set(
            channels(left.axes)
        ):
            return left
        case ir.Reduce("sum", ir.Map(sp.Pow() as square, (x,)), over) if square == OPERANDS[
            0
        ] ** 2 and set(over) == set(channels(x.axes)):
            return x
        case _:
            return None


def shares(node: Node) -> tuple[Node, sp.Expr, Node] | None:
    """(x, p, scale) of the sum of ``|x / scale|^p`` over all channels of a p-norm."""
    match node:
        case ir.Reduce("sum", ir.Map(share_power() as share, (x, scale)), over) if share.args[
            :2
        ] == OPERANDS[:2] and set(over) == set(channels(x.axes)):
            return x, share.args[2], scale
        case _:
            return None


def is_part_of_norm(node: Node) -> bool:
    """Whether a value only has a meaning inside a norm or its derivative."""
    match node:
        case ir.Map(sp.Add(), args) if any(shares(arg) is not None for arg in args):
            return True
        case ir.Map(formula):
            halves = (root for root in formula.atoms(norm_root) if root.args[3] != 1)
            return formula.has(fixed, share_power, ratio) or any(halves)
        case ir.Reduce(kind):
            return shares(node) is not None or kind == "max"
        case _:
            return False


@lru_cache(maxsize=4096)
def with_length(
    formula: sp.Expr, shares: sp.Symbol, scale: sp.Symbol, length: sp.Symbol, p: sp.Expr
) -> sp.Expr:
    """A formula of the shares of a norm as one of the norm: the scale cancels."""
    size = sp.Dummy("scale", positive=True)

    def root(s: sp.Expr, m: sp.Expr, a: sp.Expr, b: sp.Expr) -> sp.Expr:
        inside = sp.together(s)
        return size**b * inside**a if m == size else norm_root(s, m, a, b)

    def quotient(x: sp.Expr, m: sp.Expr) -> sp.Expr:
        return x / size if m == size else ratio(x, m)

    def share(x: sp.Expr, m: sp.Expr, power: sp.Expr) -> sp.Expr:
        number = x**power if x.is_positive else absolute(x) ** power
        return number / size**power if m == size else share_power(x, m, power)

    changed = formula.xreplace({shares: (length / size) ** p, scale: size})
    changed = changed.replace(share_power, share).replace(norm_root, root).replace(ratio, quotient)
    cancelled = sp.powsimp(sp.expand_power_base(changed))
    return formula if cancelled.has(size) else cancelled
