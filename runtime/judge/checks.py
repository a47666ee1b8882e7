"""What a certificate checks: one call, several calls in a row, token by token, and causality.

Each check runs the implementation on a case.  All but causality compare with the oracle's outcome for
the whole sequence, so calls that are split in any way must give the same numbers as one call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from miras_dsl.runtime.judge.oracle.run import State
from miras_dsl.runtime.judge.oracle.token_inputs import leaf_axes
from miras_dsl.spec import MemorySpec

from .cases import Case, parameters
from .reference import (
    MAX_REFERENCE_DRAWS,
    Call,
    Outcome,
    cast_like,
    differentiable_state,
    kind_of,
    leaves,
    outcome,
    redraw,
    reference,
)
from .tolerance import Comparison, identical, is_wide, judge, missing


class Implementation(Protocol):
    """A memory as a differentiable function; inputs, state and result are those of `oracle.run`."""

    def __call__(
        self,
        inputs: Mapping[str, Tensor],
        state: State | None,
        cu_seqlens: Tensor | None = None,
    ) -> tuple[Tensor, State]: ...


@dataclass(frozen=True, slots=True)
class Bench:
    """An implementation under test, and the type and device in which it runs."""

    spec: MemorySpec
    build: Callable[[Mapping[str, int]], Implementation]
    dtype: torch.dtype
    device: str
    seed: int

    def implementation(self, case: Case) -> Implementation:
        """The implementation for the sizes of a case."""
        return self.build(parameters(self.spec, case))

    def cut(self, inputs: Mapping[str, Tensor], low: int, high: int) -> dict[str, Tensor]:
        """The inputs of the tokens from ``low`` to ``high``, and all constants."""
        timed = {name for _, name in leaf_axes(self.spec)}
        return {name: t[:, low:high] if name in timed else t for name, t in inputs.items()}

    def comparisons(self, case: Case, found: Outcome, forward: bool = False) -> list[Comparison]:
        """Every quantity of an outcome compared with the oracle's.

        forward  leave gradients out

        In float32 and float64 the low-precision reference is drawn again, up to
        `MAX_REFERENCE_DRAWS` times, before a comparison counts as red.
        """
        drawn = (self.spec, case, self.dtype, self.seed)
        expected = reference(*drawn)
        lows = [expected.low]
        rows = self._compare_all(case, found, expected.exact, lows, forward)
        while (
            is_wide(self.dtype)
            and len(lows) <= MAX_REFERENCE_DRAWS
            and any(r.verdict == "red" for r in rows)
        ):
            lows.append(redraw(*drawn, len(lows)))
            rows = self._compare_all(case, found, expected.exact, lows, forward)
        return rows

    def _compare_all(
        self, case: Case, found: Outcome, expected: Outcome, lows: list[Outcome], forward: bool
    ) -> list[Comparison]:
        longest = max(1, *case.lengths)
        rows = []
        for name, exact in expected.values.items():
            if forward and name.startswith("d "):
                continue
            kind = kind_of(self.spec, name)
            if (value := found.values.get(name)) is None:
                rows.append(missing(name, kind))
            else:
                draws = [low.values[name] for low in lows]
                rows.append(judge(name, kind, value, exact, draws, self.dtype, longest))
        return rows


def check_whole(bench: Bench, case: Case) -> list[Comparison]:
    """One call, packed if the case is: output, final state and every gradient."""
    run = bench.implementation(case)
    return bench.comparisons(case, _outcome(bench, case, run))


def check_split(bench: Bench, case: Case) -> list[Comparison] | None:
    """Four calls that carry the state, one of them empty: output, final state, every gradient."""
    if case.packed or case.tokens < 2:
        return None
    run = bench.implementation(case)
    third = max(1, case.tokens // 3)
    cuts = [0, third, third, case.tokens - 1, case.tokens]

    def apply(
        inputs: Mapping[str, Tensor], state: State | None, offsets: Tensor | None
    ) -> tuple[Tensor, State]:
        return _in_parts(bench, run, inputs, state, cuts)

    return bench.comparisons(case, _outcome(bench, case, apply))


def check_decode(bench: Bench, case: Case) -> list[Comparison] | None:
    """Token by token, as in decoding: output and final state."""
    if case.packed or not case.warm or not 2 <= case.tokens <= 70:
        return None
    run = bench.implementation(case)
    inputs, state, _, _ = _leaves(bench, case)
    with torch.no_grad():
        y, after = _in_parts(bench, run, inputs, state, list(range(case.tokens + 1)))
    values = {
        "y": y,
        **{f"state {n}": t for n, t in differentiable_state(bench.spec, after).items()},
    }
    return bench.comparisons(case, Outcome({n: t.cpu() for n, t in values.items()}), forward=True)


def check_causal(bench: Bench, case: Case) -> list[Comparison] | None:
    """Other inputs from one token on: every output before it must stay the same bit for bit."""
    if case.packed or case.tokens < 2:
        return None
    run = bench.implementation(case)
    inputs, state, _, _ = _leaves(bench, case)
    at = case.tokens // 2
    timed = {name for _, name in leaf_axes(bench.spec)}
    mask = (torch.arange(case.tokens, device=bench.device) >= at)[None, :, None]
    changed = {
        name: torch.where(mask.reshape(1, -1, *([1] * (t.dim() - 2))), t / 2 + t.flip(1) / 4, t)
        if name in timed
        else t
        for name, t in inputs.items()
    }
    with torch.no_grad():
        before, _ = run(inputs, state)
        after, _ = run(changed, state)
    return [identical(f"y before token {at}", "output", before[:, :at], after[:, :at])]


CHECKS: Mapping[str, Callable[[Bench, Case], list[Comparison] | None]] = {
    "whole": check_whole,
    "split": check_split,
    "steps": check_decode,
    "causal": check_causal,
}
"""Name -> check; a check returns None for a case to which it does not apply."""


def _outcome(bench: Bench, case: Case, call: Call) -> Outcome:
    drawn = reference(bench.spec, case, bench.dtype, bench.seed).data
    return outcome(bench.spec, call, drawn, cast_like(bench.spec, bench.dtype), bench.device)


def _leaves(
    bench: Bench, case: Case
) -> tuple[dict[str, Tensor], State | None, Tensor, Tensor | None]:
    drawn = reference(bench.spec, case, bench.dtype, bench.seed).data
    return leaves(bench.spec, drawn, cast_like(bench.spec, bench.dtype), bench.device)


def _in_parts(
    bench: Bench,
    run: Implementation,
    inputs: Mapping[str, Tensor],
    state: State | None,
    cuts: list[int],
) -> tuple[Tensor, State]:
    parts = []
    for low, high in pairwise(cuts):
        y, state = run(bench.cut(inputs, low, high), state)
        parts.append(y)
    assert state is not None
    return torch.cat(parts, 1), state
