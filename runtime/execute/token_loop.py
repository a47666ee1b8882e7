"""Runs a memory token by token in plain torch: for decoding, and for rules without a chunk form.

`run_token_loop` is differentiable as often as one likes, and keeps what every token computes.
`TokenForm` keeps the states at the start of each stretch of tokens instead, and computes a single
stretch again while its gradients are taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor

from miras_dsl.runtime.ops.tensor_ops import Sizes

from .call import MemoryCall, per_token, position_after
from .form import Computed, Gradients, leaves_of, with_autograd
from .program_table import BlockEdge, MemoryTable
from .tracing import may_look

SHORTEST = 32
"""Tokens of a stretch at least: below it a second forward pass saves nothing that counts."""


def stretch_length(tokens: int) -> int:
    """How many of T tokens are computed again at a time: about sqrt(T).

    Then of T tokens about 2 sqrt(T) are kept: a state for each stretch, and what the tokens of one
    stretch compute.
    """
    return max(SHORTEST, isqrt(tokens))


def run_token_loop(call: MemoryCall) -> tuple[Tensor, dict[str, Tensor]]:
    """The answers [B, T, H, *answer] and the state after a call that is not empty."""
    computed = _compute(call, max(1, call.tokens), False)
    return computed.y, computed.after


@dataclass(frozen=True, slots=True)
class TokenForm:
    """The token-by-token form of a memory."""

    memory: MemoryTable

    def saves(self) -> int:
        """A tensor for each state."""
        return len(self.memory.states)

    def compute(self, call: MemoryCall, save: bool) -> Computed:
        """See `form.Form`.  Saved are the states [stretches, H, *axes] before each stretch of each
        sequence; rows that start together lie together."""
        return _compute(call, stretch_length(call.tokens), save)

    def gradients(
        self,
        call: MemoryCall,
        saved: Sequence[Tensor],
        d_y: Tensor,
        d_after: Mapping[str, Tensor],
    ) -> Gradients:
        """See `form.Form`."""
        length = stretch_length(call.tokens)
        if call.bounds is None:
            return _gradients(call, saved, d_y, d_after, length)
        timed = {f.name for f in call.memory.inputs if f.kind in ("token", "gate")}
        found = {name: torch.zeros_like(x) for name, x in call.inputs.items()}
        found |= {
            f"state {name}": d_after[name].clone()
            for name, x in call.state.items()
            if x.is_floating_point()
        }
        first = 0
        for n, alone in enumerate(call.sequences()):
            if alone.empty:
                continue
            start, end = call.bounds.ends[n], call.bounds.ends[n + 1]
            last = first - (-alone.tokens // length)
            here = {name: d[n : n + 1] for name, d in d_after.items()}
            own = [x[first:last] for x in saved]
            for name, d in _gradients(alone, own, d_y[:, start:end], here, length).items():
                if name.startswith("state "):
                    found[name][n : n + 1] = d
                elif name in timed:
                    found[name][:, start:end] = d
                else:
                    found[name] += d
            first = last
        return found


def _compute(call: MemoryCall, length: int, save: bool) -> Computed:
    """The answers and the state after a call, in stretches of so many tokens."""
    if call.bounds is None:
        return _compute_rows(call, length, save)
    parts = [
        Computed(*one.empty_result()) if one.empty else _compute_rows(one, length, save)
        for one in call.sequences()
    ]
    after = {name: torch.cat([p.after[name] for p in parts]) for name in parts[0].after}
    kept = [p.saved for p in parts if p.saved]
    saved = tuple(torch.cat(own) for own in zip(*kept, strict=True))
    return Computed(torch.cat([p.y for p in parts], 1), after, saved)


@dataclass(frozen=True, slots=True)
class _Tokens:
    """A call's tensors, laid out for steps: every row is a sequence.

    moving   [B, T * steps, H, *axes] by name
    fixed    [H, *axes] by name
    carried  states by name
    tails    the state of the window after the call
    """

    moving: dict[str, Tensor]
    fixed: dict[str, Tensor]
    carried: dict[str, Tensor]
    tails: dict[str, Tensor]


def _lay_out(call: MemoryCall) -> _Tokens:
    moving, tails = per_token(call, exact=True)
    return _Tokens(moving, call.constants(), call.carried(), tails)


def _position(call: MemoryCall, start: int) -> Tensor | None:
    """[B]: where in its block each sequence stands before token ``start``; None without blocks."""
    block = call.memory.block
    return (call.state["position"] + start) % block if block else None


def _compute_rows(call: MemoryCall, length: int, save: bool) -> Computed:
    """`_compute` for a call in which every row is a sequence."""
    memory, laid = call.memory, _lay_out(call)
    states = [laid.carried[s.name] for s in memory.states]
    answers: list[Tensor] = []
    entries: list[list[Tensor]] = []
    for start in range(0, call.tokens, length):
        entries.append(states)
        steps = slice(start * memory.steps_per_token, (start + length) * memory.steps_per_token)
        here = {name: x[:, steps] for name, x in laid.moving.items()}
        y, states = _stretch(call, here, laid.fixed, states, _position(call, start))
        answers.append(y)
    new = {s.name: x for s, x in zip(memory.states, states, strict=True)}
    saved = tuple(torch.cat(own) for own in zip(*entries, strict=True)) if save else ()
    after = {**new, **laid.tails, **position_after(call)}
    return Computed(torch.cat(answers, 1).to(call.out), after, saved)


def _gradients(
    call: MemoryCall,
    saved: Sequence[Tensor],
    d_y: Tensor,
    d_after: Mapping[str, Tensor],
    length: int,
) -> Gradients:
    """The gradients of a call in which every row is a sequence, from its last stretch to the first."""
    memory, micro = call.memory, call.memory.steps_per_token
    with with_autograd(), torch.enable_grad():
        leaves = leaves_of(call)
        laid = _lay_out(leaves.call)
    d_moving = {name: torch.zeros_like(x) for name, x in laid.moving.items()}
    d_fixed = {name: torch.zeros_like(x) for name, x in laid.fixed.items()}
    d_states = [d_after[s.name].to(call.dtype) for s in memory.states]
    for start in reversed(range(0, call.tokens, length)):
        steps = slice(start * micro, (start + length) * micro)
        rows = slice(start // length * call.batch, (start // length + 1) * call.batch)
        with with_autograd(), torch.enable_grad():
            here = {n: x.detach()[:, steps].requires_grad_() for n, x in laid.moving.items()}
            fixed = {n: x.detach().requires_grad_() for n, x in laid.fixed.items()}
            states = [x[rows].detach().requires_grad_() for x in saved]
            y, after = _stretch(call, here, fixed, states, _position(call, start))
            pairs = [(y, d_y[:, start : start + length].to(y.dtype))]
            pairs += zip(after, d_states, strict=True)
            pairs = [(x, g) for x, g in pairs if x.requires_grad]
            wanted = [*here.values(), *fixed.values(), *states]
            found = iter(
                torch.autograd.grad(
                    [x for x, _ in pairs],
                    wanted,
                    [g for _, g in pairs],
                    allow_unused=True,
                    materialize_grads=True,
                )
            )
        for name in here:
            d_moving[name][:, steps] = next(found)
        for name in fixed:
            d_fixed[name] += next(found)
        d_states = list(found)
    made = [(x, d_moving[n]) for n, x in laid.moving.items()]
    made += [(x, d_fixed[n]) for n, x in laid.fixed.items()]
    made += [(laid.carried[s.name], d) for s, d in zip(memory.states, d_states, strict=True)]
    made += [(x, d_after[n]) for n, x in laid.tails.items()]
    with with_autograd():
        return leaves.pull_back(made)


def _stretch(
    call: MemoryCall,
    moving: Mapping[str, Tensor],
    fixed: Mapping[str, Tensor],
    states: Sequence[Tensor],
    position: Tensor | None,
) -> tuple[Tensor, list[Tensor]]:
    """Some tokens one after the other: their answers [B, tokens, H, *axes], and the states after them.

    moving    [B, tokens * steps, H, *axes] by name
    fixed     what is the same for every token, by name
    position  [B], where in its block each sequence stands before the first of these tokens
    """
    memory, size, micro = call.memory, call.size(), call.memory.steps_per_token
    values = {s.argument: x for s, x in zip(memory.states, states, strict=True)}
    answers = []
    for t, fed in enumerate(zip(*(x.unbind(1) for x in moving.values()), strict=True)):
        here = {**fixed, **dict(zip(moving, fed, strict=True))}
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
    return torch.stack(answers, 1), [values[s.argument] for s in memory.states]


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
    if edge is None or (may_look(rows) and not bool(rows.any())):
        return values
    made = edge.forward({**inputs, **values}, size)
    arguments = {s.name: s.argument for s in memory.states}
    result = dict(values)
    for name, new in made.items():
        old = values[arguments[name]]
        result[arguments[name]] = torch.where(rows.reshape(-1, *[1] * (old.dim() - 1)), new, old)
    return result
