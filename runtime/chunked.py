"""Walks a generated memory over a sequence: chunks, packed sequences, states, gradients.

A generated file holds the arithmetic of a memory as plain functions and a `Memory` table that says
what passes between them.  This file knows no memory: it lays tokens out in chunks, runs what is
parallel at once and what is sequential chunk after chunk, keeps the states that the reverse walk needs,
and walks back through the derived adjoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import debug
from .layout import Layout, chunk_layout
from .memory import Feed, Memory, Part, State, Turn, Values, Walk
from .tiles import Size
from .walk import Walked, walk
from .window import aged


def run(
    memory: Memory,
    feeds: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """A memory over a sequence: y [B, T, H, *answer] and the state after it.

    feeds       tokens and gates [B, T, H, *axes], constants [H, *axes], positions [H, block]
    state       [B, H, *axes] by name, and `position` [B] for rules with blocks
    cu_seqlens  [N + 1] bounds of packed sequences; then B = 1 and states have N rows

    Computes in float32 (float64 if any input is), whatever the inputs are and under autocast too.
    Raises ValueError for inputs whose shapes do not fit, in debug mode `debug.NotFinite` for numbers
    that are not finite.
    """
    with whole_precision(feeds):
        y, after = _run(memory, feeds, state, cu_seqlens)
    if debug.on():
        debug.require_finite(memory, feeds, state, cu_seqlens, y, after)
    return y, after


def whole_precision(feeds: Mapping[str, Tensor]) -> torch.autocast:
    """No autocast inside a memory: its states and products are as precise as it says."""
    return torch.autocast(next(iter(feeds.values())).device.type, enabled=False)


def _run(
    memory: Memory,
    feeds: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    from .stepwise import run_stepwise

    if memory.forward is None:
        return run_stepwise(memory, feeds, state, cu_seqlens)
    prepared = prepare(memory, feeds, state, cu_seqlens)
    if prepared.layout.chunks == 0:
        return prepared.empty_answer(), dict(state)
    names = [f.name for f in memory.feeds if f.kind != "position"] + prepared.extra
    tensors = [prepared.feeds[name] for name in names]
    states = [prepared.state[s.name] for s in memory.states]
    y, *last = _Chunked.apply(memory, prepared, tuple(names), *tensors, *states)
    new = {s.name: prepared.from_rows(x) for s, x in zip(memory.states, last, strict=True)}
    return prepared.answer(y), prepared.finish(new, state)


def run_token(
    memory: Memory, feeds: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """One token: the same inputs without the axis T."""
    from .stepwise import run_stepwise

    longer = {
        f.name: x.unsqueeze(1) if f.kind in ("token", "gate") else x
        for f, x in paired(memory, feeds)
    }
    with whole_precision(feeds):
        y, new = run_stepwise(memory, longer, state, None)
    if debug.on():
        debug.require_finite(memory, longer, state, None, y, new)
    return y.squeeze(1), new


def paired(memory: Memory, feeds: Mapping[str, Tensor]) -> list[tuple[Feed, Tensor]]:
    """Every feed with its tensor."""
    return [(feed, feeds[feed.name]) for feed in memory.feeds]


@dataclass(slots=True)
class Prepared:
    """Inputs of one call in the layout of chunks: [chunks, rows, chunk, *axes]; states [rows, *axes]."""

    memory: Memory
    layout: Layout
    feeds: dict[str, Tensor]
    extra: list[str]
    state: dict[str, Tensor]
    tails: dict[str, Tensor]
    size: Size
    dtype: torch.dtype
    out: torch.dtype

    def answer(self, y: Tensor) -> Tensor:
        """[chunks, rows, chunk, *axes] -> [B, T, H, *axes], one per token."""
        flat = self.layout.gather_back(y)
        micro = self.memory.micro
        return (flat[:, self.memory.read_at :: micro] if micro > 1 else flat).to(self.out)

    def empty_answer(self) -> Tensor:
        """The answer to no tokens."""
        sizes = [self.size[axis] for axis in self.memory.answer]
        b, t, h = self.layout.batch, self.layout.tokens // self.memory.micro, self.layout.heads
        return torch.zeros(b, t, h, *sizes, dtype=self.out, device=self.layout.device)

    def from_rows(self, x: Tensor) -> Tensor:
        """[rows * heads, *axes] -> [rows, heads, *axes]."""
        return x.unflatten(0, (-1, self.layout.heads))

    def finish(self, new: dict[str, Tensor], old: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dictionary after the call: new tensors, the position moved on."""
        result = {**old, **new, **self.tails}
        if self.memory.block:
            moved = old["position"] + self.layout.lengths // self.memory.micro
            result["position"] = moved % (self.memory.block // self.memory.micro)
        return result


def prepare(
    memory: Memory,
    feeds: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    cu_seqlens: Tensor | None,
) -> Prepared:
    """Check shapes, choose the type, expand tokens with several steps, lay everything out."""
    lead = next(feeds[f.name] for f in memory.feeds if f.kind in ("token", "gate"))
    batch, tokens, heads = lead.shape[:3]
    kinds = [x.dtype for x in (*feeds.values(), *(state[s.name] for s in memory.states))]
    dtype = torch.float64 if torch.float64 in kinds else torch.float32
    offsets = state["position"] * memory.micro if memory.block else None
    chunk = chunk_for(memory, tokens * memory.micro)
    layout = chunk_layout(
        batch,
        tokens * memory.micro,
        heads,
        chunk,
        offsets,
        cu_seqlens,
        memory.micro,
        lead.device,
    )
    size = Size(dict.fromkeys("ijlm", chunk), dtype, lead.device)
    laid: dict[str, Tensor] = {}
    extra = [memory.valid]
    for feed, x in paired(memory, feeds):
        x = x.to(torch.float64 if feed.log else dtype)
        match feed.kind:
            case "token" | "gate":
                if x.shape[:3] != (batch, tokens, heads):
                    raise ValueError(
                        f"{memory.name}: {feed.name} is {tuple(x.shape)}, not [{batch}, {tokens}, {heads}, …]"
                    )
                laid[feed.name] = layout.chunked(micro_steps(memory, feed, x), blank=feed.log)
                size |= dict(
                    zip(feed.axes, x.shape[3 + (x.dim() - 3 - len(feed.axes)) :], strict=True)
                )
            case "constant":
                size |= dict(zip(feed.axes, x.shape[1:], strict=True))
                laid[feed.name] = x.repeat(layout.sequences, *[1] * (x.dim() - 1)).unsqueeze(0)
            case "position":
                placed = layout.by_position(x, memory.block // memory.micro, memory.micro)
                laid[feed.name] = placed * layout.valid(x.dtype) if feed.log else placed
    past, tails = window_of(memory, feeds, state, dtype, cu_seqlens)
    laid |= {name: layout.chunked(x) for name, x in past.items()}
    extra += past
    laid[memory.valid] = layout.valid(dtype)
    extra += [f.name for f in memory.feeds if f.kind == "position"]
    laid["position"] = layout.positions(
        memory.block // memory.micro if memory.block else 0, memory.micro, dtype
    )
    extra.append("position")
    rows: dict[str, Tensor] = {}
    for s in memory.states:
        value = state[s.name].to(dtype)
        if value.shape[:2] != (layout.sequences, heads):
            raise ValueError(
                f"{memory.name}: state {s.name} is {tuple(value.shape)}, not [{layout.sequences}, {heads}, …]"
            )
        size |= dict(zip(s.axes, value.shape[2:], strict=True))
        rows[s.name] = value.flatten(0, 1)
    return Prepared(memory, layout, laid, extra, rows, tails, size, dtype, lead.dtype)


def chunk_for(memory: Memory, steps: int) -> int:
    """Steps of a chunk: a block is what it is, else a short sequence needs no long chunk."""
    if memory.block:
        return memory.chunk
    return min(memory.chunk, max(16, 1 << max(0, steps - 1).bit_length()))


def window_of(
    memory: Memory,
    feeds: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    dtype: torch.dtype,
    cu_seqlens: Tensor | None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inputs of earlier tokens [B, T, H, *axes], and the tails of the state after the call."""
    if not memory.window:
        return {}, {}
    leaves = {name: feeds[name].to(dtype) for name in memory.tails}
    before = {name: state[f"window.{name}"] for name in memory.tails}
    past, kept = aged(leaves, before, memory.window, cu_seqlens)
    return past, {f"window.{name}": tail for name, tail in kept.items()}


def micro_steps(memory: Memory, feed: Feed, x: Tensor) -> Tensor:
    """[B, T, H, (pair,) *axes] -> [B, T * micro, H, *axes]: the steps of a token one after the other."""
    if memory.micro == 1:
        return x
    if x.dim() - 3 > len(feed.axes):
        return x.movedim(3, 2).flatten(1, 2)
    if feed.name in memory.once:
        blank = torch.zeros_like(x)
        steps = [x if n == memory.decay_at else blank for n in range(memory.micro)]
        return torch.stack(steps, 2).flatten(1, 2)
    return x.repeat_interleave(memory.micro, 1)


class _Chunked(torch.autograd.Function):
    """The walk forwards and the derived walk backwards."""

    @staticmethod
    def forward(
        ctx: Any, memory: Memory, call: Prepared, names: tuple[str, ...], *tensors: Tensor
    ) -> Any:
        count = len(names)
        values: Values = dict(zip(names, tensors[:count], strict=True))
        states = {s.name: x for s, x in zip(memory.states, tensors[count:], strict=True)}
        assert memory.forward is not None
        walked = walk(memory, memory.forward, values, states, call, False)
        saved = {s.word: walked.entries[s.name] for s in memory.states}
        saved |= {f"open_{s.word}": walked.opened[s.name] for s in memory.states if walked.opened}
        ctx.memory, ctx.call, ctx.names, ctx.words = memory, call, names, tuple(saved)
        ctx.save_for_backward(*tensors[:count], *saved.values())
        return (walked.results["y"], *(walked.last[s.name] for s in memory.states))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_y: Tensor, *d_states: Tensor) -> Any:
        memory, names = ctx.memory, ctx.names
        values: Values = dict(zip((*names, *ctx.words), ctx.saved_tensors, strict=True))
        carried = {f"d_{s.name}": d for s, d in zip(memory.states, d_states, strict=True)}
        walked = walk(memory, memory.backward, {**values, "d_y": d_y}, carried, ctx.call, True)
        grads = [_total(walked, name, values[name]) for name in names]
        return (None, None, None, *grads, *(walked.last[f"d_{s.name}"] for s in memory.states))


def _total(walked: Walked, name: str, like: Tensor) -> Tensor | None:
    """The gradient of an input: its chunks, and its share at the edges of blocks."""
    found = walked.results.get(f"d_{name}")
    edges = [(n, at, gates[f"d_{name}"]) for n, at, gates in walked.edges if f"d_{name}" in gates]
    if not isinstance(found, Tensor):
        if not edges:
            return None
        found = torch.zeros_like(like)
    if found.shape[0] != like.shape[0]:
        return found.sum(0, keepdim=True).expand(like.shape)
    if edges:
        found = found.expand(like.shape).clone()
        for n, at, share in edges:
            found[n, :, at] += share
    return found.expand(like.shape)


__all__ = ["Feed", "Memory", "Part", "State", "Turn", "Walk", "run", "run_token"]
