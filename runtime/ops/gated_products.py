"""Products with a decay per channel: ``e^(a[i, d] - b[j, d])`` inside a sum, on a triangle of tokens.

A product of two factors ``e^a`` and ``e^-b`` is no way to compute it: one of them overflows.  Instead the
triangle is halved recursively into two triangles and the square below them.  In the square the exponent
is split at the square's first row, ``(a - a_first) + (a_first - b)``; for a decay both parts are at most
0, and the square is one matrix product.  The small triangles that remain on the diagonal are computed
pair by pair.  No row depends on a later one: what comes after a token changes its answer by no bit.

Shapes: x, y, a, b [.., i, d], m [.., i, j]; a and b may be in a wider type than the others.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LEAF = 4
"""Rows of a triangle that is computed pair by pair."""


def gated_contract(x: Tensor, y: Tensor, a: Tensor, b: Tensor, strict: bool) -> Tensor:
    """``sum_d x[i, d] y[j, d] e^(a[i, d] - b[j, d])`` on the triangle i >= j (i > j if strict), 0
    outside it; [.., i, j]."""
    rows = x.shape[-2]
    size = _padded_rows(rows)
    batch = torch.broadcast_shapes(*(t.shape[:-2] for t in (x, y, a, b)))
    x, y, a, b = (_padded(t, size) for t in (x, y, a, b))
    out = x.new_zeros(*batch, size, size)
    pairs = _pairs(a, b, strict, x.dtype)
    leaves = torch.einsum("...id,...jd,...ijd->...ij", _leaves(x), _leaves(y), pairs)
    _diagonal(out).copy_(leaves)
    half = LEAF
    while half < size:
        later, earlier = _split(a, b, half, x.dtype)
        left, right = _halves(x, half)[1] * later, _halves(y, half)[0] * earlier
        _corners(out, half).copy_(left @ right.mT)
        half *= 2
    return out[..., :rows, :rows]


def gated_apply(m: Tensor, y: Tensor, a: Tensor, b: Tensor, strict: bool, mirror: bool) -> Tensor:
    """``sum_j m[i, j] y[j, d] e^(a[i, d] - b[j, d])`` over the triangle; [.., i, d].

    ``mirror``: ``sum_i m[i, j] y[i, d] e^(a[i, d] - b[j, d])``, [.., j, d].
    """
    rows = a.shape[-2]
    size = _padded_rows(rows)
    batch = torch.broadcast_shapes(m.shape[:-2], *(t.shape[:-2] for t in (y, a, b)))
    y, a, b = (_padded(t, size) for t in (y, a, b))
    m = F.pad(m, (0, size - rows, 0, size - rows))
    pairs = _pairs(a, b, strict, y.dtype) * _diagonal(m)[..., None]
    if mirror:
        leaves = (pairs * _leaves(y)[..., :, None, :]).sum(-3)
    else:
        leaves = (pairs * _leaves(y)[..., None, :, :]).sum(-2)
    out = leaves.flatten(-3, -2).expand(*batch, size, y.shape[-1]).contiguous()
    half = LEAF
    while half < size:
        later, earlier = _split(a, b, half, y.dtype)
        (before, after), (into, onto) = _halves(y, half), _halves(out, half)
        if mirror:
            into += earlier * (_corners(m, half).mT @ (after * later))
        else:
            onto += later * (_corners(m, half) @ (before * earlier))
        half *= 2
    return out[..., :rows, :]


def gated_span(
    m: Tensor, x: Tensor, y: Tensor, a: Tensor, b: Tensor, strict: bool, inclusive: bool
) -> Tensor:
    """``sum m[i, j] x[i, d] y[j, d] e^(a[i, d] - b[j, d])`` over the pairs of the triangle with
    i >= s > j, or i > s > j unless ``inclusive``; [.., s, d].

    A square below two half triangles gives to the rows of both: a row of its second half is spanned by
    the pairs that end there or later, a row of its first half by those that begin before it.
    """
    rows = a.shape[-2]
    size = _padded_rows(rows)
    batch = torch.broadcast_shapes(m.shape[:-2], *(t.shape[:-2] for t in (x, y, a, b)))
    x, y, a, b = (_padded(t, size) for t in (x, y, a, b))
    m = F.pad(m, (0, size - rows, 0, size - rows))
    pairs = _pairs(a, b, strict, y.dtype) * _diagonal(m)[..., None]
    pairs = pairs * _leaves(x)[..., :, None, :] * _leaves(y)[..., None, :, :]
    begun = torch.zeros_like(pairs)  # [.., i, s, d]: pairs of i that begin before s
    begun[..., 1:, :] = pairs[..., :-1, :].cumsum(-2)
    spans = torch.ones(LEAF, LEAF, dtype=torch.bool, device=a.device).tril(0 if inclusive else -1)
    leaves = (begun * spans[..., None]).sum(-3)
    out = leaves.flatten(-3, -2).expand(*batch, size, a.shape[-1]).contiguous()
    half = LEAF
    while half < size:
        later, earlier = _split(a, b, half, y.dtype)
        first, second = _halves(out, half)
        square = _corners(m, half)
        above, below = _halves(x, half)[1] * later, _halves(y, half)[0] * earlier
        ending, beginning = above * (square @ below), below * (square.mT @ above)
        if not inclusive:  # a pair does not span the token where it ends
            ending = F.pad(ending[..., 1:, :], (0, 0, 0, 1))
        second += ending.flip(-2).cumsum(-2).flip(-2)
        first += F.pad(beginning[..., :-1, :].cumsum(-2), (0, 0, 1, 0))
        half *= 2
    return out[..., :rows, :]


def _padded_rows(rows: int) -> int:
    """The next number of rows that is LEAF times a power of 2."""
    size = LEAF
    while size < rows:
        size *= 2
    return size


def _padded(x: Tensor, size: int) -> Tensor:
    """``x`` with its last row repeated up to ``size`` rows; the rows added are cut off from results."""
    missing = size - x.shape[-2]
    return (
        x if not missing else torch.cat([x, x[..., -1:, :].expand(*x.shape[:-2], missing, -1)], -2)
    )


def _leaves(x: Tensor) -> Tensor:
    """The rows in groups of LEAF, [.., n, LEAF, d]."""
    return x.unflatten(-2, (-1, LEAF))


def _halves(x: Tensor, half: int) -> tuple[Tensor, Tensor]:
    """The first and the second half of each group of 2 * half rows, [.., n, half, d]."""
    first, second = x.unflatten(-2, (-1, 2, half)).unbind(-3)
    return first, second


def _diagonal(m: Tensor) -> Tensor:
    """The LEAF x LEAF blocks on the diagonal of a matrix, a view [.., n, LEAF, LEAF]."""
    blocks = m.unflatten(-2, (-1, LEAF)).unflatten(-1, (-1, LEAF))
    return blocks.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)


def _corners(m: Tensor, half: int) -> Tensor:
    """The lower left quarter of each block of 2 * half rows on the diagonal, a view [.., n, half, half]."""
    rows = m.unflatten(-2, (-1, 2, half))[..., 1, :, :]
    return rows.unflatten(-1, (-1, 2, half))[..., 0, :].diagonal(dim1=-4, dim2=-2).movedim(-1, -3)


def _split(a: Tensor, b: Tensor, half: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """``e^(a - middle)`` of the second halves and ``e^(middle - b)`` of the first, middle being the first
    row of a in the second half."""
    later, earlier = _halves(a, half)[1], _halves(b, half)[0]
    middle = later[..., :1, :]
    return torch.exp((later - middle).to(dtype)), torch.exp((middle - earlier).to(dtype))


def _pairs(a: Tensor, b: Tensor, strict: bool, dtype: torch.dtype) -> Tensor:
    """``e^(a_i - b_j)`` within each leaf, masked before the exponential; [.., n, LEAF, LEAF, d]."""
    exponent = (_leaves(a)[..., :, None, :] - _leaves(b)[..., None, :, :]).to(dtype)
    above = torch.ones(LEAF, LEAF, dtype=torch.bool, device=a.device).triu(0 if strict else 1)
    return exponent.masked_fill(above[..., None], float("-inf")).exp_()
