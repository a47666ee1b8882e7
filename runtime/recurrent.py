"""Token-by-token kernels: how they are launched, and what autograd knows of them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .interpreter import interpreting, repair

Named = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class Recurrence:
    """The two kernels of a rule and what their launcher must know.

    tokens, constants, states  (name, axes) in the order of the kernels' parameters
    positions   tokens that are given once for each place of a block, [H, block]
    decays      logarithms that act once per token, however many steps it takes
    late_decay  they act in the last of these steps, not in the first
    block       tokens of a block, 0 where there are none
    micro       steps that one token takes
    split       programs share out the value axis in blocks
    """

    name: str
    forward: Any
    backward: Any
    tokens: Named
    constants: Named
    states: Named
    positions: tuple[str, ...]
    decays: tuple[str, ...]
    late_decay: bool
    block: int
    micro: int
    split: bool


@dataclass(frozen=True, slots=True)
class Launch:
    """One size of problem: extents, tiles and how many programs share the value axis."""

    sizes: dict[str, int]
    tile: dict[str, int]
    blocks: int
    warps: int
    segment: int


def recurrent(
    kernels: Recurrence,
    inputs: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Answers [B, T, H, value] and the state after the last token.

    inputs      tokens and gates [B, T, H, *axes] (`pair` before the others), gates on a block's
                places [H, block], constants [H, *axes]
    state       [B, H, *axes] for every state, and `position` [B] for a rule with blocks; with
                ``cu_seqlens`` B is 1 and the state has a row for each sequence
    """
    first = inputs[next(n for n, _ in kernels.tokens if n not in kernels.positions)]
    batch, time, heads = first.shape[:3]
    rows = batch if cu_seqlens is None else len(cu_seqlens) - 1
    place = state["position"] if kernels.block else None
    given = _each_token(kernels, inputs, state, cu_seqlens, (batch, time, heads))
    tokens = [_substeps(kernels, name, len(axes), given[name]) for name, axes in kernels.tokens]
    constants = [inputs[name].float() for name, _ in kernels.constants]
    states = [state[name].float() for name, _ in kernels.states]
    tensors = [x.contiguous() for x in (*tokens, *constants, *states)]
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    offsets = None if cu_seqlens is None else (cu_seqlens.to(torch.int64) * kernels.micro)
    steps = None if place is None else place.to(torch.int64) * kernels.micro
    y, *ends = _Recurrent.apply(kernels, offsets, steps, rows, keep, *tensors)  # type: ignore[misc]
    y = y.unflatten(1, (time, kernels.micro))[:, :, -1] if kernels.micro > 1 else y
    after = {name: end for (name, _), end in zip(kernels.states, ends, strict=True)}
    if place is not None:
        taken: Any = time if cu_seqlens is None else cu_seqlens.diff().to(place.dtype)
        after["position"] = (place + taken) % kernels.block
    return y, {**state, **after}


def _each_token(
    kernels: Recurrence,
    inputs: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    cu_seqlens: Tensor | None,
    shape: tuple[int, int, int],
) -> dict[str, Tensor]:
    """The inputs with gates on a block's places spread to the tokens that stand there."""
    if not kernels.positions:
        return dict(inputs)
    batch, time, heads = shape
    start = state["position"][:, None]
    count = torch.arange(time, device=start.device)[None]
    if cu_seqlens is None:
        where = (start + count) % kernels.block
    else:
        lengths = cu_seqlens.diff()
        moved = (start[:, 0] - cu_seqlens[:-1]).repeat_interleave(lengths)[None]
        where = (moved + count) % kernels.block
    spread = {n: inputs[n][:, where].movedim(0, 2) for n in kernels.positions}
    return {**inputs, **{n: x.expand(batch, time, heads) for n, x in spread.items()}}


def _substeps(kernels: Recurrence, name: str, axes: int, x: Tensor) -> Tensor:
    """A token's steps one after the other along time: [B, T * micro, H, *axes]."""
    n = kernels.micro
    if n == 1:
        return x
    if x.dim() == 3 + axes + 1:
        return x.movedim(3, 2).flatten(1, 2)
    if name in kernels.decays:
        still = torch.zeros_like(x).unsqueeze(2).expand(*x.shape[:2], n - 1, *x.shape[2:])
        acts = x.unsqueeze(2)
        return torch.cat([still, acts] if kernels.late_decay else [acts, still], 2).flatten(1, 2)
    return x.repeat_interleave(n, 1)


def launch_of(kernels: Recurrence, sizes: Mapping[str, int], time: int) -> Launch:
    """Tiles for a problem: as many values a program as leave the state in registers."""
    tile = {axis: _power(size) for axis, size in sizes.items()}
    width = tile.get("key", 1)
    if kernels.split and "value" in tile:
        tile["value"] = min(tile["value"], max(8, 2048 // width) if "key" in tile else 128)
    elements = tile.get("value", 1) * width
    warps = min(16, max(1, elements // 1024)) if "key" in tile else 1
    blocks = -(-sizes.get("value", 1) // tile.get("value", 1)) if kernels.split else 1
    segment = next((s for s in (16, 32, 64) if s * s >= time), 128)
    return Launch(dict(sizes), tile, blocks, warps, segment)


def _power(size: int) -> int:
    return 1 << max(0, size - 1).bit_length()


class _Recurrent(torch.autograd.Function):
    """(tokens [B, T, H, …], constants [H, …], states [N, H, …]) -> (y, states after)."""

    @staticmethod
    def forward(
        ctx: Any,
        kernels: Recurrence,
        offsets: Tensor | None,
        place: Tensor | None,
        rows: int,
        keep: bool,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        _runs_here(tensors[0])
        batch, time, heads = tensors[0].shape[:3]
        plan = launch_of(kernels, _extents(kernels, tensors), time)
        y = tensors[0].new_empty(batch, time, heads, plan.sizes["value"])
        states = tensors[len(tensors) - len(kernels.states) :]
        ends = [torch.empty_like(s) for s in states]
        segments = batch * time // plan.segment + rows if keep else 0
        kept = [s.new_empty(segments, *s.shape[1:]) for s in states]
        _start(kernels.forward, plan, [*tensors, y, *ends, *kept], offsets, place, rows, batch, time, heads, keep)
        ctx.kernels, ctx.plan, ctx.rows = kernels, plan, rows
        ctx.packing = offsets, place
        ctx.save_for_backward(*tensors[: len(tensors) - len(states)], *kept)
        return (y, *ends)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_y: Tensor, *d_ends: Tensor) -> tuple[Tensor | None, ...]:
        kernels, plan, rows = ctx.kernels, ctx.plan, ctx.rows
        count = len(kernels.states)
        given, kept = ctx.saved_tensors[:-count], ctx.saved_tensors[-count:]
        tokens, constants = given[: len(kernels.tokens)], given[len(kernels.tokens) :]
        batch, time, heads = tokens[0].shape[:3]
        d_tokens = [_gradient(kernels, plan, axes, x) for (_, axes), x in zip(kernels.tokens, tokens, strict=True)]
        d_constants = [
            _gradient(kernels, plan, axes, x.expand(rows, *x.shape))
            for (_, axes), x in zip(kernels.constants, constants, strict=True)
        ]
        d_states = [
            _gradient(kernels, plan, axes, d) for (_, axes), d in zip(kernels.states, d_ends, strict=True)
        ]
        past = []
        for (_, axes), d in zip(kernels.states, d_ends, strict=True):
            own = rows if "value" in axes else rows * plan.blocks
            past.append(d.new_empty(own, heads, plan.segment, *d.shape[2:]))
        cotangents = [d.contiguous() for d in d_ends]
        tensors = [*given, d_y.contiguous(), *kept, *past, *cotangents, *d_tokens, *d_constants, *d_states]
        _start(kernels.backward, plan, tensors, *ctx.packing, rows, batch, time, heads, True)
        grads = [_summed(g, x) for g, x in zip(d_tokens, tokens, strict=True)]
        grads += [_summed(g, d_ends[0].expand(0)).sum(0) for g in d_constants]
        grads += [_summed(g, d) for g, d in zip(d_states, d_ends, strict=True)]
        return (None,) * 5 + tuple(grads)


def _gradient(kernels: Recurrence, plan: Launch, axes: tuple[str, ...], like: Tensor) -> Tensor:
    """Room for a gradient: a share for each block of values where each block has only a share."""
    if plan.blocks == 1 or "value" in axes:
        return torch.empty_like(like, memory_format=torch.contiguous_format)[None]
    return like.new_empty(plan.blocks, *like.shape, dtype=torch.float32)


def _summed(shares: Tensor, like: Tensor) -> Tensor:
    return (shares[0] if len(shares) == 1 else shares.sum(0)).to(like.dtype)


def _extents(kernels: Recurrence, tensors: tuple[Tensor, ...]) -> dict[str, int]:
    """The size of each axis, read off the tensors."""
    sizes: dict[str, int] = {}
    named = (*kernels.tokens, *kernels.constants, *kernels.states)
    for number, ((name, axes), x) in enumerate(zip(named, tensors, strict=True)):
        lead = 3 if number < len(kernels.tokens) else x.dim() - len(axes)
        for axis, size in zip(axes, x.shape[lead:], strict=True):
            if sizes.setdefault(axis, size) != size:
                raise ValueError(f"{kernels.name}: {name} has {size} along {axis}, others {sizes[axis]}")
    return sizes


def _runs_here(x: Tensor) -> None:
    if not x.is_cuda and not interpreting():
        raise RuntimeError(
            f"Triton kernels run on a GPU, and these tensors are on {x.device}; "
            "set TRITON_INTERPRET=1 before importing triton to interpret them"
        )
    repair()


def _start(
    kernel: Any,
    plan: Launch,
    tensors: list[Tensor],
    offsets: Tensor | None,
    place: Tensor | None,
    rows: int,
    batch: int,
    time: int,
    heads: int,
    keep: bool,
) -> None:
    """Launch a kernel; its programs are (sequences * heads, blocks of values)."""
    if rows == 0 or heads == 0:
        return
    sizes = {"V": plan.sizes["value"], "BV": plan.tile["value"]}
    if "key" in plan.sizes:
        sizes |= {"K": plan.sizes["key"], "BK": plan.tile["key"]}
    whole = [] if place is None else [place]
    device = tensors[0].device
    inside: AbstractContextManager = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    with inside:
        kernel[(rows * heads, plan.blocks)](
            *tensors, offsets, *whole, batch * time, time, heads,
            **sizes, SEGMENT=plan.segment, PACKED=offsets is not None, KEEP=keep,
            num_warps=plan.warps,
        )  # fmt: skip
