"""A memory in chunks: the chunk program over a call's chunks, and the derived adjoint in reverse.

The tokens of a call are cut into chunks (`chunk_layout`) and the chunk program runs over them
(`chunk_scan`).  The states at the start of each chunk are saved; from them the adjoint runs over the
same chunks from the last to the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .call import MemoryCall, d_of_steps, per_token, position_after
from .chunk_layout import chunk_layout
from .chunk_scan import ScanContext, ScanResult, scan_chunks
from .form import Computed, Gradients, leaves_of, with_autograd
from .program_table import MemoryTable, Values
from .spoiled_tokens import without_spoiled


@dataclass(frozen=True, slots=True)
class ChunkForm:
    """The chunk form of a memory that has one."""

    memory: MemoryTable

    def saves(self) -> int:
        """A tensor for each state, and one more if states change where a block ends."""
        return len(self.memory.states) * (2 if self.memory.at_block_end else 1)

    def compute(self, call: MemoryCall, save: bool) -> Computed:
        """See `form.Form`.  Saved are the states [chunks, N * H, *axes] before each chunk, and those
        after it where the end of a block then changes them."""
        return without_spoiled(call, lambda given: compute_chunks(given, save))

    def gradients(
        self,
        call: MemoryCall,
        saved: Sequence[Tensor],
        d_y: Tensor,
        d_after: Mapping[str, Tensor],
    ) -> Gradients:
        """See `form.Form`."""
        memory = self.memory
        with with_autograd(), torch.enable_grad():
            leaves = leaves_of(call)
            prepared = prepare(leaves.call)
        names = [s.argument for s in memory.states]
        names += [f"open_{s.argument}" for s in memory.states if memory.at_block_end]
        carried = {
            f"d_{s.name}": d_after[s.name].to(call.dtype).flatten(0, 1) for s in memory.states
        }
        given = {name: x.detach() for name, x in prepared.inputs.items()}
        values: Values = {
            **given,
            **dict(zip(names, saved, strict=True)),
            "d_y": prepared.d_answers(d_y),
        }
        assert memory.backward is not None
        scan = scan_chunks(memory, memory.backward, values, carried, prepared.context, True)
        pairs = [(x, _total(scan, name, given[name])) for name, x in prepared.inputs.items()]
        pairs += [(x, scan.last[f"d_{name}"]) for name, x in prepared.states.items()]
        pairs += [(x, d_after[name]) for name, x in prepared.tails.items()]
        with with_autograd():
            return leaves.pull_back(pairs)


def compute_chunks(call: MemoryCall, save: bool) -> Computed:
    """The answers and the state after a call, by the chunk program."""
    memory, prepared = call.memory, prepare(call)
    assert memory.forward is not None
    scan = scan_chunks(
        memory, memory.forward, prepared.inputs, prepared.states, prepared.context, False
    )
    new = {s.name: scan.last[s.name].unflatten(0, (-1, call.heads)) for s in memory.states}
    saved = [scan.entries[s.name] for s in memory.states]
    saved += [scan.before_block_end[s.name] for s in memory.states if memory.at_block_end]
    after = {**new, **prepared.tails, **position_after(call)}
    return Computed(prepared.answer(scan.results["y"]), after, tuple(saved) if save else ())


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

    def d_answers(self, d_y: Tensor) -> Tensor:
        """The cotangent of what `answer` takes, from that of what it returns."""
        steps = d_of_steps(self.call.memory, d_y.to(self.call.dtype))
        return self.context.layout.chunked(steps, blank=True)


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
