"""Sequences of different lengths in one batch, told apart by a mask: computed as packed ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from miras_dsl.runtime.execute.packed import CuSeqlens, Packed

from .state_tree import State

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
    lengths = there.sum(1).tolist()
    ends = [0]
    for length in lengths:
        ends.append(ends[-1] + length)
    bounds = CuSeqlens(tuple(ends), torch.tensor(ends, device=x.device))
    found, after = forward(x[there][None], state, bounds)
    y = found.new_zeros(*x.shape[:2], *found.shape[2:])
    return y.masked_scatter(there.reshape(*there.shape, *[1] * (y.dim() - 2)), found[0]), after
