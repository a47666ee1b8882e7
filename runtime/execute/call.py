"""The inputs of a call, checked once and read alike by every way to compute a memory.

The chunk form, the token-by-token form and the kernels all start from a `Call`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from miras_dsl.runtime.ops.tensor_ops import LOG_ZERO, Sizes

from .packed import CuSeqlens, Packed, parse_cu_seqlens
from .program_table import MemoryInput, MemoryTable
from .window import lagged


@dataclass(frozen=True, slots=True)
class MemoryCall:
    """One call of a memory, whose tensors fit each other.

    inputs tokens and gates [B, T, H, *axes] (a token of several steps may have one for each, before
           the axes), constants [H, *axes], positions [H, block]
    state  [N, H, *axes] by name, `position` [N] for rules with blocks, tails of windows
    sizes  the length of every axis
    dtype  the type of the computation, out: of the answers
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
        """The tokens of each sequence."""
        return (self.tokens,) * self.batch if self.bounds is None else self.bounds.lengths

    @property
    def empty(self) -> bool:
        """Whether there is nothing to compute."""
        return 0 in (self.batch, self.tokens, self.heads)

    def unanswered(self) -> tuple[Tensor, dict[str, Tensor]]:
        """The answer to no tokens, and the state as it was."""
        sizes = [self.sizes[axis] for axis in self.memory.answer]
        shape = (self.batch, self.tokens, self.heads, *sizes)
        return torch.zeros(shape, dtype=self.out, device=self.device), dict(self.state)

    def size(self, **more: int) -> Sizes:
        """What generated code is told of sizes, type and device."""
        return Sizes({**more, **self.sizes}, self.dtype, self.device)

    def carried(self) -> dict[str, Tensor]:
        """The states, in the type of the computation."""
        return {s.name: self.state[s.name].to(self.dtype) for s in self.memory.states}

    def exact(self, given: MemoryInput, x: Tensor) -> Tensor:
        """An input in the type of the computation; a logarithm in float64, and no less than that of a
        decay which is 0 in every type: sums of logarithms stay small enough to keep their digits."""
        return x.to(torch.float64).clamp(min=LOG_ZERO) if given.log else x.to(self.dtype)

    def constants(self) -> dict[str, Tensor]:
        """What is fed once, in the type of the computation."""
        return {
            f.name: self.exact(f, self.inputs[f.name])
            for f in self.memory.inputs
            if f.kind == "constant"
        }


def validate(
    memory: MemoryTable,
    feeds: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    cu_seqlens: Packed,
) -> MemoryCall:
    """The call with these inputs.

    Raises ValueError, with the tensor's name and a way out, where something does not fit.
    """
    absent = {f.name for f in memory.inputs} - feeds.keys()
    if absent:
        raise ValueError(f"{memory.name}: the input {min(absent)} is missing")
    first = next(f.name for f in memory.inputs if f.kind in ("token", "gate"))
    lead = feeds[first]
    if lead.dim() < 3:
        raise ValueError(f"{memory.name}: {first} is {list(lead.shape)}, not [B, T, H, …]")
    batch, tokens, heads = lead.shape[:3]
    bounds = parse_cu_seqlens(lead, cu_seqlens)
    sizes: dict[str, int] = {}
    for feed in memory.inputs:
        x = feeds[feed.name]
        _require_numbers(memory, feed.name, x, first, lead.device)
        if feed.kind == "position":
            _require(memory, feed.name, x, (heads, memory.block), (), sizes)
        elif feed.kind == "constant":
            _require(memory, feed.name, x, (heads,), feed.axes, sizes)
        else:
            several = memory.steps_per_token > 1 and x.dim() == 4 + len(feed.axes)
            shape = (batch, tokens, heads, *([memory.steps_per_token] if several else []))
            _require(memory, feed.name, x, shape, feed.axes, sizes)
    sequences = batch if bounds is None else len(bounds)
    axes = {f.name: f.axes for f in memory.inputs}
    wanted = [(s.name, (sequences, heads), s.axes) for s in memory.states]
    wanted += [
        (f"window.{n}", (sequences, memory.window - 1, heads), axes[n])
        for n in memory.window_inputs
    ]
    for name, shape, own in wanted:
        x = _state(memory, state, name, sequences)
        _require_numbers(memory, f"state {name}", x, first, lead.device)
        _require(memory, f"state {name}", x, shape, own, sizes)
    if memory.block:
        _require_positions(memory, _state(memory, state, "position", sequences), sequences)
    kinds = [feeds[f.name].dtype for f in memory.inputs] + [state[n].dtype for n, *_ in wanted]
    dtype = torch.float64 if torch.float64 in kinds else torch.float32
    return MemoryCall(
        memory, feeds, state, bounds, batch, tokens, heads, sizes, dtype, lead.dtype, lead.device
    )


def _state(memory: MemoryTable, state: Mapping[str, Tensor], name: str, sequences: int) -> Tensor:
    if name not in state:
        raise ValueError(
            f"{memory.name}: the state has no {name}; a layer's initial_state({sequences}) has all"
        )
    return state[name]


def _require_numbers(
    memory: MemoryTable, name: str, x: Tensor, first: str, device: torch.device
) -> None:
    if not x.is_floating_point():
        raise ValueError(
            f"{memory.name}: {name} is {x.dtype}, not floating point; convert it with .float()"
        )
    if x.device != device:
        raise ValueError(
            f"{memory.name}: {name} is on {x.device}, {first} on {device}; move one with .to(…)"
        )


def _require(
    memory: MemoryTable,
    name: str,
    x: Tensor,
    lead: tuple[int, ...],
    axes: tuple[str, ...],
    sizes: dict[str, int],
) -> None:
    """The shape [*lead, *axes], with axes as long as they are elsewhere."""
    if tuple(x.shape[: len(lead)]) != lead or x.dim() != len(lead) + len(axes):
        wanted = ", ".join([*map(str, lead), *axes])
        raise ValueError(
            f"{memory.name}: {name} is {list(x.shape)}, not [{wanted}]: tokens and gates have the "
            "same [B, T, H], and a state has a row for each sequence (initial_state of a layer)"
        )
    for axis, size in zip(axes, x.shape[len(lead) :], strict=True):
        if sizes.setdefault(axis, size) != size:
            raise ValueError(
                f"{memory.name}: {name} has {size} along {axis}, others {sizes[axis]}; "
                "an axis has one length everywhere"
            )


def _require_positions(memory: MemoryTable, x: Tensor, sequences: int) -> None:
    whole = not (x.is_floating_point() or x.is_complex())
    if tuple(x.shape) != (sequences,) or not whole or bool(((x < 0) | (x >= memory.block)).any()):
        raise ValueError(
            f"{memory.name}: state position must be {sequences} whole numbers from 0 to "
            f"{memory.block - 1}, the place of each sequence in its block; start with 0"
        )


def per_token(call: MemoryCall, exactly: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inputs of every step, [B, T * micro, H, *axes] by name, and the window's tails after the call.

    Gates that are given for each place of a block are spread to the tokens that stand there, and
    a window's earlier tokens stand beside each token.

    exactly  in the type of the computation, logarithms of decays in float64; else as they come
    """
    memory, made = call.memory, {}
    standing = _standing(call) if any(f.kind == "position" for f in memory.inputs) else None
    for feed in memory.inputs:
        x = call.inputs[feed.name]
        if feed.kind == "constant":
            continue
        if exactly:
            x = call.exact(feed, x)
        if feed.kind == "position":
            x = x[:, standing].movedim(0, 2)
        made[feed.name] = expand_steps(memory, feed, x)
    if not memory.window:
        return made, {}
    before = {name: call.state[f"window.{name}"] for name in memory.window_inputs}
    leaves = {n: call.inputs[n].to(call.dtype) if exactly else call.inputs[n] for n in before}
    since = None
    if memory.resets:
        after = position_after(call)["position"]
        since = (_standing(call), torch.where(after == 0, memory.block, after))
    past, kept = lagged(leaves, before, memory.window, call.bounds, since)
    return made | past, {f"window.{name}": tail.to(call.dtype) for name, tail in kept.items()}


def _standing(call: MemoryCall) -> Tensor:
    """[B, T]: the place in its block where each token stands, from 0."""
    start = call.state["position"]
    count = torch.arange(call.tokens, device=call.device)[None]
    if call.bounds is None:
        return (start[:, None] + count) % call.memory.block
    ends = call.bounds.tensor
    first = (start - ends[:-1]).repeat_interleave(ends.diff(), output_size=call.tokens)
    return (first[None] + count) % call.memory.block


def position_after(call: MemoryCall) -> dict[str, Tensor]:
    """Where in its block each sequence stands after the call."""
    if not call.memory.block:
        return {}
    before = call.state["position"]
    taken = call.tokens if call.bounds is None else call.bounds.tensor.diff().to(before.dtype)
    return {"position": (before + taken) % call.memory.block}


def expand_steps(memory: MemoryTable, feed: MemoryInput, x: Tensor) -> Tensor:
    """[B, T, H, (pair,) *axes] -> [B, T * micro, H, *axes]: the steps of a token one after the other."""
    if memory.steps_per_token == 1:
        return x
    if x.dim() - 3 > len(feed.axes):
        return x.movedim(3, 2).flatten(1, 2)
    if feed.name in memory.once_per_token:
        still = torch.zeros_like(x) if feed.log else torch.ones_like(x)
        steps = [x if n == memory.decay_at else still for n in range(memory.steps_per_token)]
        return torch.stack(steps, 2).flatten(1, 2)
    return x.repeat_interleave(memory.steps_per_token, 1)
