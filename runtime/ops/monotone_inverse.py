"""The inverse of an increasing function, number by number: Newton steps that stay in a bracket."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Formula = Callable[[Tensor], Tensor]
End = Tensor | float | None
Near = tuple[Formula, Formula] | None
"""A function of the distance from an end, and its derivative in the distance."""
MAX_STEPS, PATIENCE = 320, 3


def monotone_inverse(
    slope: Formula,
    steep: Formula,
    a: Tensor,
    low: End = None,
    high: End = None,
    jumps: Sequence[tuple[Formula, Formula]] = (),
    near_low: Near = None,
    near_high: Near = None,
) -> Tensor:
    """The w between ``low`` and ``high`` with ``slope(w) = a``, for an increasing slope.

    steep      the derivative of the slope
    jumps      formulas that are 0 where the slope may jump, with their derivatives in w; where a lies
               inside a jump, w is its place
    near_low   the slope as a formula of ``w - low``, which keeps the digits that w loses next to the
               end, and its derivative; ``near_high`` is the same of ``high - w``

    Gradients flow through one last Newton step: on the slope, or on the place of the jump.
    """
    at = _Places(slope, steep, low, high, near_low, near_high)
    with torch.no_grad():
        t = _found(at, a)
        w = found = at.number(t)
        apart = at.distance(t)
        for _ in range(2):
            value, rise = at.slope_at(t, apart)
            apart = at.inside(apart, _newton_step(value - a, rise))
            w = _strictly_inside(w + _newton_step(slope(w) - a, steep(w)), low, high)
    value, rise = at.slope_at(t, apart)
    # Of the place and its distance from the end, the smaller one has more digits.
    answer = torch.where(
        (apart < torch.abs(w)) & at.bounded,
        at.from_distance(t, apart + _newton_step(value - a, rise)),
        w + _newton_step(slope(w) - a, steep(w)),
    )
    for place, speed in jumps:
        here, inside = _at_jump(slope, steep, a, place, speed, found)
        answer = torch.where(inside, here, answer)
    return answer


@dataclass(frozen=True, slots=True)
class _Places:
    """The interval between two ends as an image of the whole line of a number t.

    A place is kept as its distance from the nearer end, or as itself where there is no end.
    """

    slope: Formula
    steep: Formula
    low: End
    high: End
    near_low: Near
    near_high: Near

    @property
    def bounded(self) -> bool:
        """Whether there is an end."""
        return self.low is not None or self.high is not None

    def distance(self, t: Tensor) -> Tensor:
        """How far from its end the place of t lies; w itself without ends."""
        match self.low, self.high:
            case None, None:
                return torch.sinh(t)
            case _, None:
                return torch.exp(t)
            case None, _:
                return torch.exp(-t)
            case low, high:
                return (high - low) * torch.sigmoid(-torch.abs(t))  # type: ignore[operator]

    def speed(self, t: Tensor) -> Tensor:
        """The derivative of the place in t."""
        if self.low is None and self.high is None:
            return torch.cosh(t)
        if self.low is None or self.high is None:
            return self.distance(t)
        return self.distance(t) * torch.sigmoid(torch.abs(t))

    def from_low(self, t: Tensor) -> Tensor:
        """Whether distances are those from the lower end."""
        if self.high is None:
            return torch.ones_like(t, dtype=torch.bool)
        return torch.zeros_like(t, dtype=torch.bool) if self.low is None else t < 0

    def slope_at(self, t: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
        """The slope at a distance from the end next to t, and its derivative in the distance."""
        if not self.bounded:
            return self.slope(distance), self.steep(distance)
        value, rise = torch.full_like(distance, math.nan), torch.full_like(distance, math.nan)
        middle, below = self.distance(torch.zeros_like(t)), self.from_low(t)
        for end, sign, near, here in (
            (self.low, 1.0, self.near_low, below),
            (self.high, -1.0, self.near_high, ~below),
        ):
            if end is None:
                continue
            # Where the other end is nearer, any place will do: the branch is not taken.
            d = torch.where(here, distance, middle)
            w = end + sign * d
            own, steepness = (f(d) for f in near) if near else (self.slope(w), sign * self.steep(w))
            if near is None:
                own = torch.where(w == end, -sign * math.inf, own)
            value, rise = torch.where(here, own, value), torch.where(here, steepness, rise)
        return value, rise

    def inside(self, distance: Tensor, step: Tensor) -> Tensor:
        """The distance after a step, or half of it where the step leads beyond the end."""
        if not self.bounded:
            return distance + step
        return torch.where(distance + step > 0, distance + step, distance / 2)

    def from_distance(self, t: Tensor, distance: Tensor) -> Tensor:
        """The place itself, which is never an end."""
        if not self.bounded:
            return distance
        below = self.from_low(t)
        low = 0.0 if self.low is None else self.low
        high = 0.0 if self.high is None else self.high
        w = torch.where(below, low + distance, high - distance)
        return w + (_strictly_inside(w.detach(), self.low, self.high) - w.detach())

    def number(self, t: Tensor) -> Tensor:
        """The place of t."""
        return self.from_distance(t, self.distance(t))


def _newton_step(miss: Tensor, steep: Tensor) -> Tensor:
    """The Newton step that mends a miss; 0 where there is none."""
    steep = (steep + torch.zeros_like(miss)).detach()
    there = torch.isfinite(miss.detach() / steep) & (steep != 0)
    return -torch.where(there, miss, 0.0) / torch.where(there, steep, 1.0)


def _at_jump(
    slope: Formula, steep: Formula, a: Tensor, place: Formula, speed: Formula, w: Tensor
) -> tuple[Tensor, Tensor]:
    """The place of the jump next to w, and whether a lies inside that jump."""
    with torch.no_grad():
        at = w
        for _ in range(2):
            at = at + _newton_step(place(at), speed(at))
        width = 32 * torch.finfo(w.dtype).eps * (torch.abs(at) + 1e-6)
        under, over = slope(at - width), slope(at + width)
        smooth = (steep(at - width) + steep(at + width)) * width
        floor = 32 * torch.finfo(w.dtype).eps * (torch.abs(under) + torch.abs(over))
        jump = over - under > 4 * torch.abs(smooth) + floor
        inside = jump & (under <= a) & (a <= over)
    return at + _newton_step(place(at), speed(at)), inside


def _found(at: _Places, a: Tensor) -> Tensor:
    """The t of the solution to nearly full precision, on a scale with many points near every end."""
    start = torch.zeros_like(a)
    a = a + torch.zeros_like(at.slope_at(start, at.distance(start))[0])
    t = torch.zeros_like(a)
    reach = math.log(torch.finfo(a.dtype).max) - 2
    left, right = torch.full_like(a, -reach), torch.full_like(a, reach)
    width, still = right - left, torch.zeros_like(a)
    tiny = 2 * torch.finfo(a.dtype).eps
    done = torch.zeros_like(a, dtype=torch.bool)
    for _ in range(MAX_STEPS):
        value, rise = at.slope_at(t, at.distance(t))
        miss = value - a
        # Outside the numbers: too far from the middle.
        miss = torch.where(torch.isnan(miss), t, miss)
        left, right = torch.where(miss < 0, t, left), torch.where(miss > 0, t, right)
        newton = t - miss / (torch.abs(rise) * at.speed(t))
        halved = right - left <= width / 2
        width, still = torch.where(halved, right - left, width), torch.where(halved, 0.0, still + 1)
        trusted = (newton > left) & (newton < right) & (still < PATIENCE)
        still = torch.where(trusted, still, 0.0)
        new = torch.where(trusted, newton, (left + right) / 2)
        new = torch.where(done | (miss == 0), t, new)
        close = tiny * (1 + torch.abs(new))
        done = done | (torch.abs(new - t) <= close) | (right - left <= tiny * tiny)
        t = new
        if bool(done.all()):
            break
    return t


def _strictly_inside(w: Tensor, low: End, high: End) -> Tensor:
    """w, or the number next to an end that it has reached."""
    for end, within in ((low, math.inf), (high, -math.inf)):
        if end is not None:
            limit = torch.as_tensor(end, dtype=w.dtype, device=w.device).detach()
            limit = torch.nextafter(limit, torch.full_like(limit, within))
            w = torch.maximum(w, limit) if within > 0 else torch.minimum(w, limit)
    return w
