"""How fast what a memory carries fades: half-lives in tokens, from the factor that keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from math import exp, inf, log

import numpy as np

from miras_dsl.codegen.derive.rotation import rotation
from miras_dsl.codegen.derive.update import UpdateRule
from miras_dsl.codegen.model.types import MemoryInput, StateKind, StateTensor
from miras_dsl.ir import Axis, Node, Role, inputs_of, is_zero
from miras_dsl.ir import Number as Constant
from miras_dsl.ir.interpreter import evaluate
from miras_dsl.scalar.interval import Interval

FADED, WITHIN = 0.01, 1024
"""A first state fades when less than this share of it is left after so many tokens."""
MOST_GATES = 6
"""Gates of a factor at whose ends it is taken; a factor of more could be anything up to 1."""

Starts = Mapping[tuple[str, str | None], Interval]


@dataclass(frozen=True, slots=True)
class Decay:
    """What a token leaves of carried tensors, before it writes.

    states  the tensors, by name
    start   the factor at first: learned maps at 0; an interval where a constant is drawn at random
    range   the factor over the ranges of its gates
    fades   tokens after which less than `FADED` of a learned first value is left, at the slowest start;
            None where the first value is not learned, or where that takes more than `WITHIN`
    """

    states: tuple[str, ...]
    start: Interval
    range: Interval
    fades: int | None


def half_life(factor: float) -> float:
    """Tokens after which half is left, if every token leaves this share (or its negative)."""
    size = abs(factor)
    return inf if size >= 1 else 0.0 if size == 0 else log(0.5) / log(size)


def tokens_until(share: float, factor: float) -> float:
    """Tokens after which less than a share is left."""
    size = abs(factor)
    return inf if size >= 1 else 1.0 if size == 0 else log(share) / log(size)


def decays(rule: UpdateRule, starts: Starts) -> tuple[Decay, ...]:
    """The decay of every carried tensor that has one; tensors of equal decay are listed together.

    starts  where each gate starts (`gate_starts`)
    """
    found: dict[tuple[Interval, Interval], list[StateTensor]] = {}
    for state in rule.state_tensors:
        factor = None if state.kind is StateKind.ANCHOR else _factor(rule, state)
        if factor is not None:
            key = (_over(rule, factor, starts), _over(rule, factor, None))
            found.setdefault(key, []).append(state)
    return tuple(
        Decay(tuple(s.name for s in states), start, range_, _fades(states, start))
        for (start, range_), states in found.items()
    )


def _factor(rule: UpdateRule, state: StateTensor) -> Node | None:
    """What a state is multiplied by at each token; None for one that is kept as it is."""
    for old, update in rule.affine:
        if old.name == state.name:
            turning = rotation(old, dict(rule.affine))
            factor = next((f for kept, f in update.keep if kept is old), None)
            factor = turning.length if turning else factor
            if factor is not None and any(x.role is Role.STATE for x in inputs_of([factor])):
                return None
            return None if isinstance(factor, Constant) and factor.value == 1 else factor
    if rule.affine or state.kind is StateKind.CARRIED:
        return None
    factor = rule.model.formulas_of(state.of).decay
    return None if factor is None or is_zero(factor) else factor


def _fades(states: list[StateTensor], start: Interval) -> int | None:
    learned = any(s.init in ("learned", "positive") or _of_learned(s, states) for s in states)
    slowest = max(abs(start.low), abs(start.high))
    tokens = tokens_until(FADED, slowest)
    return int(np.ceil(tokens)) if learned and tokens <= WITHIN else None


def _of_learned(state: StateTensor, states: list[StateTensor]) -> bool:
    return state.init == "weight" and any(
        other.of == state.of and other.init in ("learned", "positive") for other in states
    )


def _over(rule: UpdateRule, factor: Node, starts: Starts | None) -> Interval:
    """Where a factor lies: at the start, or over the ranges of its gates (None)."""
    given = {x.as_input(): x for x in rule.model.inputs}
    gates = [x for x in inputs_of([factor]) if x in given]
    ends = [_ends(given[x], starts) for x in gates]
    if len(gates) > MOST_GATES:
        return Interval(-1.0, 1.0)
    values = []
    for corner in product(*ends):
        arrays = {x: np.full([1] * len(x.axes), v) for x, v in zip(gates, corner, strict=True)}
        arrays |= {x: np.zeros([1] * len(x.axes)) for x in inputs_of([factor]) if x not in given}
        sizes: dict[Axis, int] = dict.fromkeys({a for x in gates for a in x.axes}, 1)
        (value,) = evaluate([factor], arrays, sizes)
        values.append(float(np.mean(value)))
    return Interval(min(values), max(values))


def _ends(gate: MemoryInput, starts: Starts | None) -> tuple[float, ...]:
    """The values of a gate at which a factor is taken."""
    if starts is None:
        return (gate.range.low, gate.range.high)
    start = starts[gate.of, gate.weight]
    ends = {start.low, start.high}
    return tuple(sorted(_log(end) for end in ends) if gate.log else sorted(ends))


def _log(value: float) -> float:
    return log(value) if value > 0 else -inf


def gate_range(gate: MemoryInput) -> Interval:
    """Where the gate itself lies, also of an input that is its logarithm."""
    if not gate.log:
        return gate.range
    return Interval(exp(gate.range.low), exp(gate.range.high))
