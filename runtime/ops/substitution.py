"""Substitution: rows that depend on the rows before them, block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .sizes import Sizes

BLOCK = 16
"""Rows that a substitution takes one by one; between blocks it has products."""


def substitute(
    a: Tensor,
    p: Tensor,
    body: Callable[..., Tensor],
    rows: Sequence[Tensor],
    gates: tuple[Tensor, Tensor] | None,
    reverse: bool,
    size: Sizes,
) -> Tensor:
    """``g_i = body(p_i + sum_j a[i, j] g_j, rows_i)``, row after row.

    a [.., i, j] strictly lower, p [.., i, v]; reverse: the sum is over later rows of the transpose.
    Blocks of 16 rows: products between blocks, single rows inside one.
    """
    count = p.shape[-2]
    batch = torch.broadcast_shapes(a.shape[:-2], p.shape[:-2], *(row_batch(r, p) for r in rows))
    sums = p.expand(*batch, *p.shape[-2:]).clone()
    matrix = a.mT if reverse else a
    out: Tensor | None = None
    blocks = range(0, count, BLOCK)
    for start in reversed(blocks) if reverse else blocks:
        end = min(start + BLOCK, count)
        order = range(end - 1, start - 1, -1) if reverse else range(start, end)
        if out is not None:
            done = slice(end, count) if reverse else slice(0, start)
            sums[..., start:end, :] += _between(
                matrix, out, gates, slice(start, end), done, reverse
            )
        for i in order:
            inner = slice(i + 1, end) if reverse else slice(start, i)
            r = sums[..., i, :]
            if inner.stop > inner.start:
                assert out is not None
                weight = matrix[..., i, inner]
                if gates is None:
                    r = r + (weight[..., None, :] @ out[..., inner, :]).squeeze(-2)
                else:
                    gap = _gap(gates, slice(i, i + 1), inner, reverse, out.dtype).squeeze(-3)
                    r = r + (weight[..., None] * gap * out[..., inner, :]).sum(-2)
            g = body(
                r,
                *(
                    row.select(-2, i) if row_has_channel(row, p) else row.select(-1, i)
                    for row in rows
                ),
                size,
            )
            if out is None:
                out = g.new_zeros(*batch, count, g.shape[-1])
            out[..., i, :] = g
    return p if out is None else out


def row_has_channel(row: Tensor, p: Tensor) -> bool:
    """Whether a row input has an axis beside the tokens."""
    return row.dim() == p.dim()


def row_batch(row: Tensor, p: Tensor) -> torch.Size:
    """The batch axes of a row input."""
    return row.shape[:-2] if row_has_channel(row, p) else row.shape[:-1]


def _gap(
    gates: tuple[Tensor, Tensor], here: slice, there: slice, reverse: bool, dtype: torch.dtype
) -> Tensor:
    a, b = gates
    if reverse:
        return torch.exp((a[..., None, there, :] - b[..., here, None, :]).to(dtype))
    return torch.exp((a[..., here, None, :] - b[..., None, there, :]).to(dtype))


def _between(
    matrix: Tensor,
    out: Tensor,
    gates: tuple[Tensor, Tensor] | None,
    here: slice,
    done: slice,
    reverse: bool,
) -> Tensor:
    """What finished blocks add to the rows of a block."""
    if gates is None:
        return matrix[..., here, done] @ out[..., done, :]
    a, b = gates
    if reverse:
        middle = a[..., done.start : done.start + 1, :]
        later = torch.exp((a[..., done, :] - middle).to(out.dtype))
        return torch.exp((middle - b[..., here, :]).to(out.dtype)) * (
            matrix[..., here, done] @ (out[..., done, :] * later)
        )
    middle = a[..., here.start : here.start + 1, :]
    earlier = torch.exp((middle - b[..., done, :]).to(out.dtype))
    return torch.exp((a[..., here, :] - middle).to(out.dtype)) * (
        matrix[..., here, done] @ (out[..., done, :] * earlier)
    )
