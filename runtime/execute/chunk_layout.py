"""How sequences are cut into chunks: [B, T, H, …] <-> [chunks, N * H, chunk, …].

N is the number of sequences; packed ones lie one after the other in one row.  A sequence may start in
the middle of a block (its state says where) and end anywhere, so each is padded: before it, from the
start of its block, and after it, up to whole chunks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class ChunkLayout:
    """The chunks of one call.  A token that takes several steps counts as several tokens here.

    index    [N, chunks * chunk], the token (in B * T) at each place; at padding, some token of the
             sequence.  None if there is no padding and all is in order
    inside   [N, chunks * chunk], False at padding; None like ``index``
    back     [B * T], the place (in N * chunks * chunk) of each token; None like ``index``
    lengths  tokens of each sequence
    offsets  places of padding before each sequence
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
        """The number of sequences N; states have N * H rows."""
        return len(self.lengths)

    def chunked(self, x: Tensor, blank: bool = False) -> Tensor:
        """[B, T, H, *axes] -> [chunks, N * H, chunk, *axes].

        Padding repeats a token, so that formulas which divide by one, say, stay finite there; the
        input ``valid`` keeps it out of the memory.

        blank  padding is 0 instead, as it must be for the logarithm of a decay
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
        """[chunks, N * H, chunk, *axes] -> [B, T, H, *axes], without padding."""
        rows = x.unflatten(1, (-1, self.heads)).transpose(2, 3).transpose(0, 1).flatten(1, 2)
        if self.back is None:
            return rows
        return rows.flatten(0, 1)[self.back].unflatten(0, (self.batch, self.tokens))

    def place(self) -> Tensor:
        """[N, chunks * chunk]: the number of a place, from 0 at the start of the sequence's first block."""
        return torch.arange(self.chunks * self.chunk, device=self.device).expand(self.sequences, -1)

    def valid(self, dtype: torch.dtype) -> Tensor:
        """[chunks, N * H, chunk]: 1 for a token, 0 for padding."""
        there = torch.ones(self.place().shape, device=self.device, dtype=dtype)
        if self.inside is not None:
            there = self.inside.to(dtype)
        return self._per_head(there)

    def positions(self, block: int, steps: int, dtype: torch.dtype) -> Tensor:
        """[chunks, N * H, chunk]: the position in its block, from 1, of a token of so many steps."""
        place = self.place() // steps
        return self._per_head((place % block if block else place).to(dtype) + 1)

    def _per_head(self, x: Tensor) -> Tensor:
        cut = x.unflatten(1, (self.chunks, self.chunk)).transpose(0, 1)
        return cut.repeat_interleave(self.heads, 1).contiguous()

    def begins(self, n: int) -> Tensor | bool:
        """Which rows begin a block with chunk n: all, none, or [N * H] flags."""
        return self._flags(
            length > 0 and pad + length > n * self.chunk and (n > 0 or pad == 0)
            for length, pad in zip(self.lengths, self.offsets, strict=True)
        )

    def ends(self, n: int) -> Tensor | bool:
        """Which rows end a block with chunk n: all, none, or [N * H] flags."""
        return self._flags(
            length > 0 and pad + length >= (n + 1) * self.chunk
            for length, pad in zip(self.lengths, self.offsets, strict=True)
        )

    def _flags(self, sequences: Iterable[bool]) -> Tensor | bool:
        """One flag for each sequence -> one for each row; decided on the CPU, without waiting for a GPU."""
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
