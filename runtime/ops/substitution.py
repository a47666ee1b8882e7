"""Forward substitution: each row is a formula of the rows before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .sizes import Sizes

BLOCK = 16
"""Rows that are computed one by one; earlier blocks of rows enter by matrix products."""


def substitute(
    a: Tensor,
    p: Tensor,
    body: Callable[..., Tensor],
    rows: Sequence[Tensor],
    gates: tuple[Tensor, Tensor] | None,
    reverse: bool,
    size: Sizes,
) -> Tensor:
    """``g_i = body(p_i + sum_{j<i} a[i, j] g_j, rows_i)``, row after row; [.., i, v].

    a        [.., i, j], zero on and above the diagonal
    p        [.., i, v]
    body     a function of a row [.., v], the entries of ``rows`` for it, and ``size``
    rows     [.., i] or [.., i, d] each
    gates    (a, b), each [.., i, v]: the term of row j is multiplied by ``e^(a_i - b_j)``
    reverse  from the last row to the first, with ``sum_{j>i} a[j, i] g_j``
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
    """Whether an entry of ``rows`` is [.., i, d] rather than [.., i]."""
    return row.dim() == p.dim()


def row_batch(row: Tensor, p: Tensor) -> torch.Size:
    """The batch shape of an entry of ``rows``."""
    return row.shape[:-2] if row_has_channel(row, p) else row.shape[:-1]


def _gap(
    gates: tuple[Tensor, Tensor], here: slice, there: slice, reverse: bool, dtype: torch.dtype
) -> Tensor:
    """The decay between the rows ``here`` and ``there``, [.., here, there, v]."""
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
    """What the rows ``done`` of earlier blocks add to the rows ``here``, [.., here, v].

    The decay between the blocks is split at the first row of the later one, as in `gated_products`.
    """
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
