"""A memory in its token-by-token kernels: how they are launched, forward and for gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from os import environ
from typing import Any

import torch
from torch import Tensor

from miras_dsl.runtime.execute.call import MemoryCall, d_of_steps, per_token, position_after
from miras_dsl.runtime.execute.form import Computed, Gradients, leaves_of, with_autograd

from .launch_config import LaunchConfig, Recurrence, checkpoints, configure_launch, recompute_rows
from .triton_interpreter import installed, interpreting, patch_interpreter


def supported(device: torch.device | str, dtype: torch.dtype) -> bool:
    """Whether kernels can compute in a type on a device: not in float64, and on a GPU.

    In Triton's interpreter (`TRITON_INTERPRET=1`) they run on a CPU as well.
    """
    there = torch.device(device).type == "cuda" or interpreting()
    return there and installed() and dtype != torch.float64


def enabled() -> bool:
    """Whether kernels may be used: unless the environment has MIRAS_KERNELS=off.

    Then the chunk form in torch is used, which is slower for most memories and faster for some
    (benchmarks/gpu_module.json has both).
    """
    return environ.get("MIRAS_KERNELS", "on") != "off"


@dataclass(frozen=True, slots=True)
class KernelForm:
    """The token-by-token kernels of a memory, which compute in float32."""

    kernels: Recurrence

    def saves(self) -> int:
        """A tensor for each state."""
        return len(self.kernels.states)

    def compute(self, call: MemoryCall, save: bool) -> Computed:
        """See `execute.form.Form`.  Saved are the states before each segment of each sequence."""
        kernels, memory = self.kernels, call.memory
        run, laid = launch_args(kernels, call, save), _lay_out(kernels, call)
        tensors = [x.contiguous() for x in laid.tensors]
        batch, time, heads = shape = tensors[0].shape[:3]
        _require_gpu(tensors[0])
        y = tensors[0].new_empty(batch, time, heads, run.plan.sizes["value"])
        _, states = _split_last(tensors, len(kernels.states))
        ends = [torch.empty_like(s) for s in states]
        segments = checkpoints(run.plan, batch * time, run.rows) if save else 0
        saved = tuple(s.new_empty(segments, *s.shape[1:]) for s in states)
        _launch(kernels.forward, run, [*tensors, y, *ends, *saved], shape)
        y = y.unflatten(1, (call.tokens, memory.steps_per_token))[:, :, memory.read_at]
        after = {name: end for (name, _), end in zip(kernels.states, ends, strict=True)}
        after |= {**laid.tails, **position_after(call)}
        return Computed(y.to(call.out), after, saved if save else ())

    def gradients(
        self,
        call: MemoryCall,
        saved: Sequence[Tensor],
        d_y: Tensor,
        d_after: Mapping[str, Tensor],
    ) -> Gradients:
        """See `execute.form.Form`."""
        kernels = self.kernels
        with with_autograd(), torch.enable_grad():
            leaves = leaves_of(call)
            laid = _lay_out(kernels, leaves.call)
        given, _ = _split_last([x.detach().contiguous() for x in laid.tensors], len(kernels.states))
        d_steps = d_of_steps(call.memory, d_y)
        d_ends = [d_after[name].float() for name, _ in kernels.states]
        found = _back(launch_args(kernels, call, True), [*given, *saved], d_steps, d_ends)
        pairs = list(zip(laid.tensors, found, strict=True))
        pairs += [(x, d_after[name]) for name, x in laid.tails.items()]
        with with_autograd():
            return leaves.pull_back(pairs)


@dataclass(frozen=True, slots=True)
class _Launched:
    """What kernels take: tokens [B, T * steps, H, …], constants [H, …] and states [N, H, …].

    tails  the state of the window after the call
    """

    tensors: list[Tensor]
    tails: dict[str, Tensor]


def _lay_out(kernels: Recurrence, call: MemoryCall) -> _Launched:
    of_steps, tails = per_token(call, exact=False)
    constants, states = call.constants(), call.carried()
    tensors = [of_steps[name] for name, _ in kernels.tokens]
    tensors += [constants[name].float() for name, _ in kernels.constants]
    tensors += [states[name].float() for name, _ in kernels.states]
    return _Launched(tensors, tails)


def launch_args(kernels: Recurrence, call: MemoryCall, keep: bool) -> LaunchArgs:
    """How kernels are launched for a call; ``keep``: for its gradients too."""
    memory, repeats = call.memory, call.memory.steps_per_token
    return LaunchArgs(
        kernels,
        configure_launch(
            kernels, call.sizes, max(call.lengths) * repeats, call.heads, len(call.lengths)
        ),
        None if call.bounds is None else call.bounds.tensor * repeats,
        call.state["position"].to(torch.int64) * repeats if memory.block else None,
        len(call.lengths),
        keep,
    )


@dataclass(frozen=True, slots=True)
class LaunchArgs:
    """What a launch needs beside its tensors.

    offsets  [N + 1] bounds of packed sequences, in steps; None: each row is a sequence
    place    [N] steps from the start of its block to the start of each sequence; None: no blocks
    rows     the number of sequences N
    keep     whether states are saved for a backward pass
    """

    kernels: Recurrence
    plan: LaunchConfig
    offsets: Tensor | None
    place: Tensor | None
    rows: int
    keep: bool

    def groups(
        self, shape: tuple[int, ...], device: torch.device
    ) -> Iterator[tuple[slice, LaunchArgs]]:
        """The sequences of each backward launch, with its arguments: one launch if all fit.

        shape  [B, T, H] in steps
        """
        batch, time, _ = shape
        group = self.plan.group
        if group == self.rows:
            yield slice(0, self.rows), self
            return
        offsets = self.offsets
        if offsets is None:
            offsets = torch.arange(batch + 1, device=device) * time
        for first in range(0, self.rows, group):
            part = slice(first, min(first + group, self.rows))
            place = None if self.place is None else self.place[part]
            ends = offsets[part.start : part.stop + 1]
            yield part, replace(self, offsets=ends, place=place, rows=part.stop - part.start)


def _back(
    run: LaunchArgs, saved: Sequence[Tensor], d_y: Tensor, d_ends: Sequence[Tensor]
) -> list[Tensor]:
    """The gradients of tokens, constants and initial states, in this order.

    saved  tokens, constants and the states before each segment
    """
    kernels, plan = run.kernels, run.plan
    given, saved_states = _split_last(saved, len(kernels.states))
    tokens, constants = _split_last(given, len(kernels.constants))
    shape = tokens[0].shape[:3]
    d_y, d_ends = d_y.contiguous(), tuple(d.contiguous() for d in d_ends)
    of_tokens = gradient_buffers(plan, kernels.tokens, tokens)
    of_constants: list[list[Tensor]] = []
    of_states: list[list[Tensor]] = []
    for part, some in run.groups(shape, d_y.device):
        d_after = [d[part] for d in d_ends]
        each = [x.expand(some.rows, *x.shape) for x in constants]
        replayed = [
            d.new_empty(
                recompute_rows(axes, plan.blocks, some.rows), shape[2], plan.segment, *d.shape[2:]
            )
            for (_, axes), d in zip(kernels.states, d_ends, strict=True)
        ]
        shares = gradient_buffers(plan, kernels.constants, each)
        of_first = gradient_buffers(plan, kernels.states, d_after)
        held = [x[part.start :] for x in saved_states]
        tensors = [*given, d_y, *held, *replayed, *d_after, *of_tokens, *shares, *of_first]
        _launch(kernels.backward, some, tensors, shape)
        of_constants.append([_summed(x).sum(0, keepdim=True) for x in shares])
        of_states.append([_summed(x) for x in of_first])
    found = [_summed(x) for x in of_tokens]
    found += [_summed(torch.cat(x)) for x in zip(*of_constants, strict=True)]
    found += [torch.cat(x) for x in zip(*of_states, strict=True)]
    return [g.to(x.dtype) for g, x in zip(found, [*given, *d_ends], strict=True)]


def _split_last(tensors: Sequence[Tensor], last: int) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """All but the last ``last`` tensors, and these."""
    return tensors[: len(tensors) - last], tensors[len(tensors) - last :]


def gradient_buffers(
    plan: LaunchConfig, named: Sequence[tuple[str, tuple[str, ...]]], like: Sequence[Tensor]
) -> list[Tensor]:
    """Uninitialised tensors for gradients, [blocks or 1, …].

    A gradient without the value axis is a sum over it: each program that has a block of that axis
    writes a part of its own.
    """
    return [
        x.new_empty(1, *x.shape)
        if plan.blocks == 1 or "value" in axes
        else x.new_empty(plan.blocks, *x.shape, dtype=torch.float32)
        for (_, axes), x in zip(named, like, strict=True)
    ]


def _summed(shares: Tensor) -> Tensor:
    """The sum of the parts [blocks, …].  Kernels use no atomics, so that runs are bit-identical."""
    return shares[0] if len(shares) == 1 else shares.sum(0)


def _require_gpu(x: Tensor) -> None:
    if not x.is_cuda and not interpreting():
        raise RuntimeError(
            f"Triton kernels run on a GPU, and these tensors are on {x.device}; "
            "set TRITON_INTERPRET=1 before importing triton to interpret them"
        )
    patch_interpreter()


def _launch(kernel: Any, run: LaunchArgs, tensors: list[Tensor], shape: tuple[int, ...]) -> None:
    """Launch a kernel on the grid (sequences * heads, blocks of the value axis)."""
    batch, time, heads = shape
    plan = run.plan
    keep = {"KEEP": run.keep} if kernel is run.kernels.forward else {}
    sizes = {"V": plan.sizes["value"], "BV": plan.tile["value"]}
    if "key" in plan.sizes:
        sizes |= {"K": plan.sizes["key"], "BK": plan.tile["key"]}
    place = [] if run.place is None else [run.place]
    device = tensors[0].device
    on_gpu = device.type == "cuda"
    inside: AbstractContextManager[Any] = torch.cuda.device(device) if on_gpu else nullcontext()
    with inside:
        kernel[(run.rows * heads, plan.blocks)](
            *tensors, run.offsets, *place, batch * time, time, heads,
            **sizes, SEGMENT=plan.segment, PACKED=run.offsets is not None,
            num_warps=plan.warps, **keep,
        )  # fmt: skip
