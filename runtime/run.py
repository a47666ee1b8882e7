"""Runs a generated memory over a sequence: chunks, packed sequences, states, gradients.

A generated file holds the arithmetic of a memory as plain functions and a `Memory` table that says
what passes between them.  This file knows no memory: it sends a call to the kernels if there are any
for it; else it lays tokens out in chunks, runs what is parallel at once and what is sequential chunk
after chunk, keeps the states that the reverse walk needs, and walks back through the derived adjoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from miras_dsl.runtime.execute.call import MemoryCall, per_token, position_after, validate
from miras_dsl.runtime.execute.chunk_layout import chunk_layout
from miras_dsl.runtime.execute.chunk_scan import ScanContext, ScanResult, scan_chunks
from miras_dsl.runtime.execute.first_order_only import forbid_double_backward
from miras_dsl.runtime.execute.packed import Packed
from miras_dsl.runtime.execute.program_table import (
    BlockEdge,
    MemoryInput,
    MemoryTable,
    Region,
    ScanProgram,
    StateTensor,
    Values,
    returns,
)
from miras_dsl.runtime.execute.spoiled_tokens import run_without_spoiled
from miras_dsl.runtime.kernels.launch_config import Recurrence

from . import finite_checks
from .execute import token_loop
from .kernels import recurrent


def run(
    memory: MemoryTable,
    feeds: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    cu_seqlens: Packed = None,
    *,
    kernels: Recurrence | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """A memory over a sequence: y [B, T, H, *answer] and the state after it.

    feeds       tokens and gates [B, T, H, *axes], constants [H, *axes], positions [H, block]
    state       [B, H, *axes] by name, and `position` [B] for rules with blocks
    cu_seqlens  [N + 1] bounds of packed sequences; then B = 1 and states have N rows
    kernels     the memory's Triton kernels, which take the calls that `recurrent.wanted` names

    Computes in float32 (float64, and then never in the kernels, if any input is), whatever the inputs
    are and under autocast too.  Raises ValueError for inputs that do not fit each other, in debug mode
    `finite_checks.NotFinite` for numbers that are not finite.
    """
    call = validate(memory, feeds, state, cu_seqlens)
    return _run(call, kernels, tokenwise=memory.forward is None)


def run_token(
    memory: MemoryTable, feeds: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """One token: the same inputs without the axis T."""
    timed = {f.name for f in memory.inputs if f.kind in ("token", "gate")}
    longer = {name: x.unsqueeze(1) if name in timed else x for name, x in feeds.items()}
    y, new = _run(validate(memory, longer, state, None), None, tokenwise=True)
    return y.squeeze(1), new


def _run(
    call: MemoryCall, kernels: Recurrence | None, tokenwise: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """A call by the one of the three ways that is meant for it."""
    # No autocast inside a memory: its states and products are as precise as it says.
    with torch.autocast(call.device.type, enabled=False):
        if call.empty:
            y, after = call.unanswered()
        elif kernels is not None and recurrent.should_use(call):
            y, after = recurrent.recurrent(call, kernels)
        elif tokenwise:
            y, after = token_loop.run_token_loop(call)
        else:
            y, after = run_without_spoiled(call, run_chunked)
    if finite_checks.on():
        finite_checks.require_finite(call, y, after)
    return y, after


def run_chunked(call: MemoryCall) -> tuple[Tensor, dict[str, Tensor]]:
    prepared = prepare(call)
    tensors = [*prepared.inputs.values(), *prepared.states.values()]
    y, *last = _Chunked.apply(call.memory, prepared.ground, tuple(prepared.inputs), *tensors)
    rows = zip(call.memory.states, last, strict=True)
    new = {s.name: x.unflatten(0, (-1, call.heads)) for s, x in rows}
    return prepared.answer(y), {**call.state, **new, **prepared.tails, **position_after(call)}


@dataclass(frozen=True, slots=True)
class ChunkedInputs:
    """Inputs of one call in the layout of chunks: [chunks, rows, chunk, *axes]; states [rows, *axes]."""

    call: MemoryCall
    ground: ScanContext
    inputs: dict[str, Tensor]
    states: dict[str, Tensor]
    tails: dict[str, Tensor]

    def answer(self, y: Tensor) -> Tensor:
        """[chunks, rows, chunk, *axes] -> [B, T, H, *axes], one per token."""
        flat, memory = self.ground.layout.gather_back(y), self.call.memory
        return flat[:, memory.read_at :: memory.steps_per_token].to(self.call.out)


def prepare(call: MemoryCall) -> ChunkedInputs:
    """Expand tokens with several steps, lay everything out in chunks."""
    memory, micro = call.memory, call.memory.steps_per_token
    steps, chunk = call.tokens * micro, chunk_for(memory, call.tokens * micro)
    lengths = tuple(length * micro for length in call.lengths)
    offsets = (0,) * len(lengths)
    if memory.block:
        offsets = tuple(place * micro for place in call.state["position"].tolist())
    layout = chunk_layout(call.batch, steps, call.heads, chunk, lengths, offsets, call.device)
    moving, tails = per_token(call, exactly=True)
    logs = {feed.name for feed in memory.inputs if feed.log}
    laid = {name: layout.chunked(x, blank=name in logs) for name, x in moving.items()}
    for name, x in call.constants().items():
        laid[name] = x.repeat(layout.sequences, *[1] * (x.dim() - 1)).unsqueeze(0)
    laid["valid"] = layout.valid(call.dtype)
    laid["position"] = layout.positions(memory.block, micro, call.dtype)
    states = {name: x.flatten(0, 1) for name, x in call.carried().items()}
    ground = ScanContext(layout, call.size(**dict.fromkeys("ijlm", chunk)))
    return ChunkedInputs(call, ground, laid, states, tails)


def chunk_for(memory: MemoryTable, steps: int) -> int:
    """Steps of a chunk: a block is what it is, else a short sequence needs no long chunk."""
    if memory.block:
        return memory.chunk
    return min(memory.chunk, max(16, 1 << max(0, steps - 1).bit_length()))


class _Chunked(torch.autograd.Function):
    """The walk forwards and the derived walk backwards."""

    @staticmethod
    def forward(
        ctx: Any, memory: MemoryTable, ground: ScanContext, names: tuple[str, ...], *tensors: Tensor
    ) -> Any:
        count = len(names)
        values: Values = dict(zip(names, tensors[:count], strict=True))
        states = {s.name: x for s, x in zip(memory.states, tensors[count:], strict=True)}
        assert memory.forward is not None
        walked = scan_chunks(memory, memory.forward, values, states, ground, False)
        saved = {s.argument: walked.entries[s.name] for s in memory.states}
        saved |= {
            f"open_{s.argument}": walked.opened[s.name] for s in memory.states if walked.opened
        }
        ctx.memory, ctx.ground, ctx.names, ctx.words = memory, ground, names, tuple(saved)
        ctx.save_for_backward(*tensors[:count], *saved.values())
        return (walked.results["y"], *(walked.last[s.name] for s in memory.states))

    @staticmethod
    def backward(ctx: Any, d_y: Tensor, *d_states: Tensor) -> Any:
        memory, names, saved = ctx.memory, ctx.names, ctx.saved_tensors
        with torch.no_grad():
            values: Values = dict(zip((*names, *ctx.words), saved, strict=True))
            carried = {f"d_{s.name}": d for s, d in zip(memory.states, d_states, strict=True)}
            given = {**values, "d_y": d_y}
            walked = scan_chunks(memory, memory.backward, given, carried, ctx.ground, True)
            grads = [_total(walked, name, values[name]) for name in names]
            grads += [walked.last[f"d_{s.name}"] for s in memory.states]
        return (None, None, None, *forbid_double_backward(grads, (*saved, d_y, *d_states)))


def _total(walked: ScanResult, name: str, like: Tensor) -> Tensor | None:
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


__all__ = [
    "BlockEdge",
    "MemoryInput",
    "MemoryTable",
    "Region",
    "ScanProgram",
    "StateTensor",
    "returns",
    "run",
    "run_token",
]
