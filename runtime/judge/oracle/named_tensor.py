"""The oracle's values: tensors whose axes have names, and their products, on request rounded.

In the formula of a rule that holds for every weight, `row` and `column` stand for the axes of each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from miras_dsl.spec import Axes


@dataclass(frozen=True, slots=True)
class NamedTensor:
    """A tensor [batch or 1, head or 1, *axes] and the names of its axes."""

    data: Tensor
    axes: Axes = ()

    def align_to(self, axes: Axes) -> Tensor:
        """The data with ``axes``, a superset of its own in any order; an axis that it lacks has size 1.

        Raises ValueError where it is no superset.
        """
        if axes == self.axes:
            return self.data
        order = [self.axes.index(axis) for axis in axes if axis in self.axes]
        if len(order) != len(self.axes):
            raise ValueError(f"a formula with axes {self.axes} cannot stand on {axes}")
        data = self.data.permute(0, 1, *(2 + i for i in order))
        return data[
            (slice(None), slice(None), *(slice(None) if a in self.axes else None for a in axes))
        ]


def union(*axes: Axes) -> Axes:
    """All axes in order of first appearance."""
    return tuple(dict.fromkeys(axis for group in axes for axis in group))


def positions(value: NamedTensor, over: Axes) -> tuple[tuple[int, ...], Axes]:
    """The positions of the axes ``over`` in the data, and the other axes.  Raises ValueError for an
    axis that the tensor lacks."""
    if set(over) <= {"row", "column"}:
        over = tuple(
            axis for name, axis in zip(("row", "column"), value.axes, strict=False) if name in over
        )
    missing = [axis for axis in over if axis not in value.axes]
    if missing:
        raise ValueError(f"no axis {missing} in a formula with axes {value.axes}")
    return tuple(2 + value.axes.index(a) for a in over), tuple(
        a for a in value.axes if a not in over
    )


class _RoundedProduct(torch.autograd.Function):
    """An einsum whose operands are rounded to a type, also in its first and further derivatives."""

    @staticmethod
    def forward(ctx, left: Tensor, right: Tensor, names: tuple[str, str, str], dtype: torch.dtype):
        ctx.save_for_backward(left, right)
        ctx.names, ctx.dtype = names, dtype
        a, b, out = names
        low = (left.to(dtype).to(left.dtype), right.to(dtype).to(right.dtype))
        return torch.einsum(f"{a},{b}->{out}", *low)

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[override]
        left, right = ctx.saved_tensors
        a, b, out = ctx.names
        to_left = _RoundedProduct.apply(gradient, right, (out, b, a), ctx.dtype)
        to_right = _RoundedProduct.apply(left, gradient, (a, out, b), ctx.dtype)
        return to_left, to_right, None, None


def product(
    left: NamedTensor, right: NamedTensor, over: Axes, rounding: torch.dtype | None
) -> NamedTensor:
    """The sum over ``over`` of left * right; other axes that both have are matched.

    rounding  both operands are rounded to this type; None: not
    """
    for side in (left, right):
        positions(side, over)
    result = tuple(axis for axis in union(left.axes, right.axes) if axis not in over)
    letter = {axis: chr(ord("c") + i) for i, axis in enumerate(union(left.axes, right.axes))}
    batch = [max(sizes) for sizes in zip(left.data.shape[:2], right.data.shape[:2], strict=True)]
    a, b, out = (
        "ab" + "".join(letter[x] for x in axes) for axes in (left.axes, right.axes, result)
    )
    operands = [v.data.expand(*batch, *v.data.shape[2:]) for v in (left, right)]
    if rounding is None or rounding == left.data.dtype:
        return NamedTensor(torch.einsum(f"{a},{b}->{out}", *operands), result)
    return NamedTensor(_RoundedProduct.apply(*operands, (a, b, out), rounding), result)  # type: ignore[arg-type]
