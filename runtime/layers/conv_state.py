"""The state of convolutions and shifts: their last inputs before a call."""

from __future__ import annotations

import torch
from torch import Tensor

from miras_dsl.runtime.execute.packed import CuSeqlens, Packed, batch_rows, parse_cu_seqlens

from .state_tree import State


def upcast(x: Tensor) -> Tensor:
    """``x`` in float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class ConvState:
    """The last inputs of each convolution and shift, before a call and after it.

    before      the state before the call: kind -> name -> [N, lags, *shape], oldest first
    tails       the same after it, filled by `lagged`; in float32 at least
    cu_seqlens  bounds of packed sequences
    """

    def __init__(self, state: State, cu_seqlens: Packed = None) -> None:
        self.before = state
        self.cu_seqlens = cu_seqlens
        self.tails: State = {}

    def lagged(self, kind: str, name: str, x: Tensor, lags: int) -> list[Tensor]:
        """``x`` [B, T, *shape] and its values 1, 2 … ``lags`` tokens ago in the same sequence.

        Raises ValueError if the state has another shape.
        """
        bounds = parse_cu_seqlens(x, self.cu_seqlens)
        tail = self.before[kind][name].to(x.dtype)
        if tail.shape != (wanted := (batch_rows(x, bounds), lags, *x.shape[2:])):
            raise ValueError(
                f"state {kind}/{name} is {list(tail.shape)}, not {list(wanted)}: "
                "a state has a row for each sequence (initial_state of a layer)"
            )
        if bounds is None:
            joined, length = torch.cat([tail, x], 1), x.shape[1]
            values = [joined[:, lags - lag : lags - lag + length] for lag in range(lags + 1)]
            kept = joined[:, length:]
        else:
            joined = torch.cat([tail.flatten(0, 1), x[0]])
            now, last = gather_index(bounds, x.shape[1], lags)
            values = [joined[index][None] for index in now]
            kept = joined[last]
        self.tails.setdefault(kind, {})[name] = upcast(kept)
        return values


def gather_index(bounds: CuSeqlens, length: int, lags: int) -> tuple[Tensor, Tensor]:
    """Indices into the tails and the tokens joined in one row: of each token's inputs [lags + 1, T],
    and of the tails after the call [N, lags]."""
    ends, count = bounds.tensor, len(bounds)
    first = ends[:-1]
    token = torch.arange(length, device=ends.device)
    lag = torch.arange(lags + 1, device=ends.device)[:, None]
    owner = torch.searchsorted(ends, token, right=True) - 1
    now = _source(token - lag, first[owner], owner, count, lags)
    sequence = torch.arange(count, device=ends.device)[:, None]
    ago = torch.arange(lags, 0, -1, device=ends.device)
    last = _source(ends[1:, None] - ago, first[:, None], sequence, count, lags)
    return now, last


def _source(token: Tensor, first: Tensor, owner: Tensor, count: int, lags: int) -> Tensor:
    """The index of a token in [tails, tokens]; one before the first of its sequence is in a tail."""
    in_tail = owner * lags + lags + (token - first)
    return torch.where(token >= first, count * lags + token, in_tail)
