"""Where each token lies when sequences are cut into chunks.

A sequence may start in the middle of a block (its state says where) and end anywhere; packed sequences
lie one after the other in time.  All of them become rows of [chunks, rows, chunk], padded in front up
to the start of their block and behind up to whole chunks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Layout:
    """The cut of one call.

    index    [sequences, chunks * chunk], the token that lies there; None when tokens lie there in
             order without padding.  A place of padding has a token of its own sequence
    inside   [sequences, chunks * chunk], whether a place is no padding; None like ``index``
    lengths  [sequences], tokens of each
    offsets  [sequences], empty places in front of each
    """

    batch: int
    tokens: int
    heads: int
    chunk: int
    chunks: int
    index: Tensor | None
    inside: Tensor | None
    back: Tensor | None
    lengths: Tensor
    offsets: Tensor
    device: torch.device

    @property
    def sequences(self) -> int:
        """How many rows the states have."""
        return len(self.lengths)

    def chunked(self, x: Tensor, blank: bool = False) -> Tensor:
        """[B, T, H, *axes] -> [chunks, sequences * H, chunk, *axes].

        Padding repeats a real token, so that whatever a formula does with a token it can do there
        (divide by it, say); ``valid`` is what keeps it out of the memory.  ``blank``: it is 0, as the
        logarithm of a decay must be.
        """
        if self.index is None or self.inside is None:
            rows = x
        else:
            rows = x.flatten(0, 1)[self.index]
            real = self.inside.reshape(*self.inside.shape, *[1] * (rows.dim() - 2))
            rows = torch.where(real, rows, torch.zeros_like(rows) if blank else rows.detach())
        cut = rows.unflatten(1, (self.chunks, self.chunk)).transpose(0, 1).transpose(2, 3)
        return cut.flatten(1, 2).contiguous()

    def gather_back(self, x: Tensor) -> Tensor:
        """[chunks, sequences * H, chunk, *axes] -> [B, T, H, *axes]."""
        rows = x.unflatten(1, (-1, self.heads)).transpose(2, 3).transpose(0, 1).flatten(1, 2)
        if self.back is None:
            return rows
        return rows.flatten(0, 1)[self.back].unflatten(0, (self.batch, self.tokens))

    def place(self) -> Tensor:
        """[sequences, chunks * chunk]: how many tokens after the start of its first block a place is."""
        return torch.arange(self.chunks * self.chunk, device=self.device).expand(self.sequences, -1)

    def valid(self, dtype: torch.dtype) -> Tensor:
        """[chunks, sequences * H, chunk]: 1 for a token, 0 for padding."""
        there = torch.ones(self.place().shape, device=self.device, dtype=dtype)
        if self.inside is not None:
            there = self.inside.to(dtype)
        return self._per_head(there)

    def positions(self, block: int, micro: int, dtype: torch.dtype) -> Tensor:
        """[chunks, sequences * H, chunk]: the token's position in its block, from 1."""
        place = self.place() // micro
        return self._per_head((place % block if block else place).to(dtype) + 1)

    def by_position(self, x: Tensor, block: int, micro: int) -> Tensor:
        """[H, block] -> [chunks, sequences * H, chunk]: each token its own position's entry."""
        place = self.place() // micro % block
        picked = x[:, place].permute(1, 2, 0)
        return picked.unflatten(1, (self.chunks, self.chunk)).permute(1, 0, 3, 2).flatten(1, 2)

    def _per_head(self, x: Tensor) -> Tensor:
        cut = x.unflatten(1, (self.chunks, self.chunk)).transpose(0, 1)
        return cut.repeat_interleave(self.heads, 1).contiguous()

    def begins(self, n: int) -> Tensor | bool:
        """Which rows begin a block with chunk n: all, none, or [sequences * H] flags."""
        flags = (self.offsets + self.lengths > n * self.chunk) & (self.lengths > 0)
        if n == 0:
            flags = flags & (self.offsets == 0)
        if bool(flags.all()):
            return True
        return flags.repeat_interleave(self.heads) if bool(flags.any()) else False

    def ends(self, n: int) -> Tensor | bool:
        """Which rows end a block with chunk n: all, none, or [sequences * H] flags."""
        flags = (self.offsets + self.lengths >= (n + 1) * self.chunk) & (self.lengths > 0)
        if bool(flags.all()):
            return True
        return flags.repeat_interleave(self.heads) if bool(flags.any()) else False


def chunk_layout(
    batch: int,
    tokens: int,
    heads: int,
    chunk: int,
    offsets: Tensor | None,
    cu_seqlens: Tensor | None,
    micro: int,
    device: torch.device,
) -> Layout:
    """Cut ``tokens`` (steps, if a token takes several) into chunks.

    Raises ValueError when ``cu_seqlens`` does not describe the tokens.
    """
    if cu_seqlens is None:
        starts = torch.arange(batch, device=device) * tokens
        lengths = torch.full((batch,), tokens, device=device)
    else:
        bounds = cu_seqlens.to(device=device, dtype=torch.int64) * micro
        if batch != 1 or bounds.dim() != 1 or len(bounds) < 2:
            raise ValueError(
                "packed sequences lie in one batch row: x [1, T, …] and cu_seqlens [N + 1]"
            )
        lengths = bounds.diff()
        if int(bounds[0]) != 0 or int(bounds[-1]) != tokens or bool((lengths < 0).any()):
            raise ValueError(
                f"cu_seqlens must rise from 0 to {tokens // micro}, the number of tokens"
            )
        starts = bounds[:-1]
    pads = torch.zeros_like(lengths) if offsets is None else offsets.to(device)
    ends = pads + lengths
    longest = int(ends.max()) if bool((lengths > 0).any()) else 0
    chunks = -(-longest // chunk)
    if chunks == 0:
        return Layout(batch, tokens, heads, chunk, 0, None, None, None, lengths, pads, device)
    total = chunks * chunk
    if cu_seqlens is None and longest == tokens == total and not bool(pads.any()):
        return Layout(batch, tokens, heads, chunk, chunks, None, None, None, lengths, pads, device)
    place = torch.arange(total, device=device)
    inside = (place >= pads[:, None]) & (place < ends[:, None])
    # An empty sequence has no token of its own; the last one of all will do.
    own = starts.clamp(max=batch * tokens - 1)[:, None]
    index = torch.where(inside, starts[:, None] + place - pads[:, None], own)
    back = torch.empty(batch * tokens, dtype=torch.int64, device=device)
    back[index[inside]] = torch.arange(len(lengths) * total, device=device).reshape(
        len(lengths), total
    )[inside]
    return Layout(batch, tokens, heads, chunk, chunks, index, inside, back, lengths, pads, device)
