"""Sequences of different lengths in one batch, told apart by a mask: computed as packed ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from miras_dsl.runtime.execute.packed import CuSeqlens, Packed, bounds_of_mask, spread

from .state_tree import State, map

Forward = Callable[[Tensor, State | None, CuSeqlens], tuple[Tensor, State]]


def unpadded(
    forward: Forward, x: Tensor, state: State | None, cu_seqlens: Packed, mask: Tensor
) -> tuple[Tensor, State]:
    """A call of a layer or model on the tokens that a mask keeps: (y [B, T, …], state after them).

    x     [B, T, width], or ids [B, T]
    mask  [B, T], 0 or False where there is no token: before a sequence, behind it or inside it

    Tokens that are there are packed, so what stands elsewhere has no part in an answer, a state or a
    gradient; there the answer is 0.  Raises ValueError for a mask that does not fit ``x``, or beside
    ``cu_seqlens``.
    """
    if cu_seqlens is not None:
        raise ValueError(
            "attention_mask is for a padded batch, cu_seqlens for a packed one: give one"
        )
    if mask.shape != x.shape[:2] or mask.is_complex():
        raise ValueError(
            f"attention_mask is {mask.dtype} {list(mask.shape)}, not [B, T] = {list(x.shape[:2])} "
            "with 1 for a token and 0 for padding"
        )
    there = mask.to(x.device) != 0
    if torch.compiler.is_compiling():
        return _with_padding_last(forward, x, state, there)
    bounds = bounds_of_mask(there)
    found, after = forward(x[there][None], state, bounds)
    return spread(found, there), after


def _with_padding_last(
    forward: Forward, x: Tensor, state: State | None, there: Tensor
) -> tuple[Tensor, State]:
    """The same with shapes that do not depend on the mask's numbers, as `torch.compile` needs them.

    All B T places are packed, the padding behind the tokens as one sequence more, which is dropped.
    """
    batch, tokens = there.shape
    flat = there.flatten()
    order = flat.to(torch.uint8).argsort(descending=True, stable=True)
    rows = x.flatten(0, 1)[order]
    rows = torch.where(_shaped(flat[order], rows), rows, torch.zeros_like(rows))
    ends = torch.cat([flat.new_zeros(1, dtype=torch.int64), there.sum(1).cumsum(0)])
    ends = torch.cat([ends, torch.full_like(ends[:1], batch * tokens)])
    if state is not None:
        state = map(state, lambda row: torch.cat([row, row[:1]]))
    found, after = forward(rows[None], state, CuSeqlens((), ends))
    y = found[0][order.argsort()].unflatten(0, (batch, tokens))
    y = torch.where(_shaped(there, y), y, torch.zeros_like(y))
    return y, map(after, lambda row: row[:batch])


def _shaped(mask: Tensor, like: Tensor) -> Tensor:
    return mask.reshape(*mask.shape, *[1] * (like.dim() - mask.dim()))
