"""Token-by-token kernels: how they are launched, and what autograd knows of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from os import environ
from typing import Any

import torch
from torch import Tensor

from .interpreter import interpreting, repair
from .launch import Launch, Recurrence, launch_of
from .window import aged


def recurrent(
    kernels: Recurrence,
    inputs: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    cu_seqlens: Tensor | None = None,
    *,
    values: int | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Answers [B, T, H, value] and the state after the last token.

    inputs      tokens and gates [B, T, H, *axes] (`pair` before the others), gates on a block's
                places [H, block], constants [H, *axes]
    state       [B, H, *axes] for every state, and `position` [B] for a rule with blocks; with
                ``cu_seqlens`` B is 1 and the state has a row for each sequence
    values      values that a program holds, a power of two; None: as many as fit
    """
    first = inputs[next(n for n, _ in kernels.tokens if n not in kernels.positions)]
    batch, time, heads = first.shape[:3]
    rows = batch if cu_seqlens is None else len(cu_seqlens) - 1
    place = state["position"] if kernels.block else None
    given = _each_token(kernels, inputs, state, cu_seqlens, (batch, time, heads))
    past, kept = _window(kernels, inputs, state, cu_seqlens)
    given |= past
    tokens = [_substeps(kernels, name, len(axes), given[name]) for name, axes in kernels.tokens]
    constants = [inputs[name].float() for name, _ in kernels.constants]
    states = [state[name].float() for name, _ in kernels.states]
    tensors = [x.contiguous() for x in (*tokens, *constants, *states)]
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    offsets = None if cu_seqlens is None else (cu_seqlens.to(torch.int64) * kernels.micro)
    steps = None if place is None else place.to(torch.int64) * kernels.micro
    call = Call(kernels, offsets, steps, rows, keep, values)
    y, *ends = _Recurrent.apply(call, *tensors)  # type: ignore[misc]
    y = y.unflatten(1, (time, kernels.micro))[:, :, kernels.read_at] if kernels.micro > 1 else y
    after = {name: end for (name, _), end in zip(kernels.states, ends, strict=True)}
    if place is not None:
        taken: Any = time if cu_seqlens is None else cu_seqlens.diff().to(place.dtype)
        after["position"] = (place + taken) % kernels.block
    return y, {**state, **after, **kept}


def _window(
    kernels: Recurrence,
    inputs: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    cu_seqlens: Tensor | None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What each token needs of the tokens before it, and the tails that the next call needs."""
    if not kernels.window:
        return {}, {}
    tails = {name: state[f"window.{name}"] for name in kernels.tails}
    past, kept = aged({n: inputs[n] for n in tails}, tails, kernels.window, cu_seqlens)
    return past, {f"window.{name}": tail.float() for name, tail in kept.items()}


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
        still = torch.zeros_like(x)
        steps = [x if step == kernels.decay_at else still for step in range(n)]
        return torch.stack(steps, 2).flatten(1, 2)
    return x.repeat_interleave(n, 1)


def wanted(feeds: Mapping[str, Tensor]) -> bool:
    """Whether a call goes to the kernels: on a CUDA device, unless MIRAS_KERNELS is "off".

    Off means the chunk form in torch; on a GPU it is the slower of the two in all that was measured
    (benchmarks/gpu_module.json).
    """
    return environ.get("MIRAS_KERNELS", "on") != "off" and any(x.is_cuda for x in feeds.values())


@dataclass(frozen=True, slots=True)
class Call:
    """What a launch needs beside its tensors.

    offsets  bounds of packed sequences, place: where in its block each sequence starts, in steps
    rows     sequences
    keep     whether a backward pass may follow, which needs checkpoints
    values   values that a program holds
    """

    kernels: Recurrence
    offsets: Tensor | None
    place: Tensor | None
    rows: int
    keep: bool
    values: int | None


class _Recurrent(torch.autograd.Function):
    """(tokens [B, T, H, …], constants [H, …], states [N, H, …]) -> (y, states after)."""

    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        kernels, rows = call.kernels, call.rows
        batch, time, heads = tensors[0].shape[:3]
        plan = launch_of(kernels, _extents(kernels, tensors), time, call.values)
        _runs_here(tensors[0])
        y = tensors[0].new_empty(batch, time, heads, plan.sizes["value"])
        given, states = _parted(tensors, len(kernels.states))
        ends = [torch.empty_like(s) for s in states]
        segments = batch * time // plan.segment + rows if call.keep else 0
        kept = [s.new_empty(segments, *s.shape[1:]) for s in states]
        _start(kernels.forward, call, plan, [*tensors, y, *ends, *kept], (batch, time, heads))
        ctx.call, ctx.plan = call, plan
        ctx.save_for_backward(*given, *kept)
        return (y, *ends)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_y: Tensor, *d_ends: Tensor) -> tuple[Tensor | None, ...]:
        call, plan = ctx.call, ctx.plan
        kernels, rows = call.kernels, call.rows
        given, kept = _parted(ctx.saved_tensors, len(kernels.states))
        tokens, constants = _parted(given, len(kernels.constants))
        shape = tokens[0].shape[:3]
        each = [x.expand(rows, *x.shape) for x in constants]
        wanted = [*tokens, *each, *d_ends]
        axes = [a for _, a in (*kernels.tokens, *kernels.constants, *kernels.states)]
        shares = [_room(plan, a, x) for a, x in zip(axes, wanted, strict=True)]
        past = []
        for (_, own), d in zip(kernels.states, d_ends, strict=True):
            count = rows if "value" in own else rows * plan.blocks
            past.append(d.new_empty(count, shape[2], plan.segment, *d.shape[2:]))
        ends = [d.contiguous() for d in d_ends]
        tensors = [*given, d_y.contiguous(), *kept, *past, *ends, *shares]
        _start(kernels.backward, call, plan, tensors, shape)
        # The second step of each sum over blocks of values; no atomics, so runs repeat to the bit.
        sums = [s[0] if len(s) == 1 else s.sum(0) for s in shares]
        for number in range(len(tokens), len(given)):
            sums[number] = sums[number].sum(0)
        return None, *(g.to(x.dtype) for g, x in zip(sums, wanted, strict=True))


def _parted(tensors: Sequence[Tensor], last: int) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """All but the last few, and those."""
    return tensors[: len(tensors) - last], tensors[len(tensors) - last :]


def _room(plan: Launch, axes: tuple[str, ...], like: Tensor) -> Tensor:
    """Room for a gradient: a share for each block of values where each block has only a share."""
    if plan.blocks == 1 or "value" in axes:
        return like.new_empty(1, *like.shape)
    return like.new_empty(plan.blocks, *like.shape, dtype=torch.float32)


def _extents(kernels: Recurrence, tensors: tuple[Tensor, ...]) -> dict[str, int]:
    """The size of each axis, read off the tensors."""
    sizes: dict[str, int] = {}
    named = (*kernels.tokens, *kernels.constants, *kernels.states)
    for number, ((name, axes), x) in enumerate(zip(named, tensors, strict=True)):
        lead = 3 if number < len(kernels.tokens) else x.dim() - len(axes)
        for axis, size in zip(axes, x.shape[lead:], strict=True):
            if sizes.setdefault(axis, size) != size:
                raise ValueError(
                    f"{kernels.name}: {name} has {size} along {axis}, others {sizes[axis]}"
                )
    return sizes


def _runs_here(x: Tensor) -> None:
    if not x.is_cuda and not interpreting():
        raise RuntimeError(
            f"Triton kernels run on a GPU, and these tensors are on {x.device}; "
            "set TRITON_INTERPRET=1 before importing triton to interpret them"
        )
    repair()


def _start(
    kernel: Any, call: Call, plan: Launch, tensors: list[Tensor], shape: tuple[int, ...]
) -> None:
    """Launch a kernel; its programs are (sequences * heads, blocks of values)."""
    batch, time, heads = shape
    if call.rows == 0 or heads == 0:
        return
    keep = {"KEEP": call.keep} if kernel is call.kernels.forward else {}
    sizes = {"V": plan.sizes["value"], "BV": plan.tile["value"]}
    if "key" in plan.sizes:
        sizes |= {"K": plan.sizes["key"], "BK": plan.tile["key"]}
    place = [] if call.place is None else [call.place]
    device = tensors[0].device
    on_gpu = device.type == "cuda"
    inside: AbstractContextManager[Any] = torch.cuda.device(device) if on_gpu else nullcontext()
    with inside:
        kernel[(call.rows * heads, plan.blocks)](
            *tensors, call.offsets, *place, batch * time, time, heads,
            **sizes, SEGMENT=plan.segment, PACKED=call.offsets is not None,
            num_warps=plan.warps, **keep,
        )  # fmt: skip
