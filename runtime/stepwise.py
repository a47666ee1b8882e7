"""A memory token by token, in plain torch: decoding, and rules that have no chunk form.

Gradients are autograd's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .tiles import Size

if TYPE_CHECKING:
    from .memory import Memory, Turn


def run_stepwise(
    memory: Memory,
    feeds: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The same call as `chunked.run`, one token after the other."""
    if cu_seqlens is None:
        return _sequences(memory, feeds, state)
    bounds = cu_seqlens.tolist()
    answers, states = [], []
    for n, (start, end) in enumerate(zip(bounds, bounds[1:], strict=False)):
        here = {
            f.name: feeds[f.name][:, start:end] if f.kind in ("token", "gate") else feeds[f.name]
            for f in memory.feeds
        }
        y, new = _sequences(memory, here, {name: x[n : n + 1] for name, x in state.items()})
        answers.append(y)
        states.append(new)
    joined = {name: torch.cat([s[name] for s in states]) for name in states[0]}
    return torch.cat(answers, 1), joined


def _sequences(
    memory: Memory, feeds: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    from .chunked import micro_steps, paired, window_of

    kinds = [x.dtype for x in (*feeds.values(), *(state[s.name] for s in memory.states))]
    dtype = torch.float64 if torch.float64 in kinds else torch.float32
    perpetual: dict[str, Tensor] = {}
    moving: dict[str, Tensor] = {}
    positional: dict[str, Tensor] = {}
    lead = next(feeds[f.name] for f in memory.feeds if f.kind in ("token", "gate"))
    size = Size({}, dtype, lead.device)
    for feed, x in paired(memory, feeds):
        x = x.to(torch.float64 if feed.log else dtype)
        if feed.kind in ("token", "gate"):
            moving[feed.name] = micro_steps(memory, feed, x)
            size |= dict(zip(feed.axes, moving[feed.name].shape[3:], strict=True))
        elif feed.kind == "position":
            positional[feed.name] = x
        else:
            perpetual[feed.name] = x
            size |= dict(zip(feed.axes, x.shape[1:], strict=True))
    past, tails = window_of(memory, feeds, state, dtype, None)
    moving |= past
    values = {s.word: state[s.name].to(dtype) for s in memory.states}
    for s in memory.states:
        size |= dict(zip(s.axes, values[s.word].shape[2:], strict=True))
    position = state["position"] if memory.block else None
    block = memory.block // memory.micro if memory.block else 0
    answers = []
    for t in range(lead.shape[1] * memory.micro):
        here = perpetual | {name: x[:, t] for name, x in moving.items()}
        if position is not None:
            here |= {name: x[:, position].T for name, x in positional.items()}
            here["position"] = (position + 1).to(dtype)[:, None].expand(-1, lead.shape[2])
            if t % memory.micro == 0:
                values = _turned(memory, memory.refresh, values, here, position == 0, size)
        made = memory.token({**here, **values}, size)
        values = {
            s.word: x
            if isinstance(x := made[s.name], Tensor)
            else torch.full_like(values[s.word], x)
            for s in memory.states
        }
        if t % memory.micro == memory.read_at:
            answers.append(made["y"])
        if (t + 1) % memory.micro == 0:
            if position is not None:
                position = (position + 1) % block
                values = _turned(memory, memory.close, values, here, position == 0, size)
    new = dict(state) | tails | {s.name: values[s.word] for s in memory.states}
    if position is not None:
        new["position"] = position
    if answers:
        return torch.stack(answers, 1).to(lead.dtype), new
    sizes = [size[axis] for axis in memory.answer]
    return lead.new_zeros(*lead.shape[:3], *sizes), new


def _turned(
    memory: Memory,
    turn: Turn | None,
    values: dict[str, Tensor],
    fed: Mapping[str, Tensor],
    rows: Tensor,
    size: Size,
) -> dict[str, Tensor]:
    """The states on the other side of a block's edge, for the rows that are there."""
    if turn is None or not bool(rows.any()):
        return values
    made = turn.forward({**fed, **values}, size)
    words = {s.name: s.word for s in memory.states}
    result = dict(values)
    for name, new in made.items():
        old = values[words[name]]
        result[words[name]] = torch.where(rows.reshape(-1, *[1] * (old.dim() - 1)), new, old)
    return result
