"""Where each token lies when sequences are cut into chunks.

A sequence may start in the middle of a block (its state says where) and end anywhere; packed sequences
lie one after the other in time.  All of them become rows of [chunks, rows, chunk], padded in front up
to the start of their block and behind up to whole chunks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class ChunkLayout:
    """The cut of one call.

    index    [sequences, chunks * chunk], the token that lies there; None when tokens lie there in
             order without padding.  A place of padding has a token of its own sequence
    inside   [sequences, chunks * chunk], whether a place is no padding; None like ``index``
    lengths  tokens (steps) of each sequence
    offsets  empty places in front of each
    """

    batch: int
    tokens: int
    heads: int
    chunk: int
    chunks: int
    index: Tensor | None
    inside: Tensor | None
    back: Tensor | None
    lengths: tuple[int, ...]
    offsets: tuple[int, ...]
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

    def _per_head(self, x: Tensor) -> Tensor:
        cut = x.unflatten(1, (self.chunks, self.chunk)).transpose(0, 1)
        return cut.repeat_interleave(self.heads, 1).contiguous()

    def begins(self, n: int) -> Tensor | bool:
        """Which rows begin a block with chunk n: all, none, or [sequences * H] flags."""
        return self._flags(
            length > 0 and pad + length > n * self.chunk and (n > 0 or pad == 0)
            for length, pad in zip(self.lengths, self.offsets, strict=True)
        )

    def ends(self, n: int) -> Tensor | bool:
        """Which rows end a block with chunk n: all, none, or [sequences * H] flags."""
        return self._flags(
            length > 0 and pad + length >= (n + 1) * self.chunk
            for length, pad in zip(self.lengths, self.offsets, strict=True)
        )

    def _flags(self, sequences: Iterable[bool]) -> Tensor | bool:
        """For each row of heads; decided on the CPU, so that a GPU need not be waited for."""
        flags = list(sequences)
        if all(flags) or not any(flags):
            return flags[0]
        return torch.tensor(flags, device=self.device).repeat_interleave(self.heads)


def chunk_layout(
    batch: int,
    tokens: int,
    heads: int,
    chunk: int,
    lengths: tuple[int, ...],
    offsets: tuple[int, ...],
    device: torch.device,
) -> ChunkLayout:
    """Cut sequences of so many tokens (steps, if a token takes several) into chunks.

    batch, tokens  of the tensors, [batch, tokens, heads]; offsets: places before each sequence
    """
    ends = [pad + length for pad, length in zip(offsets, lengths, strict=True)]
    longest = max(end for end, length in zip(ends, lengths, strict=True) if length)
    chunks = -(-longest // chunk)
    total = chunks * chunk
    index = inside = back = None
    if len(lengths) != batch or any(offsets) or total != tokens:
        pads, stops = (torch.tensor(x, device=device)[:, None] for x in (offsets, ends))
        starts = torch.tensor([0, *accumulate(lengths)][:-1], device=device)[:, None]
        place = torch.arange(total, device=device)
        inside = (place >= pads) & (place < stops)
        # An empty sequence has no token of its own; the last one of all will do.
        own = starts.clamp(max=batch * tokens - 1)
        index = torch.where(inside, starts + place - pads, own)
        back = torch.empty(batch * tokens, dtype=torch.int64, device=device)
        everywhere = torch.arange(len(lengths) * total, device=device).unflatten(0, (-1, total))
        back[index[inside]] = everywhere[inside]
    return ChunkLayout(
        batch, tokens, heads, chunk, chunks, index, inside, back, lengths, offsets, device
    )
