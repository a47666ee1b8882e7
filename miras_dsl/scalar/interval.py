"""Ranges of real numbers."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log


@dataclass(frozen=True, slots=True)
class Interval:
    """A closed range of real numbers; either end may be infinite."""

    low: float = -inf
    high: float = inf


ANYWHERE = Interval()


def log_range(x: Interval) -> Interval:
    """The range of the logarithm of a number that lies in ``x``."""
    return Interval(log(x.low) if x.low > 0 else -inf, log(x.high) if 0 < x.high < inf else inf)
