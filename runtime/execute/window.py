"""A memory that learns from a window: the inputs of earlier tokens, and the tails that it carries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .packed import CuSeqlens


def lagged(
    inputs: Mapping[str, Tensor],
    tails: Mapping[str, Tensor],
    width: int,
    bounds: CuSeqlens | None,
    since: tuple[Tensor, Tensor] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The inputs of 1 … width - 1 tokens ago, and the tails after the call.

    inputs  [B, T, H, *axes] by name
    tails   [N, width - 1, H, *axes], the inputs of the tokens before the call, oldest first; an entry
            where all inputs are zero was never written
    bounds  of packed sequences; None: each row is a sequence
    since   of a memory that resets: the number of tokens since the reset, before each token [B, T]
            and after the call [N]

    Returns ``name_past1`` … [B, T, H, *axes] with ``written_past1`` … [B, T, H], and the new tails.
    Where there was no token yet, ``written`` is 0 and the input is that of the token itself.
    """
    lead = next(iter(inputs.values()))
    batch, tokens, heads = lead.shape[:3]
    row, place, starts, lengths = _places(batch, tokens, bounds, lead.device)
    past: dict[str, Tensor] = {}
    for age in range(1, width):
        written = torch.zeros(batch, tokens, dtype=torch.bool, device=lead.device)
        past_values = {
            n: _at_age(x, tails[n].to(x.dtype), row, place, age, width) for n, x in inputs.items()
        }
        for x in past_values.values():
            written |= (x != 0).flatten(2).any(2)
        if since is not None:
            written &= since[0] >= age
        for name, x in past_values.items():
            # The formulas are computed there too, and may divide by an input: it must not be 0.
            past[f"{name}_past{age}"] = _where(written, x, inputs[name].detach())
        past[f"written_past{age}"] = written.to(lead.dtype)[..., None].expand(-1, -1, heads)
    kept = {
        name: _last(x, tails[name].to(x.dtype), starts, lengths, width)
        for name, x in inputs.items()
    }
    if since is not None:
        ages = torch.arange(width - 1, 0, -1, device=lead.device)
        kept = {name: _where(since[1][:, None] >= ages, x, 0.0) for name, x in kept.items()}
    return past, kept


def _where(flags: Tensor, x: Tensor, other: Tensor | float) -> Tensor:
    """``x`` where the flags, of its first two axes, are set; else ``other``."""
    return torch.where(flags.reshape(*flags.shape, *[1] * (x.dim() - 2)), x, other)


def _places(
    batch: int, tokens: int, bounds: CuSeqlens | None, device: torch.device
) -> tuple[Tensor, Tensor, Sequence[int], Sequence[int]]:
    """Each token's sequence [B, T] and place in it [B, T]; each sequence's start and length."""
    if bounds is None:
        row = torch.arange(batch, device=device)[:, None].expand(-1, tokens)
        place = torch.arange(tokens, device=device).expand(batch, -1)
        return row, place, [n * tokens for n in range(batch)], [tokens] * batch
    starts, lengths = bounds.tensor[:-1], bounds.tensor.diff()
    count = torch.arange(len(bounds), device=device)
    row = count.repeat_interleave(lengths, output_size=tokens)[None]
    place = torch.arange(tokens, device=device)[None] - starts[row]
    return row, place, bounds.ends[:-1], bounds.lengths


def _at_age(x: Tensor, tail: Tensor, row: Tensor, place: Tensor, age: int, width: int) -> Tensor:
    """``x`` as it was ``age`` tokens ago: from this call, or from the tail before it."""
    batch, tokens = x.shape[:2]
    flat = torch.cat([x.flatten(0, 1), tail.flatten(0, 1)])
    here = torch.arange(batch * tokens, device=x.device).reshape(batch, tokens)
    before = batch * tokens + row * (width - 1) + (width - 1) + place - age
    return flat[torch.where(place >= age, here - age, before)]


def _last(
    x: Tensor, tail: Tensor, starts: Sequence[int], lengths: Sequence[int], width: int
) -> Tensor:
    """The last width - 1 tokens of each sequence, [N, width - 1, H, *axes]."""
    flat = x.flatten(0, 1)
    rows = []
    for n, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        joined = torch.cat([tail[n], flat[start : start + length]])
        rows.append(joined[len(joined) - (width - 1) :])
    return torch.stack(rows)
