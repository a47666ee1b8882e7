"""Packed sequences: several one after the other in one row, with bounds between them; and masks [B, T],
whose tokens are computed as packed sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class CuSeqlens:
    """The bounds of N packed sequences: sequence n has the tokens from bound n to bound n + 1.

    ends    the N + 1 bounds as Python numbers, so that a GPU is waited for once only; none while
            `torch.compile` traces, when there are no numbers yet
    tensor  the same, int64 [N + 1] on the device of the tokens
    """

    ends: tuple[int, ...]
    tensor: Tensor

    def __len__(self) -> int:
        """The number of sequences N."""
        return self.tensor.shape[0] - 1

    @property
    def host(self) -> Tensor:
        """The bounds on the CPU, if their numbers are known; else where they are."""
        return torch.tensor(self.ends) if self.ends else self.tensor

    @property
    def lengths(self) -> tuple[int, ...]:
        """The number of tokens of each sequence."""
        return tuple(end - start for start, end in pairwise(self.ends))


Packed = Tensor | CuSeqlens | Sequence[int] | None
"""What `cu_seqlens` may be: N + 1 whole numbers, checked bounds, or None: each row is a sequence."""


def parse_cu_seqlens(x: Tensor, cu_seqlens: Packed) -> CuSeqlens | None:
    """The bounds of the sequences in ``x`` [B, T, …]; None where each row is one sequence.

    Raises ValueError for bounds that do not fit ``x``.  Waits once for the GPU if they are there.
    """
    if cu_seqlens is None:
        return None
    if isinstance(cu_seqlens, list | tuple):
        cu_seqlens = torch.tensor(cu_seqlens)
    batch, tokens = x.shape[:2]
    if torch.compiler.is_compiling():
        given = cu_seqlens.tensor if isinstance(cu_seqlens, CuSeqlens) else cu_seqlens
        return CuSeqlens((), given.to(x.device, torch.int64))
    if isinstance(cu_seqlens, CuSeqlens):
        if (batch, tokens) == (1, cu_seqlens.ends[-1]):
            return CuSeqlens(cu_seqlens.ends, cu_seqlens.tensor.to(x.device))
        ends, tensor = list(cu_seqlens.ends), cu_seqlens.tensor
    elif cu_seqlens.dim() == 1 and not (cu_seqlens.is_floating_point() or cu_seqlens.is_complex()):
        ends, tensor = cu_seqlens.tolist(), cu_seqlens
    else:
        ends, tensor = [], cu_seqlens
    rising = len(ends) > 1 and all(start <= end for start, end in pairwise(ends))
    if not rising or batch != 1 or (ends[0], ends[-1]) != (0, tokens):
        shown = ends if 0 < len(ends) <= 8 else f"{tensor.dtype} {list(tensor.shape)}"
        raise ValueError(
            f"cu_seqlens must rise from 0 to {tokens}, the number of tokens, and packed sequences lie "
            f"in one row; here it is {shown} for {batch} rows of {tokens} tokens.  Join sequences of "
            "2 and 3 tokens to x [1, 5, …] and give torch.tensor([0, 2, 5])"
        )
    return CuSeqlens(tuple(ends), tensor.to(x.device, torch.int64))


def require(x: Tensor, lead: str, width: int) -> None:
    """Raise ValueError unless ``x`` is [*lead, width] in floating point, lead being "B, T" or "B"."""
    if not x.is_floating_point():
        raise ValueError(f"x is {x.dtype}, not floating point; convert it with .float()")
    if x.dim() != len(lead.split(", ")) + 1 or x.shape[-1] != width:
        one = "; `step` takes one token, a call a sequence" if x.shape[-1:] == (width,) else ""
        raise ValueError(f"x is {list(x.shape)}, not [{lead}, {width}]{one}")


def batch_rows(x: Tensor, cu_seqlens: Packed) -> int:
    """The number of sequences in ``x`` [B, T, …]: the rows of a state."""
    bounds = parse_cu_seqlens(x, cu_seqlens)
    return x.shape[0] if bounds is None else len(bounds)


def bounds_of_mask(mask: Tensor) -> CuSeqlens:
    """The bounds of the packed sequences: row b has as many tokens as the mask keeps of it."""
    ends = (0, *accumulate((mask != 0).sum(1).tolist()))
    return CuSeqlens(ends, torch.tensor(ends, device=mask.device))


def spread(x: Tensor, mask: Tensor) -> Tensor:
    """[1, kept, …] -> [B, T, …], 0 where the mask keeps no token."""
    y = x.new_zeros(*mask.shape, *x.shape[2:])
    return y.masked_scatter((mask != 0).reshape(*mask.shape, *[1] * (y.dim() - 2)), x[0])
