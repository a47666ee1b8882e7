"""Runs a memory token by token in plain torch: for decoding, and for rules without a chunk form.

Gradients, second ones too, come from autograd.  A long sequence is cut into stretches, and what a
token computes is kept for one stretch at a time (see `_replay_length`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from itertools import pairwise
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from miras_dsl.runtime.ops.tensor_ops import Sizes

from .call import MemoryCall, per_token, position_after
from .program_table import BlockEdge, MemoryTable

SHORTEST = 32
"""Tokens of a stretch at least: below it a second forward pass saves nothing that counts."""


def run_token_loop(call: MemoryCall) -> tuple[Tensor, dict[str, Tensor]]:
    """The answers [B, T, H, *answer] and the state after a call that is not empty."""
    if call.bounds is None:
        return _sequences(call)
    timed = {f.name for f in call.memory.inputs if f.kind in ("token", "gate")}
    answers, states = [], []
    for n, (start, end) in enumerate(pairwise(call.bounds.ends)):
        inputs = {name: x[:, start:end] if name in timed else x for name, x in call.inputs.items()}
        state = {name: x[n : n + 1] for name, x in call.state.items()}
        alone = replace(call, inputs=inputs, state=state, bounds=None, tokens=end - start)
        y, new = alone.empty_result() if alone.empty else _sequences(alone)
        answers.append(y)
        states.append(new)
    return torch.cat(answers, 1), {name: torch.cat([s[name] for s in states]) for name in states[0]}


def _sequences(call: MemoryCall) -> tuple[Tensor, dict[str, Tensor]]:
    """The same for a call in which every row is a sequence."""
    memory, micro = call.memory, call.memory.steps_per_token
    moving, tails = per_token(call, exact=True)
    fixed, carried = call.constants(), call.carried()
    position = call.state["position"] if memory.block else None
    given = (*moving.values(), *fixed.values(), *carried.values())
    replayed = _replay_length(call.tokens, given)
    pieces = {name: x.split(replayed * micro, 1) for name, x in moving.items()}
    states = tuple(carried[s.name] for s in memory.states)
    answers: list[Tensor] = []
    for n, start in enumerate(range(0, call.tokens, replayed)):
        here = tuple(piece[n] for piece in pieces.values())
        stretch = partial(_stretch, call, tuple(moving), tuple(fixed), position)
        tensors = (*here, *fixed.values(), *states)
        made = _Replayed.apply(stretch, *tensors) if replayed < call.tokens else stretch(*tensors)
        y, *after = made
        answers.append(y)
        states = tuple(after)
        if position is not None:
            position = (position + min(replayed, call.tokens - start)) % memory.block
    new = {s.name: x for s, x in zip(memory.states, states, strict=True)}
    return torch.cat(answers, 1).to(call.out), {
        **call.state,
        **tails,
        **new,
        **position_after(call),
    }


def _replay_length(tokens: int, given: Iterable[Tensor]) -> int:
    """How many tokens a stretch has that is computed again in the backward pass.

    Autograd would keep what every token computes.  Instead the states at the start of each stretch
    are kept, and what a single stretch computes while its gradients are taken: of T tokens about
    2 sqrt(T), at the price of a second forward pass.  All of T where that is not worth it, where no
    gradient is wanted, or under a transform of `torch.func`, which has no such step.
    """
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in given)
    transformed = torch._C._are_functorch_transforms_active()
    return max(SHORTEST, isqrt(tokens)) if wanted and not transformed else tokens


class _Replayed(torch.autograd.Function):
    """A function of tensors that keeps its arguments only, and is computed again for its gradients."""

    @staticmethod
    def forward(
        ctx: Any, function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.function = function
        ctx.save_for_backward(*tensors)
        return function(*tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        # With `create_graph` the gradients are functions of the arguments in turn.  A view of each
        # argument keeps apart how one of them was computed from another.
        again = torch.is_grad_enabled()
        wanted = ctx.needs_input_grad[1:]
        kind = gradients[0].device.type
        with torch.enable_grad(), torch.autocast(kind, enabled=False):
            given = [
                x.view_as(x) if again else x.detach().requires_grad_(need)
                for x, need in zip(ctx.saved_tensors, wanted, strict=True)
            ]
            made = ctx.function(*given)
        results = [(x, g) for x, g in zip(made, gradients, strict=True) if x.requires_grad]
        found = iter(
            torch.autograd.grad(
                [x for x, _ in results],
                [x for x, need in zip(given, wanted, strict=True) if need],
                [g for _, g in results],
                create_graph=again,
                allow_unused=True,
            )
        )
        return None, *(next(found) if need else None for need in wanted)


def _stretch(
    call: MemoryCall,
    moving: tuple[str, ...],
    fixed: tuple[str, ...],
    position: Tensor | None,
    *tensors: Tensor,
) -> tuple[Tensor, ...]:
    """Some tokens one after the other: their answers [B, tokens, H, *axes], then the states.

    moving    names of the first tensors, [B, tokens * steps, H, *axes]
    fixed     names of the next ones, which are the same for every token; then come the states
    position  [B], where in its block each sequence stands before the first of these tokens
    """
    memory, size, micro = call.memory, call.size(), call.memory.steps_per_token
    count = len(moving) + len(fixed)
    steps = zip(*(x.unbind(1) for x in tensors[: len(moving)]), strict=True)
    perpetual = dict(zip(fixed, tensors[len(moving) : count], strict=True))
    values = {s.argument: x for s, x in zip(memory.states, tensors[count:], strict=True)}
    answers = []
    for t, fed in enumerate(steps):
        here = perpetual | dict(zip(moving, fed, strict=True))
        if position is not None:
            here["position"] = (position + 1).to(call.dtype)[:, None].expand(-1, call.heads)
            if t % micro == 0:
                values = apply_block_edge(
                    memory, memory.at_block_start, values, here, position == 0, size
                )
        made = memory.token({**here, **values}, size)
        values = {
            s.argument: x
            if isinstance(x := made[s.name], Tensor)
            else torch.full_like(values[s.argument], x)
            for s in memory.states
        }
        if t % micro == memory.read_at:
            answers.append(made["y"])
        if position is not None and (t + 1) % micro == 0:
            position = (position + 1) % memory.block
            values = apply_block_edge(
                memory, memory.at_block_end, values, here, position == 0, size
            )
    return torch.stack(answers, 1), *(values[s.argument] for s in memory.states)


def apply_block_edge(
    memory: MemoryTable,
    edge: BlockEdge | None,
    values: dict[str, Tensor],
    inputs: Mapping[str, Tensor],
    rows: Tensor,
    size: Sizes,
) -> dict[str, Tensor]:
    """The states (argument -> [B, H, *axes]) after the change at the start or end of a block.

    rows  [B], for which rows a block starts or ends here; the others stay as they were
    """
    if edge is None or not bool(rows.any()):
        return values
    made = edge.forward({**inputs, **values}, size)
    arguments = {s.name: s.argument for s in memory.states}
    result = dict(values)
    for name, new in made.items():
        old = values[arguments[name]]
        result[arguments[name]] = torch.where(rows.reshape(-1, *[1] * (old.dim() - 1)), new, old)
    return result
