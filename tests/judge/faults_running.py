"""Faults of the runtime: chunk layout, scan over chunks, saved states, block edges, steps, operations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from miras_dsl.runtime.execute import call as call_module
from miras_dsl.runtime.execute import chunk_form, chunk_scan, token_loop
from miras_dsl.runtime.execute.chunk_form import ChunkedInputs
from miras_dsl.runtime.execute.chunk_layout import ChunkLayout
from miras_dsl.runtime.execute.chunk_scan import ScanResult
from miras_dsl.runtime.ops import tensor_ops
from tests.judge.faults import Patch, fault

# ------------------------------------------------------------ layout


@fault("momentum", "the tail is not masked: padding counts as tokens")
def _(patch: Patch) -> None:
    made = ChunkLayout.valid
    patch.setattr(ChunkLayout, "valid", lambda self, dtype: torch.ones_like(made(self, dtype)))


@fault("delta", "a packed sequence begins with the last token of the one before")
def _(patch: Patch) -> None:
    made = chunk_form.chunk_layout

    def leaking(*arguments: Any) -> ChunkLayout:
        found = made(*arguments)
        if found.index is None or found.sequences == found.batch:
            return found
        starts = torch.tensor(found.lengths).cumsum(0)[:-1]
        first = torch.isin(found.index, starts) & (found.index > 0)
        return replace(found, index=torch.where(first, found.index - 1, found.index))

    patch.setattr(chunk_form, "chunk_layout", leaking)


@fault("delta", "a packed sequence takes the state of its neighbour")
def _(patch: Patch) -> None:
    made = chunk_form.prepare

    def mixed(*arguments: Any) -> ChunkedInputs:
        found = made(*arguments)
        heads = found.call.heads
        return replace(found, states={n: x.roll(heads, 0) for n, x in found.states.items()})

    patch.setattr(chunk_form, "prepare", mixed)


@fault("sum", "answers come one token late")
def _(patch: Patch) -> None:
    made = ChunkLayout.gather_back
    patch.setattr(ChunkLayout, "gather_back", lambda self, x: made(self, x).roll(1, 1))


@fault("scaled", "positions in a block count from 2")
def _(patch: Patch) -> None:
    made = ChunkLayout.positions
    patch.setattr(ChunkLayout, "positions", lambda self, *rest: made(self, *rest) + 1)


@fault("scaled", "constants per position are off by one place")
def _(patch: Patch) -> None:
    made = call_module._block_positions
    patch.setattr(
        call_module, "_block_positions", lambda call: (made(call) + 1) % call.memory.block
    )


@fault("network", "the place in a block is forgotten between calls")
def _(patch: Patch) -> None:
    patch.setattr(chunk_form, "position_after", lambda call: {})


@fault("network", "a call that begins inside a block is laid out from its start")
def _(patch: Patch) -> None:
    made = chunk_form.chunk_layout

    def aligned(*arguments: Any) -> ChunkLayout:
        *given, lengths, _, device = arguments
        return made(*given, lengths, (0,) * len(lengths), device)

    patch.setattr(chunk_form, "chunk_layout", aligned)


# ------------------------------------------------------------ edges of blocks


@fault("network", "the anchor is refreshed one block late")
def _(patch: Patch) -> None:
    made = ChunkLayout.begins
    patch.setattr(ChunkLayout, "begins", lambda self, n: made(self, n) if n == 0 else n > 1)


@fault("network", "the anchor is never refreshed")
def _(patch: Patch) -> None:
    patch.setattr(ChunkLayout, "begins", lambda self, n: False)


@fault("network", "the reverse walk passes a refreshed anchor by")
def _(patch: Patch) -> None:
    patch.setattr(
        chunk_scan, "apply_block_edge_adjoint", lambda m, t, v, b, states, *rest: (states, {})
    )


@fault("scaled", "a block is not closed")
def _(patch: Patch) -> None:
    patch.setattr(ChunkLayout, "ends", lambda self, n: False)


@fault("scaled", "gradients of gates at the end of a block are lost")
def _(patch: Patch) -> None:
    made = chunk_form.scan_chunks

    def unedged(*arguments: Any) -> ScanResult:
        return replace(made(*arguments), edges=[])

    patch.setattr(chunk_form, "scan_chunks", unedged)


# ------------------------------------------------------------ the walk


@fault("delta", "states are saved one chunk late")
def _(patch: Patch) -> None:
    made = chunk_form.scan_chunks

    def late(
        memory: Any, program: Any, values: Any, states: Any, call: Any, reverse: bool
    ) -> ScanResult:
        found = made(memory, program, values, states, call, reverse)
        if reverse:
            return found
        return replace(found, entries={n: x.roll(1, 0) for n, x in found.entries.items()})

    patch.setattr(chunk_form, "scan_chunks", late)


@fault("delta", "the cotangent of the last state is ignored")
def _(patch: Patch) -> None:
    made = chunk_form.scan_chunks

    def deaf(
        memory: Any, program: Any, values: Any, states: Any, call: Any, reverse: bool
    ) -> ScanResult:
        given = {n: torch.zeros_like(x) if reverse else x for n, x in states.items()}
        return made(memory, program, values, given, call, reverse)

    patch.setattr(chunk_form, "scan_chunks", deaf)


@fault("network", "a constant learns from the first chunk only")
def _(patch: Patch) -> None:
    made: Any = chunk_form._total

    def first(scan: ScanResult, name: str, like: Tensor) -> Tensor | None:
        found = scan.results.get(f"d_{name}")
        if isinstance(found, Tensor) and found.shape[0] != like.shape[0]:
            return found[:1].expand(like.shape)
        return made(scan, name, like)

    patch.setattr(chunk_form, "_total", first)


@fault("pairs", "the decay acts on every step of a token")
def _(patch: Patch) -> None:
    made = call_module.expand_steps
    patch.setattr(
        call_module,
        "expand_steps",
        lambda memory, *rest: made(replace(memory, once_per_token=()), *rest),
    )


@fault("pairs", "the answer is taken after the first of a token's steps")
def _(patch: Patch) -> None:
    def early(self: ChunkedInputs, y: Tensor) -> Tensor:
        call = self.call
        return self.context.layout.gather_back(y)[:, :: call.memory.steps_per_token].to(call.out)

    patch.setattr(ChunkedInputs, "answer", early)


# ------------------------------------------------------------ tiles


@fault("sum", "the decay is not masked: tokens see the future")
def _(patch: Patch) -> None:
    patch.setattr(
        tensor_ops, "masked_decay", lambda exponent, *rest: torch.exp(exponent.clamp(max=20))
    )


@fault("delta", "the inverse is cut off after its first term")
def _(patch: Patch) -> None:
    def short(a: Tensor) -> Tensor:
        return torch.eye(a.shape[-1], dtype=a.dtype) - a.tril(-1)

    patch.setattr(tensor_ops, "unit_lower_inverse", short)


@fault("rows", "a gated sum is applied transposed")
def _(patch: Patch) -> None:
    made: Any = tensor_ops.gated_apply

    def turned(*arguments: Any) -> Tensor:
        *given, strict, transposed = arguments[:6]
        return made(*given, strict, not transposed, *arguments[6:])

    patch.setattr(tensor_ops, "gated_apply", turned)


@fault("channels", "tokens of another block of rows do not meet")
def _(patch: Patch) -> None:
    made = tensor_ops.gated_contract

    def apart(*arguments: Any) -> Tensor:
        found = made(*arguments).clone()
        found[..., 16:, :16] = 0
        return found

    patch.setattr(tensor_ops, "gated_contract", apart)


@fault("momentum", "rows are substituted from the last to the first")
def _(patch: Patch) -> None:
    made: Any = tensor_ops.substitute

    def backwards(*arguments: Any) -> Tensor:
        *given, reverse, size = arguments
        return made(*given, not reverse, size)

    patch.setattr(tensor_ops, "substitute", backwards)


@fault("momentum", "a shift goes the wrong way")
def _(patch: Patch) -> None:
    made = tensor_ops.shift
    patch.setattr(tensor_ops, "shift", lambda x, axis, by: made(x, axis, -by))


@fault("plain sum", "a bfloat16 product: scores lose half their digits")
def _(patch: Patch) -> None:
    made = tensor_ops.tril
    patch.setattr(tensor_ops, "tril", lambda x, *rest: made(x.bfloat16().to(x.dtype), *rest))


# ------------------------------------------------------------ token by token


@fault("by token, anchored", "a rule without a chunk form refreshes no anchor")
def _(patch: Patch) -> None:
    patch.setattr(token_loop, "apply_block_edge", lambda memory, turn, values, *rest: values)


@fault("by token", "a rule without a chunk form forgets its state")
def _(patch: Patch) -> None:
    made = token_loop._compute

    def forgetful(call: Any, *rest: Any) -> Any:
        return replace(made(call, *rest), after=dict(call.state))

    patch.setattr(token_loop, "_compute", forgetful)
