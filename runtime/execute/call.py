"""One call of a memory: its tensors, checked once.

The chunk form, the token-by-token form and the kernels all compute from a `MemoryCall`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from miras_dsl.runtime.ops.tensor_ops import LOG_ZERO, Sizes

from .packed import CuSeqlens, Packed, parse_cu_seqlens
from .program_table import MemoryInput, MemoryTable
from .validate import (
    carried_of,
    computing_type,
    lead_of,
    require_fitting,
    require_positions,
)
from .window import lagged


@dataclass(frozen=True, slots=True)
class MemoryCall:
    """One call of a memory, whose tensors fit each other.  N is the number of sequences.

    inputs  tokens and gates [B, T, H, *axes] (or [B, T, H, steps, *axes], where a token takes several
            steps with a value each), constants [H, *axes], positions [H, block]
    state   [N, H, *axes] by name; with blocks, `position` [N]; with a window,
            `window.<input>` [N, width - 1, H, *axes]
    bounds  of packed sequences, which lie in one row (B = 1); None: each row is a sequence
    sizes   the size of every axis
    dtype   the type of the computation
    out     the type of the answers
    """

    memory: MemoryTable
    inputs: Mapping[str, Tensor]
    state: Mapping[str, Tensor]
    bounds: CuSeqlens | None
    batch: int
    tokens: int
    heads: int
    sizes: Mapping[str, int]
    dtype: torch.dtype
    out: torch.dtype
    device: torch.device

    @property
    def lengths(self) -> tuple[int, ...]:
        """The number of tokens of each sequence."""
        return (self.tokens,) * self.batch if self.bounds is None else self.bounds.lengths

    def sequences(self) -> list[MemoryCall]:
        """The calls of packed sequences, one each; some may be empty."""
        assert self.bounds is not None
        timed = {f.name for f in self.memory.inputs if f.kind in ("token", "gate")}
        calls = []
        for n, (start, end) in enumerate(pairwise(self.bounds.ends)):
            inputs = {k: x[:, start:end] if k in timed else x for k, x in self.inputs.items()}
            state = {name: x[n : n + 1] for name, x in self.state.items()}
            calls.append(replace(self, inputs=inputs, state=state, bounds=None, tokens=end - start))
        return calls

    @property
    def empty(self) -> bool:
        """Whether there is no sequence, no token or no head."""
        return 0 in (self.batch, self.tokens, self.heads)

    def empty_result(self) -> tuple[Tensor, dict[str, Tensor]]:
        """The result of an empty call: an answer without entries, and the state as it was."""
        sizes = [self.sizes[axis] for axis in self.memory.answer]
        shape = (self.batch, self.tokens, self.heads, *sizes)
        return torch.zeros(shape, dtype=self.out, device=self.device), dict(self.state)

    def size(self, **more: int) -> Sizes:
        """What generated functions take as `size`; ``more`` adds sizes of axes."""
        return Sizes({**more, **self.sizes}, self.dtype, self.device)

    def carried(self) -> dict[str, Tensor]:
        """The states, in the type of the computation."""
        return {s.name: self.state[s.name].to(self.dtype) for s in self.memory.states}

    def exact(self, given: MemoryInput, x: Tensor) -> Tensor:
        """An input in the type of the computation; a logarithm in float64, and no less than that of a
        decay which is 0 in every type: sums of logarithms stay small enough to keep their digits."""
        return x.to(torch.float64).clamp(min=LOG_ZERO) if given.log else x.to(self.dtype)

    def constants(self) -> dict[str, Tensor]:
        """The constants [H, *axes], in the type of the computation; logarithms in float64."""
        return {
            f.name: self.exact(f, self.inputs[f.name])
            for f in self.memory.inputs
            if f.kind == "constant"
        }


def validate(
    memory: MemoryTable,
    inputs: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    cu_seqlens: Packed,
) -> MemoryCall:
    """The call with these tensors; their shapes are those of `MemoryCall`.

    Raises ValueError, naming the tensor and a way out, for one that does not fit.
    """
    lead = lead_of(memory, inputs)
    bounds = parse_cu_seqlens(lead, cu_seqlens)
    batch, tokens, heads = lead.shape[:3]
    rows = batch if bounds is None else len(bounds)
    sizes = require_fitting(memory, inputs, state, rows)
    if memory.block:
        require_positions(memory, state["position"])
    dtype = computing_type([*(inputs[f.name] for f in memory.inputs), *carried_of(memory, state)])
    return MemoryCall(
        memory, inputs, state, bounds, batch, tokens, heads, sizes, dtype, lead.dtype, lead.device
    )


def per_token(call: MemoryCall, exact: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The inputs of every step [B, T * steps, H, *axes] by name, and the window's state after the call.

    A gate that is given for each position of a block is looked up for every token.  With a window,
    the earlier tokens are inputs of their own, `<input>_past1` ….

    exact  in the type of the computation, and logarithms of decays in float64; else as they are given
    """
    memory, made = call.memory, {}
    positions = _block_positions(call) if any(f.kind == "position" for f in memory.inputs) else None
    for given in memory.inputs:
        x = call.inputs[given.name]
        if given.kind == "constant":
            continue
        if exact:
            x = call.exact(given, x)
        if given.kind == "position":
            x = x[:, positions].movedim(0, 2)
        made[given.name] = expand_steps(memory, given, x)
    if not memory.window:
        return made, {}
    before = {name: call.state[f"window.{name}"] for name in memory.window_inputs}
    now = {n: call.inputs[n].to(call.dtype) if exact else call.inputs[n] for n in before}
    since = None
    if memory.resets:
        after = position_after(call)["position"]
        since = (_block_positions(call), torch.where(after == 0, memory.block, after))
    past, kept = lagged(now, before, memory.window, call.bounds, since)
    return made | past, {f"window.{name}": tail.to(call.dtype) for name, tail in kept.items()}


def _block_positions(call: MemoryCall) -> Tensor:
    """[B, T]: the position of each token in its block, from 0."""
    start = call.state["position"]
    count = torch.arange(call.tokens, device=call.device)[None]
    if call.bounds is None:
        return (start[:, None] + count) % call.memory.block
    ends = call.bounds.tensor
    first = (start - ends[:-1]).repeat_interleave(ends.diff(), output_size=call.tokens)
    return (first[None] + count) % call.memory.block


def position_after(call: MemoryCall) -> dict[str, Tensor]:
    """The state `position` [N] after the call, from 0; nothing for a memory without blocks."""
    if not call.memory.block:
        return {}
    before = call.state["position"]
    taken = call.tokens if call.bounds is None else call.bounds.tensor.diff().to(before.dtype)
    return {"position": (before + taken) % call.memory.block}


def expand_steps(memory: MemoryTable, given: MemoryInput, x: Tensor) -> Tensor:
    """[B, T, H, (steps,) *axes] -> [B, T * steps, H, *axes]: a value for each step of each token.

    A decay that acts once a token is 1 in the other steps (its logarithm is 0).
    """
    if memory.steps_per_token == 1:
        return x
    if x.dim() - 3 > len(given.axes):
        return x.movedim(3, 2).flatten(1, 2)
    if given.name in memory.once_per_token:
        no_decay = torch.zeros_like(x) if given.log else torch.ones_like(x)
        steps = [x if n == memory.decay_at else no_decay for n in range(memory.steps_per_token)]
        return torch.stack(steps, 2).flatten(1, 2)
    return x.repeat_interleave(memory.steps_per_token, 1)


def d_of_steps(memory: MemoryTable, d_y: Tensor) -> Tensor:
    """The cotangents of the answers of all steps [B, T * steps, …], from those of the tokens' [B, T, …]."""
    if memory.steps_per_token == 1:
        return d_y
    batch, tokens, *rest = d_y.shape
    steps = d_y.new_zeros(batch, tokens * memory.steps_per_token, *rest)
    steps[:, memory.read_at :: memory.steps_per_token] = d_y
    return steps
