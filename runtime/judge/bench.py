"""An implementation under test, and how its results are compared with the oracle's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn

from miras_dsl.runtime.judge.oracle.run import State
from miras_dsl.runtime.judge.oracle.token_inputs import leaf_axes
from miras_dsl.spec import MemorySpec

from . import obstacles
from .cases import Case, parameters
from .obstacles import Obstacle, blocked, explained
from .reference import (
    Call,
    Outcome,
    cast_like,
    kind_of,
    leaves,
    outcome,
    redraw,
    reference,
)
from .tolerance import Comparison, is_wide, judge, missing

MAX_REFERENCE_DRAWS = 8
"""How often the low-precision reference is drawn again at most."""


class Implementation(Protocol):
    """A memory as a differentiable function; inputs, state and result are those of `oracle.run`."""

    def __call__(
        self,
        inputs: Mapping[str, Tensor],
        state: State | None,
        cu_seqlens: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, State]: ...


class Layer(Protocol):
    """A memory with the layer that computes its tokens and gates from features x [B, T, width]."""

    def new(self, width: int, heads: int) -> nn.Module:
        """A layer with its parameters at their start."""
        ...

    def gates(self, layer: nn.Module) -> dict[str, nn.Parameter]:
        """The learned parts of its gates, by name."""
        ...

    def inputs(self, layer: nn.Module, x: Tensor) -> tuple[dict[str, Tensor], State]:
        """The inputs and the first state of `oracle.run`."""
        ...

    def answer(self, layer: nn.Module, x: Tensor) -> Tensor:
        """The memory's answers, by the code under test."""
        ...


@dataclass(frozen=True, slots=True)
class Bench:
    """An implementation under test, and the type and device in which it runs.

    chunk    tokens of a chunk of the form
    layer    the memory as a layer, which computes its gates; None: there is none
    by_token whether the form goes token by token in any case
    """

    spec: MemorySpec
    build: Callable[[Mapping[str, int]], Implementation]
    dtype: torch.dtype
    device: str
    seed: int
    chunk: int = 64
    layer: Layer | None = None
    by_token: bool = False

    def implementation(self, case: Case) -> Implementation:
        """The implementation for the sizes of a case."""
        return self.build(parameters(self.spec, case))

    def cut(self, inputs: Mapping[str, Tensor], low: int, high: int) -> dict[str, Tensor]:
        """The inputs of the tokens from ``low`` to ``high``, and all constants."""
        timed = {name for _, name in leaf_axes(self.spec)}
        return {name: t[:, low:high] if name in timed else t for name, t in inputs.items()}

    def outcome(self, case: Case, call: Call) -> Outcome:
        """All results of the implementation, and all gradients."""
        drawn = reference(self.spec, case, self.dtype, self.seed).data
        return outcome(self.spec, call, drawn, cast_like(self.spec, self.dtype), self.device)

    def leaves(self, case: Case) -> tuple[dict[str, Tensor], State | None, Tensor, Tensor | None]:
        """The tensors of a case in the type of the implementation, as `reference.leaves`."""
        drawn = reference(self.spec, case, self.dtype, self.seed).data
        return leaves(self.spec, drawn, cast_like(self.spec, self.dtype), self.device)

    def obstacle(self, case: Case) -> Obstacle | None:
        """What keeps the whole case from being judged."""
        return obstacles.obstacle(self.spec, case, self.dtype, self.seed)

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
        if (obstacle := self.obstacle(case)) is not None:
            return blocked(rows, obstacle)
        while (
            is_wide(self.dtype)
            and len(lows) <= MAX_REFERENCE_DRAWS
            and any(r.verdict == "red" and r.finite for r in rows)
        ):
            lows.append(redraw(*drawn, len(lows)))
            rows = self._compare_all(case, found, expected.exact, lows, forward)
        return [explained(*drawn[:3], self.seed, row) for row in rows]

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
                row = judge(name, kind, value, exact, draws, self.dtype, longest, case.unit)
                rows.append(row)
        return rows


def in_parts(
    bench: Bench,
    run: Implementation,
    inputs: Mapping[str, Tensor],
    state: State | None,
    cuts: list[int],
) -> tuple[Tensor, State]:
    """Several calls in a row, from one of ``cuts`` to the next, which carry the state."""
    parts = []
    for low, high in pairwise(cuts):
        y, state = run(bench.cut(inputs, low, high), state)
        parts.append(y)
    assert state is not None
    return torch.cat(parts, 1), state
