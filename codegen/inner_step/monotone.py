"""Whether a formula of one number increases and takes every value, for all values of its gates.

Then `slope(w) = a` has exactly one answer for every a.  This is not proved but checked: the formula is
evaluated in double precision at many points, for many values of its gates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
import sympy as sp

from miras_dsl.scalar.interval import Interval
from miras_dsl.scalar.monotone_inverse import UNKNOWN, discontinuities
from miras_dsl.scalar.numpy_values import Array, stretch

from .domain import NoDomain, domain, numbers

SAMPLES = np.linspace(-24.0, 24.0, 193)
"""Points on a line, which `stretch` maps to the domain of a formula."""
ROWS = 24
"""How many values of the gates are tried."""


class NotMonotone(Exception):
    """A formula does not increase or does not take every value; the message completes "its slope …"."""


@dataclass(frozen=True, slots=True)
class MonotoneFunction:
    """An increasing formula of `UNKNOWN`.

    low, high  the ends of its domain: numbers, or formulas of the constants
    tried      values of the constants, [trials, 1] each
    """

    formula: sp.Expr
    low: sp.Expr
    high: sp.Expr
    tried: Mapping[sp.Symbol, Array]

    def at(self, w: Array) -> Array:
        """The values at ``w`` [trials or 1, points]: [trials, points]."""
        return numbers(self.formula, {**self.tried, UNKNOWN: w})

    def ends(self) -> tuple[Array, Array]:
        """The ends of the domain, [trials, 1] each."""
        return numbers(self.low, self.tried), numbers(self.high, self.tried)


def samples(ranges: Mapping[sp.Symbol, Interval]) -> dict[sp.Symbol, Array]:
    """Values of constants spread over their ranges, [ROWS, 1] each; the same at every call."""
    random = np.random.default_rng(0)
    return {symbol: random.permutation(_spread(where))[:, None] for symbol, where in ranges.items()}


def _spread(where: Interval) -> Array:
    low, high = where.low, where.high
    share = np.linspace(0.0, 1.0, ROWS)
    inner = np.clip(share, 1e-6, 1 - 1e-6)
    if low == high:
        return np.full(ROWS, low)
    if low > -inf and high < inf:
        return low + (high - low) * inner
    away = 10.0 ** (-4 + 6 * share)
    if low > -inf:
        return low + away
    if high < inf:
        return high - away
    signs = np.where(np.arange(ROWS) % 2, 1.0, -1.0)
    return signs * away


def analyze_monotone(
    formula: sp.Expr,
    ranges: Mapping[sp.Symbol, Interval],
    onto: bool = True,
    strict: bool = True,
    whole: sp.Expr | None = None,
) -> MonotoneFunction:
    """The formula with its domain.

    whole   the function whose slope the formula is: the slope of a logarithm is a number also where
            the logarithm is none, and the domain is that of both
    onto    it must take every value
    strict  it must increase everywhere, not stay constant

    Raises NotMonotone where it does not.
    """
    tried = samples(ranges) or {sp.Symbol("_", real=True): np.zeros((1, 1))}
    try:
        low, high = domain([formula] if whole is None else [whole, formula], tried)
    except NoDomain as reason:
        raise NotMonotone(str(reason)) from None
    slope = MonotoneFunction(formula, low, high, tried)
    first, last = slope.ends()
    count = len(next(iter(tried.values())))
    rows = np.broadcast_to(slope.at(stretch(SAMPLES[None, :], first, last)), (count, SAMPLES.size))
    middle = SAMPLES.size // 2
    for row in rows:
        if not np.isfinite(row[middle]):
            raise NotMonotone("is not a number for some values of its gates")
        left, right = middle, middle
        while left > 0 and np.isfinite(row[left - 1]):
            left -= 1
        while right < SAMPLES.size - 1 and np.isfinite(row[right + 1]):
            right += 1
        values = row[left : right + 1]
        rise = np.diff(values)
        slack = 1e-9 * (np.abs(values[1:]) + np.abs(values[:-1]))
        if np.any(rise < -slack):
            raise NotMonotone("does not always increase")
        if onto:
            _require_unbounded(row, left, right, bool(ranges))
        if strict and np.any(rise[np.abs(values[1:]) < 1e12] <= 0):
            raise NotMonotone("does not always increase")
    return slope


def _require_unbounded(row: Array, left: int, right: int, gated: bool) -> None:
    """Values must go on growing towards both ends of the line, or overflow there.

    row          the values at `SAMPLES`, numbers from index ``left`` to ``right``
    gated        the formula has gates, so that the bound is not one number
    """
    middle = SAMPLES.size // 2
    for end, sign in ((right, 1.0), (left, -1.0)):
        beyond = end + int(sign)
        if 0 <= beyond < SAMPLES.size and row[beyond] == sign * inf:
            continue
        half, far = sign * row[(middle + end) // 2], sign * row[end]
        if far - half <= 1e-3 * (1 + abs(half)) or far < 0:
            side = "above" if sign > 0 else "below"
            bound = 0.0 if abs(far) < 1e-4 else sign * far
            raise NotMonotone(f"never goes {side} {'a bound' if gated else f'{bound:.3g}'}")


def discontinuous_points(slope: MonotoneFunction) -> bool:
    """Whether the formula jumps somewhere: each place where it may is found by bisection."""
    first, last = slope.ends()
    for place in discontinuities(slope.formula):

        def side(t: Array, place: sp.Expr = place) -> Array:
            return numbers(place, {**slope.tried, UNKNOWN: stretch(t, first, last)}) + 0 * t

        signs = np.sign(side(SAMPLES[None, :]))
        rows, at = np.nonzero(signs[:, 1:] != signs[:, :-1])
        left, right = SAMPLES[at], SAMPLES[at + 1]
        for _ in range(60):
            middle = (left + right) / 2
            here = np.sign(side(np.broadcast_to(middle, (signs.shape[0], middle.size))))
            same = here[rows, np.arange(rows.size)] == signs[rows, at]
            left, right = np.where(same, middle, left), np.where(same, right, middle)
        shape = (signs.shape[0], rows.size)
        under, over = (
            slope.at(stretch(np.broadcast_to(t, shape), first, last))[rows, np.arange(rows.size)]
            for t in (left, right)
        )
        if np.any(np.abs(over - under) > 1e-6 * (1 + np.abs(under))):
            return True
    return False


def holds_on_samples(
    slope: MonotoneFunction, target: sp.Symbol, answer: sp.Expr, probes: Sequence[float]
) -> bool:
    """Whether ``slope(answer(a)) = a`` at the probes a, or the slope jumps over a there."""
    a = np.asarray(probes)[None, :]
    w = numbers(answer, {**slope.tried, target: a})
    first, last = slope.ends()
    if not np.all(np.isfinite(w)) or np.any(w <= first) or np.any(w >= last):
        return False
    step = 1e-7 * (1e-3 + np.abs(w))
    under = np.maximum(w - step, np.where(np.isfinite(first), (w + first) / 2, -inf))
    over = np.minimum(w + step, np.where(np.isfinite(last), (w + last) / 2, inf))
    slack = 1e-9 * (1 + np.abs(a))
    return bool(np.all(slope.at(under) <= a + slack) and np.all(slope.at(over) >= a - slack))
