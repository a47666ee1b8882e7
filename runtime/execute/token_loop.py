"""Runs a memory token by token in plain torch: for decoding, and for rules without a chunk form.

Gradients, second ones too, come from autograd.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from miras_dsl.runtime.ops.tensor_ops import Sizes

from .call import MemoryCall, per_token, position_after
from .program_table import BlockEdge, MemoryTable


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
    memory, size = call.memory, call.size()
    of_steps, tails = per_token(call, exact=True)
    constants, carried = call.constants(), call.carried()
    values = {s.argument: carried[s.name] for s in memory.states}
    position = call.state["position"] if memory.block else None
    answers = []
    for t in range(call.tokens * memory.steps_per_token):
        here = constants | {name: x[:, t] for name, x in of_steps.items()}
        if position is not None:
            here["position"] = (position + 1).to(call.dtype)[:, None].expand(-1, call.heads)
            if t % memory.steps_per_token == 0:
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
        if t % memory.steps_per_token == memory.read_at:
            answers.append(made["y"])
        if position is not None and (t + 1) % memory.steps_per_token == 0:
            position = (position + 1) % memory.block
            values = apply_block_edge(
                memory, memory.at_block_end, values, here, position == 0, size
            )
    new = dict(call.state) | tails | {s.name: values[s.argument] for s in memory.states}
    return torch.stack(answers, 1).to(call.out), new | position_after(call)


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
