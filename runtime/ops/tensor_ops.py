"""The compiler's operations in torch: what generated code calls as `ops`.

Every tensor is [*batch, *axes]; axis numbers count from the end.  In chunk programs they run without
autograd, for the backward pass is derived.  In the step of one token autograd differentiates them, but
for those that work on a whole chunk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .gated_products import gated_apply, gated_contract, gated_span
from .monotone_inverse import monotone_inverse
from .sizes import Sizes
from .substitution import substitute

MIN_GATE = 1.2e-38
"""A gate below it is 0: about the least normal number in single precision."""
LOG_ZERO = -800.0
"""The logarithm of a decay that is 0 in every type: e^-800 is less than any number of float64."""


def full(value: float, sizes: Sequence[int], size: Sizes) -> Tensor:
    """A tensor of shape ``sizes`` that is ``value`` everywhere."""
    return torch.full(tuple(sizes), value, dtype=size.dtype, device=size.device)


def everywhere(value: float, sizes: Sequence[int], size: Sizes) -> Tensor:
    """A value of a chunk that no input has a part in: one for all chunks and rows, [1, …, *sizes]."""
    return full(value, (*[1] * size.leading, *sizes), size)


def exponential(log: Tensor, size: Sizes) -> Tensor:
    """``e^log``, for a sum of logarithms in float64; the result is in the computing type."""
    return torch.exp(log).to(size.dtype)


def fixed(x: Tensor) -> Tensor:
    """``x`` as a constant for autograd, as it is for the derived gradients."""
    return x.detach()


def matvec(a: Tensor, x: Tensor) -> Tensor:
    """A matrix [.., m, n] times a vector [.., n]."""
    return (a @ x[..., None]).squeeze(-1)


def matmul_fp64(a: Tensor, b: Tensor, size: Sizes) -> Tensor:
    """``a @ b`` summed in float64; the result is in the computing type."""
    return (a.double() @ b.double()).to(size.dtype)


def where(condition: Tensor | float, a: Tensor | float, b: Tensor | float) -> Tensor:
    """``a`` where the condition is not 0, else ``b``."""
    if not isinstance(condition, Tensor):
        chosen = a if condition else b
        return chosen if isinstance(chosen, Tensor) else torch.tensor(chosen)
    chosen = torch.where(condition != 0, a, b)
    return chosen if isinstance(a, Tensor) or isinstance(b, Tensor) else chosen.to(condition.dtype)


def ge0(x: Tensor) -> Tensor:
    """1 where x >= 0, else 0."""
    return (x >= 0).to(x.dtype)


def gt0(x: Tensor) -> Tensor:
    """1 where x > 0, else 0."""
    return (x > 0).to(x.dtype)


def finite_exp(x: Tensor) -> Tensor:
    """``e^x``, or the largest number of its type, with slope 0, where that would be infinite."""
    largest = math.log(torch.finfo(x.dtype).max) - 0.01
    return torch.exp(x.clamp(max=largest))


def log_gate(gate: Tensor) -> Tensor:
    """The logarithm of a gate; `LOG_ZERO`, with slope 0, of one that is 0 in single precision."""
    there = gate >= MIN_GATE
    return torch.where(there, torch.log(torch.where(there, gate, 1.0)), LOG_ZERO)


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x); it is replaced by x only above 40, where they are equal in float64."""
    return functional.softplus(x, threshold=40.0)


def logcosh(x: Tensor) -> Tensor:
    """log(cosh(x)) without overflow; for |x| < 0.8, where |x| - log(2) cancels, through tanh(x).

    The derivative that autograd takes, tanh(x), is accurate in both cases too.
    """
    near = torch.abs(x) < 0.8
    small, size = torch.where(near, x, 0.0), torch.where(near, 1.0, torch.abs(x))
    far = size - 0.6931471805599453 + torch.log1p(torch.exp(-2 * size))
    return torch.where(near, -0.5 * torch.log1p(-(torch.tanh(small) ** 2)), far)


def within_turn(x: Tensor) -> Tensor:
    """x less whole turns of 2 pi, from -pi to pi, with derivative 1.

    A turn is taken off in two parts: multiples of the first one, 201 / 32, are exact.
    """
    turns = torch.floor(x / 6.283185307179586 + 0.5)
    return (x - turns * 6.28125) - turns * 0.0019353071795864769


def sqrt(x: Tensor) -> Tensor:
    """The square root; 0 with derivative 0 for x <= 0."""
    positive = x > 0
    return torch.where(positive, torch.sqrt(torch.where(positive, x, 1.0)), 0.0)


def gelu_slope(x: Tensor) -> Tensor:
    """The derivative of `gelu`, the exact one: Φ(x) + x φ(x) with the standard normal Φ and φ."""
    return (
        0.5 * torch.erfc(-0.7071067811865476 * x)
        + x * torch.exp(-0.5 * (x * x)) * 0.3989422804014327
    )


def hypot(x: Tensor, c: float) -> Tensor:
    """sqrt(x^2 + c^2) without overflow."""
    return torch.hypot(x, torch.full_like(x, c))


def hypot_slope(x: Tensor, c: float) -> Tensor:
    """x / sqrt(x^2 + c^2)."""
    return x / hypot(x, c)


def rsqrt(x: Tensor) -> Tensor:
    """1 / sqrt(x) for x > 0, else 0."""
    positive = x > 0
    return torch.where(positive, torch.rsqrt(torch.where(positive, x, 1.0)), 0.0)


def abs_pow(x: Tensor, p: Tensor | float) -> Tensor:
    """``|x|^p``, 0 at 0."""
    there = x != 0
    return torch.where(there, torch.pow(torch.abs(torch.where(there, x, 1.0)), p), 0.0)


def signed_pow(x: Tensor, p: Tensor | float) -> Tensor:
    """``sign(x) |x|^p``."""
    return torch.sign(x) * abs_pow(x, p)


def pow_nonneg(x: Tensor, p: Tensor | float) -> Tensor:
    """``x^p``, 0 at 0; NaN for x < 0 unless p is a whole number."""
    there = x != 0
    return torch.where(there, torch.pow(torch.where(there, x, 1.0), p), 0.0)


def broadcast(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """``x`` repeated so that its last axes have these sizes."""
    return x.expand(*x.shape[: x.dim() - len(sizes)], *sizes)


def permute(x: Tensor, order: Sequence[int]) -> Tensor:
    """The last axes in another order."""
    batch = range(x.dim() - len(order))
    return x.permute(*batch, *(x.dim() + at for at in order))


def shift(x: Tensor, axis: int, by: int) -> Tensor:
    """Row n becomes row n - by; the row without a source is 0."""
    rows = x.shape[axis]
    blank = torch.zeros_like(x.narrow(axis, 0, 1))
    if by > 0:
        return torch.cat([blank, x.narrow(axis, 0, rows - 1)], axis)
    return torch.cat([x.narrow(axis, 1, rows - 1), blank], axis)


def pad_to_last(x: Tensor, axis: int, rows: int) -> Tensor:
    """``x`` as the last of ``rows`` rows, zeros before it."""
    x = x.unsqueeze(axis)
    shape = list(x.shape)
    shape[axis] = rows - 1
    return torch.cat([x.new_zeros(shape), x], axis)


def triangle(x: Tensor, row: int, col: int, strict: bool) -> Tensor:
    """Flags of the entries of ``x`` with row >= col (row > col if strict), ready to broadcast to it."""
    rows, cols = x.shape[row], x.shape[col]
    keep = torch.ones(rows, cols, dtype=torch.bool, device=x.device).tril(-1 if strict else 0)
    shape = [1] * x.dim()
    shape[row], shape[col] = rows, cols
    return (keep if row < col else keep.T).reshape(shape)


def tril(x: Tensor, row: int, col: int, strict: bool) -> Tensor:
    """``x`` on the triangle of axes ``row`` and ``col``, 0 outside it."""
    if row == -2 and col == -1:
        return x.tril(-1 if strict else 0)
    return torch.where(triangle(x, row, col, strict), x, 0.0)


def masked_decay(exponent: Tensor, row: int, col: int, strict: bool, size: Sizes) -> Tensor:
    """``e^exponent`` on the triangle, 0 outside it; the exponent is masked, so nothing overflows."""
    low = exponent.to(size.dtype)
    return low.masked_fill(~triangle(low, row, col, strict), float("-inf")).exp_()


def unit_lower_inverse(a: Tensor) -> Tensor:
    """``(1 + a)^-1`` for a strictly lower triangular ``a`` [.., i, j]."""
    one = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    return torch.linalg.solve_triangular(a + one, one.expand_as(a), upper=False, unitriangular=True)


__all__ = [
    "Sizes",
    "abs_pow",
    "broadcast",
    "everywhere",
    "exponential",
    "finite_exp",
    "fixed",
    "gated_apply",
    "gated_contract",
    "gated_span",
    "ge0",
    "gelu_slope",
    "gt0",
    "hypot",
    "hypot_slope",
    "log_gate",
    "logcosh",
    "masked_decay",
    "matmul_fp64",
    "matvec",
    "monotone_inverse",
    "pad_to_last",
    "permute",
    "pow_nonneg",
    "rsqrt",
    "shift",
    "signed_pow",
    "softplus",
    "sqrt",
    "substitute",
    "tril",
    "unit_lower_inverse",
    "where",
    "within_turn",
]  # fmt: skip
