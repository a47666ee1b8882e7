"""Runs a generated memory over a sequence: in kernels, in chunks or token by token.

A generated file has the arithmetic of a memory as plain functions, and a `MemoryTable` that says what
they take and return.  Nothing here is about a particular memory.  A call goes to the memory's kernels if
it has any and they can run here.  Else its tokens are cut into chunks (`chunk_layout`) and the chunk
program runs over them (`chunk_scan`); the backward pass runs the derived adjoint over the same chunks in
reverse, from the states that the forward pass has saved.  A rule without a chunk form runs token by token.
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
    inputs: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    cu_seqlens: Packed = None,
    *,
    kernels: Recurrence | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """A memory over a sequence: y [B, T, H, *answer] and the state after it.

    inputs      tokens and gates [B, T, H, *axes], constants [H, *axes], positions [H, block]
    state       [B, H, *axes] by name, and `position` [B] for rules with blocks
    cu_seqlens  [N + 1] bounds of packed sequences; then B = 1 and states have N rows
    kernels     the memory's Triton kernels; used where `recurrent.should_use` says so

    Computes in float32 whatever the type of the inputs, under autocast too; in float64, and then never
    in kernels, if an input or a state is float64.  Raises ValueError for tensors that do not fit each
    other, and in debug mode `finite_checks.NotFinite` for numbers that are not finite.
    """
    call = validate(memory, inputs, state, cu_seqlens)
    return _run(call, kernels, tokenwise=memory.forward is None)


def run_token(
    memory: MemoryTable, inputs: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """A memory over one token: the inputs and the answer of `run` without the axis T."""
    timed = {f.name for f in memory.inputs if f.kind in ("token", "gate")}
    longer = {name: x.unsqueeze(1) if name in timed else x for name, x in inputs.items()}
    y, new = _run(validate(memory, longer, state, None), None, tokenwise=True)
    return y.squeeze(1), new


def _run(
    call: MemoryCall, kernels: Recurrence | None, tokenwise: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute a call in kernels, token by token or in chunks."""
    # Autocast would round states and products that the plan keeps in float32 or float64.
    with torch.autocast(call.device.type, enabled=False):
        if call.empty:
            y, after = call.empty_result()
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
    """The answers and the state after a call that is not empty, by the chunk program."""
    prepared = prepare(call)
    tensors = [*prepared.inputs.values(), *prepared.states.values()]
    y, *last = _Chunked.apply(call.memory, prepared.context, tuple(prepared.inputs), *tensors)
    rows = zip(call.memory.states, last, strict=True)
    new = {s.name: x.unflatten(0, (-1, call.heads)) for s, x in rows}
    return prepared.answer(y), {**call.state, **new, **prepared.tails, **position_after(call)}


@dataclass(frozen=True, slots=True)
class ChunkedInputs:
    """The tensors of a call, laid out in chunks; rows are sequences times heads.

    inputs  [chunks, rows, chunk, *axes] by name, constants [1, rows, *axes]
    states  [rows, *axes] by name
    tails   the state of the window after the call
    """

    call: MemoryCall
    context: ScanContext
    inputs: dict[str, Tensor]
    states: dict[str, Tensor]
    tails: dict[str, Tensor]

    def answer(self, y: Tensor) -> Tensor:
        """[chunks, rows, chunk, *axes], one for each step -> [B, T, H, *axes], one for each token."""
        flat, memory = self.context.layout.gather_back(y), self.call.memory
        return flat[:, memory.read_at :: memory.steps_per_token].to(self.call.out)


def prepare(call: MemoryCall) -> ChunkedInputs:
    """A call's tensors in chunks, with one entry for each step of a token."""
    memory, repeats = call.memory, call.memory.steps_per_token
    steps, chunk = call.tokens * repeats, chunk_for(memory, call.tokens * repeats)
    lengths = tuple(length * repeats for length in call.lengths)
    offsets = (0,) * len(lengths)
    if memory.block:
        offsets = tuple(place * repeats for place in call.state["position"].tolist())
    layout = chunk_layout(call.batch, steps, call.heads, chunk, lengths, offsets, call.device)
    of_steps, tails = per_token(call, exact=True)
    logs = {given.name for given in memory.inputs if given.log}
    laid = {name: layout.chunked(x, blank=name in logs) for name, x in of_steps.items()}
    for name, x in call.constants().items():
        laid[name] = x.repeat(layout.sequences, *[1] * (x.dim() - 1)).unsqueeze(0)
    laid["valid"] = layout.valid(call.dtype)
    laid["position"] = layout.positions(memory.block, repeats, call.dtype)
    states = {name: x.flatten(0, 1) for name, x in call.carried().items()}
    context = ScanContext(layout, call.size(**dict.fromkeys("ijlm", chunk)))
    return ChunkedInputs(call, context, laid, states, tails)


def chunk_for(memory: MemoryTable, steps: int) -> int:
    """Steps of a chunk: with blocks those of a block, else fewer (a power of 2) for short sequences."""
    if memory.block:
        return memory.chunk
    return min(memory.chunk, max(16, 1 << max(0, steps - 1).bit_length()))


class _Chunked(torch.autograd.Function):
    """The chunk program over all chunks, and its adjoint as the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        memory: MemoryTable,
        context: ScanContext,
        names: tuple[str, ...],
        *tensors: Tensor,
    ) -> Any:
        count = len(names)
        values: Values = dict(zip(names, tensors[:count], strict=True))
        states = {s.name: x for s, x in zip(memory.states, tensors[count:], strict=True)}
        assert memory.forward is not None
        scan = scan_chunks(memory, memory.forward, values, states, context, False)
        saved = {s.argument: scan.entries[s.name] for s in memory.states}
        saved |= {
            f"open_{s.argument}": scan.before_block_end[s.name]
            for s in memory.states
            if scan.before_block_end
        }
        ctx.memory, ctx.context, ctx.names, ctx.saved_names = memory, context, names, tuple(saved)
        ctx.save_for_backward(*tensors[:count], *saved.values())
        return (scan.results["y"], *(scan.last[s.name] for s in memory.states))

    @staticmethod
    def backward(ctx: Any, d_y: Tensor, *d_states: Tensor) -> Any:
        memory, names, saved = ctx.memory, ctx.names, ctx.saved_tensors
        with torch.no_grad():
            values: Values = dict(zip((*names, *ctx.saved_names), saved, strict=True))
            carried = {f"d_{s.name}": d for s, d in zip(memory.states, d_states, strict=True)}
            given = {**values, "d_y": d_y}
            scan = scan_chunks(memory, memory.backward, given, carried, ctx.context, True)
            grads = [_total(scan, name, values[name]) for name in names]
            grads += [scan.last[f"d_{s.name}"] for s in memory.states]
        return (None, None, None, *forbid_double_backward(grads, (*saved, d_y, *d_states)))


def _total(scan: ScanResult, name: str, like: Tensor) -> Tensor | None:
    """The gradient of an input, shaped ``like`` it: that of all chunks, plus those at block edges.

    A constant sums over chunks.  None if nothing depends on the input.
    """
    found = scan.results.get(f"d_{name}")
    edges = [(n, at, given[f"d_{name}"]) for n, at, given in scan.edges if f"d_{name}" in given]
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
