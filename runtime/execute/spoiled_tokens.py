"""A token that is not finite must not spoil the tokens before it.

In chunk form the answers of a chunk are products of matrices that are 0 above the diagonal, and 0 times
NaN is NaN: no mask keeps a bad token out of the rows before it.  So where an answer is not finite, the
tokens from the first bad one on are taken out, the call is computed again, and their answers and the
states after them are made NaN, as the rule computed token by token would have them.

This reads the inputs alone.  Numbers that overflow inside a chunk still spoil all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from .call import MemoryCall
from .form import Computed
from .tracing import may_look

Run = Callable[[MemoryCall], Computed]


def without_spoiled(call: MemoryCall, run: Run) -> Computed:
    """What ``run`` computes, in which a bad token reaches itself and later ones only.

    Gradients through a NaN stay NaN.  Costs one look at the answers where all is well.
    """
    computed = run(call)
    if not may_look(computed.y) or bool(computed.y.isfinite().all()):
        return computed
    spoiled = _spoiled(call)
    if spoiled is None:
        return computed
    timed = {f.name for f in call.memory.inputs if f.kind in ("token", "gate")}
    clean = {
        name: torch.where(_shaped(spoiled, x), 0.0, x) if name in timed else x
        for name, x in call.inputs.items()
    }
    again = run(replace(call, inputs=clean))
    ends = spoiled[:, -1]
    if call.bounds is not None:
        none = torch.zeros_like(spoiled[0, 0])
        steps = pairwise(call.bounds.ends)
        ends = torch.stack([spoiled[0, end - 1] if end > start else none for start, end in steps])
    weights = {s.name for s in call.memory.states}
    after = {
        name: again.after[name] * _factor(ends, again.after[name]) if name in weights else x
        for name, x in computed.after.items()
    }
    return Computed(again.y * _factor(spoiled, again.y), after, again.saved)


def _spoiled(call: MemoryCall) -> Tensor | None:
    """[B, T, H]: whether a token or an earlier one of its sequence is not finite; None if none is.

    The logarithm of a decay may be -inf: that is a decay of 0.
    """
    bad = torch.zeros(call.batch, call.tokens, call.heads, dtype=torch.bool, device=call.device)
    for feed in call.memory.inputs:
        if feed.kind in ("token", "gate"):
            x = call.inputs[feed.name].detach().reshape(*bad.shape, -1)
            wrong = x.isnan() | (x == torch.inf) if feed.log else ~x.isfinite()
            bad |= wrong.any(-1)
    if not bool(bad.any()):
        return None
    ends = (0, call.tokens) if call.bounds is None else call.bounds.ends
    parts = [bad[:, start:end].cumsum(1) > 0 for start, end in pairwise(ends)]
    return torch.cat(parts, 1)


def _shaped(mask: Tensor, like: Tensor) -> Tensor:
    return mask.reshape(*mask.shape, *[1] * (like.dim() - mask.dim()))


def _factor(mask: Tensor, like: Tensor) -> Tensor:
    """NaN where the mask says so, else 1."""
    return torch.where(_shaped(mask, like), torch.nan, 1.0).to(like.dtype)
