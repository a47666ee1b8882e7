"""Debug mode: finds the first tensor of a memory that is not finite, and its token.

It is on inside `debugging()`, and everywhere if the environment has MIRAS_DEBUG=1.  When the answer or
the state of a call is not finite, the call is computed again, token by token, until the first such
tensor is found.  Gradients are not checked here; a training run reports them (`train.nonfinite`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from miras_dsl.exceptions import EnvironmentFailure
from miras_dsl.runtime.execute.call import MemoryCall
from miras_dsl.runtime.execute.token_loop import run_token_loop

_asked: ContextVar[bool] = ContextVar("miras_debug", default=False)


class NotFinite(EnvironmentFailure):
    """Numbers of a memory are not finite; the message names the first tensor and its token."""

    status = 4


def on() -> bool:
    """Whether debug mode is on here."""
    return _asked.get() or os.environ.get("MIRAS_DEBUG", "0") not in ("", "0")


@contextmanager
def debugging() -> Iterator[None]:
    """Turns debug mode on inside a `with`."""
    before = _asked.set(True)
    try:
        yield
    finally:
        _asked.reset(before)


def require_finite(call: MemoryCall, y: Tensor, after: Mapping[str, Tensor]) -> None:
    """Raise NotFinite unless the answer ``y`` and the state ``after`` a call are finite."""
    if bool(y.isfinite().all()) and all(bool(x.isfinite().all()) for x in after.values()):
        return
    with torch.no_grad():
        reason = _first(call)
    raise NotFinite(f"{call.memory.name}: {reason}")


def _first(call: MemoryCall) -> str:
    """Which tensor was the first that is not finite, in one sentence."""
    kinds = {given.name: given.kind for given in call.memory.inputs}
    timed = {name for name, kind in kinds.items() if kind in ("token", "gate")}
    for name, x in call.state.items():
        if (place := _bad(x)) is not None:
            return f"the state {name} is not finite before the first token{_row(place)}"
    for name in kinds.keys() - timed:
        if _bad(call.inputs[name]) is not None:
            return f"{name} is not finite"
    packed = call.bounds is not None
    ends = (0, call.tokens) if call.bounds is None else call.bounds.ends
    for n, (start, end) in enumerate(pairwise(ends)):
        carried = {name: x[n : n + 1] if packed else x for name, x in call.state.items()}
        for t in range(start, end):
            here = {n: x[:, t : t + 1] if n in timed else x for n, x in call.inputs.items()}
            when = f"token {t - start}"
            for name in sorted(timed):
                # The logarithm of a gate of 0 is -inf, which is no fault.
                if (place := _bad(here[name].nan_to_num(nan=torch.nan, neginf=0.0))) is not None:
                    return f"the input {name} is not finite at {when}{_row(place, n, packed)}"
            one = replace(call, inputs=here, state=carried, bounds=None, tokens=1)
            y, carried = run_token_loop(one)
            made = {f"state {name}": x for name, x in carried.items()} | {"answer": y}
            for name, x in made.items():
                if (place := _bad(x)) is not None:
                    return f"the {name} is not finite after {when}{_row(place, n, packed)}"
    return (
        "token by token every number is finite, and as it was computed (in kernels or in chunks) "
        "some number is not"
    )


def _bad(x: Tensor) -> list[int] | None:
    """The index of the first number that is not finite; None if all are."""
    found = (~x.isfinite()).nonzero()
    return found[0].tolist() if len(found) else None


def _row(place: list[int], n: int = 0, packed: bool = False) -> str:
    return f" of sequence {n if packed else place[0]}"
