"""A call in pieces of n tokens, with the state after each piece: to go back to, or to branch from."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from miras_dsl.runtime.execute.call import MemoryCall
from miras_dsl.runtime.execute.form import Computed, Form

Snapshots = dict[str, Tensor]
"""The states after every n tokens by name, [rows, pieces, …]; what is left of a row is 0."""


def in_pieces(
    call: MemoryCall, form: Form, every: int, most: int, one_row: bool
) -> tuple[Computed, Snapshots]:
    """What ``form`` computes of a call, and the states after each ``every`` tokens of a sequence.

    most     pieces of a row
    one_row  packed sequences share a row, as their tokens do; else each has its own
    """
    if call.bounds is None:
        computed, kept = _rows(call, form, every)
        return computed, {n: _filled(x, most) for n, x in kept.items()}
    parts = [_rows(one, form, every) for one in call.sequences()]
    after = {n: torch.cat([c.after[n] for c, _ in parts]) for n in parts[0][0].after}
    y = torch.cat([c.y for c, _ in parts], 1)
    if one_row:
        kept = {n: _filled(torch.cat([s[n] for _, s in parts], 1), most) for n in after}
    else:
        kept = {n: torch.cat([_filled(s[n], most) for _, s in parts]) for n in after}
    return Computed(y, after), kept


def _rows(call: MemoryCall, form: Form, every: int) -> tuple[Computed, Snapshots]:
    """The same for a call in which every row is a sequence."""
    timed = {f.name for f in call.memory.inputs if f.kind in ("token", "gate")}
    state, answers = dict(call.state), []
    kept: dict[str, list[Tensor]] = {name: [] for name in call.state}
    for start in range(0, call.tokens, every):
        here = {n: x[:, start : start + every] if n in timed else x for n, x in call.inputs.items()}
        count = min(every, call.tokens - start)
        piece = replace(call, inputs=here, state=state, tokens=count)
        made = Computed(*piece.empty_result()) if piece.empty else form.compute(piece, False)
        answers.append(made.y)
        state = {**state, **made.after}
        if count == every:
            for name, x in state.items():
                kept[name].append(x)
    y = torch.cat(answers, 1) if answers else call.empty_result()[0]
    stacked = {
        name: torch.stack(xs, 1) if xs else x.new_empty(call.batch, 0, *x.shape[1:])
        for (name, xs), x in zip(kept.items(), call.state.values(), strict=True)
    }
    return Computed(y, state), stacked


def _filled(x: Tensor, length: int) -> Tensor:
    """[rows, n, …] with zeros behind it, up to so many entries."""
    return torch.cat([x, x.new_zeros(len(x), length - x.shape[1], *x.shape[2:])], 1)
