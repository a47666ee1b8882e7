"""The last tokens of a memory that learns from a window: aged inputs, and tails from call to call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .packed import CuSeqlens


def lagged(
    leaves: Mapping[str, Tensor],
    tails: Mapping[str, Tensor],
    width: int,
    bounds: CuSeqlens | None,
    since: tuple[Tensor, Tensor] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Every leaf as it was 1 … width - 1 tokens ago, and the tails after the call.

    leaves  [B, T, H, *axes] by name
    tails   [N, width - 1, H, *axes], oldest first; a slot whose leaves are all zero was never written
    since   where memories reset, tokens since then: before each token [B, T] and after the call [N]

    Returns ``name_past1`` … [B, T, H, *axes] with ``written_past1`` … [B, T, H], and the new tails.
    Before the first token a leaf is what it is now, and ``written`` is 0.
    """
    lead = next(iter(leaves.values()))
    batch, tokens, heads = lead.shape[:3]
    row, place, starts, lengths = _places(batch, tokens, bounds, lead.device)
    past: dict[str, Tensor] = {}
    for age in range(1, width):
        there = torch.zeros(batch, tokens, dtype=torch.bool, device=lead.device)
        moved = {
            n: _moved(x, tails[n].to(x.dtype), row, place, age, width) for n, x in leaves.items()
        }
        for x in moved.values():
            there |= (x != 0).flatten(2).any(2)
        if since is not None:
            there &= since[0] >= age
        for name, x in moved.items():
            # What was never there counts for nothing, but formulas are asked for it: they may divide.
            past[f"{name}_past{age}"] = _where(there, x, leaves[name].detach())
        past[f"written_past{age}"] = there.to(lead.dtype)[..., None].expand(-1, -1, heads)
    kept = {
        name: _last(x, tails[name].to(x.dtype), starts, lengths, width)
        for name, x in leaves.items()
    }
    if since is not None:
        ages = torch.arange(width - 1, 0, -1, device=lead.device)
        kept = {name: _where(since[1][:, None] >= ages, x, 0.0) for name, x in kept.items()}
    return past, kept


def _where(there: Tensor, x: Tensor, other: Tensor | float) -> Tensor:
    """``x`` where the flags of its first two axes say so, else something else."""
    return torch.where(there.reshape(*there.shape, *[1] * (x.dim() - 2)), x, other)


def _places(
    batch: int, tokens: int, bounds: CuSeqlens | None, device: torch.device
) -> tuple[Tensor, Tensor, Sequence[int], Sequence[int]]:
    """For each token its sequence and its place in it; the start and length of each sequence."""
    if bounds is None:
        row = torch.arange(batch, device=device)[:, None].expand(-1, tokens)
        place = torch.arange(tokens, device=device).expand(batch, -1)
        return row, place, [n * tokens for n in range(batch)], [tokens] * batch
    starts, lengths = bounds.tensor[:-1], bounds.tensor.diff()
    count = torch.arange(len(bounds), device=device)
    row = count.repeat_interleave(lengths, output_size=tokens)[None]
    place = torch.arange(tokens, device=device)[None] - starts[row]
    return row, place, bounds.ends[:-1], bounds.lengths


def _moved(x: Tensor, tail: Tensor, row: Tensor, place: Tensor, age: int, width: int) -> Tensor:
    """``x`` as it was ``age`` tokens ago: from this call, or from the tail before it."""
    batch, tokens = x.shape[:2]
    flat = torch.cat([x.flatten(0, 1), tail.flatten(0, 1)])
    here = torch.arange(batch * tokens, device=x.device).reshape(batch, tokens)
    before = batch * tokens + row * (width - 1) + (width - 1) + place - age
    return flat[torch.where(place >= age, here - age, before)]


def _last(
    x: Tensor, tail: Tensor, starts: Sequence[int], lengths: Sequence[int], width: int
) -> Tensor:
    """The last width - 1 tokens of each sequence."""
    flat = x.flatten(0, 1)
    rows = []
    for n, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        joined = torch.cat([tail[n], flat[start : start + length]])
        rows.append(joined[len(joined) - (width - 1) :])
    return torch.stack(rows)
