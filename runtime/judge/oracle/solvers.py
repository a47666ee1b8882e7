"""The oracle's solvers: inverse of a potential's slope, minimum of a penalty.

They use no closed form.  Each finds the solution to the type's precision without tracking gradients.
The gradient is that of one more Newton step, whose value is taken away again: the derivative of the
implicit function theorem.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Slope = Callable[[Tensor], Tensor]
Kinks = Callable[[Tensor], list[Tensor]]
"""From a weight to values that are 0 where a function has a kink."""
NOTHING = 1e-20
"""A solution as small as this is 0."""


def slope_of(total: Slope) -> Slope:
    """The elementwise derivative of a separable function, differentiable in everything it uses; no
    number where the function is none: the slope 1 / w of a logarithm goes on below 0."""

    def slope(w: Tensor) -> Tensor:
        probe = w if w.requires_grad else w.detach().requires_grad_()
        with torch.enable_grad():
            values = total(probe)
            (result,) = torch.autograd.grad(values.sum(), probe, create_graph=True)
        return torch.where(torch.isnan(values.detach()), torch.nan, result)

    return slope


def _curvature(slope: Slope, w: Tensor) -> Tensor:
    return _value_and_curvature(slope, w)[1]


def _value_and_curvature(slope: Slope, w: Tensor) -> tuple[Tensor, Tensor]:
    """A slope and its derivative, from one evaluation."""
    probe = w.detach().requires_grad_()
    with torch.enable_grad():
        value = slope(probe)
        if not value.requires_grad:
            return value, torch.zeros_like(w)
        (result,) = torch.autograd.grad(value.sum(), probe, allow_unused=True)
    return value.detach(), torch.zeros_like(w) if result is None else result.detach()


def _start(slope: Slope, shape: Sequence[int], like: Tensor) -> Tensor:
    """For every element a point where the slope is finite; small positive ones are tried first.

    Raises ValueError if it is finite at none of those tried.
    """
    chosen = torch.full(tuple(shape), torch.nan, dtype=like.dtype, device=like.device)
    for guess in (1e-4, 1e-2, 0.1, 0.5, 1.0, 0.0, -0.1, -1.0, 3.0, 10.0, 30.0, 100.0, -10.0):
        point = torch.full_like(chosen, guess)
        good = torch.isfinite(slope(point).detach()) & torch.isnan(chosen)
        chosen = torch.where(good, point, chosen)
        if not bool(torch.isnan(chosen).any()):
            break
    if bool(torch.isnan(chosen).any()):
        raise ValueError("the slope of this potential is finite at none of the points tried")
    return chosen


def root(slope: Slope, target: Tensor) -> Tensor:
    """The w with ``slope(w) = target`` for an increasing slope: bracketed Newton, without gradients.

    Where the slope is NaN the point lies outside its domain: too large if above the starting point,
    too small if below.
    """
    aim = target.detach()
    middle = _start(slope, aim.shape, aim)

    least = most = slope(middle).detach()

    def miss(w: Tensor, value: Tensor) -> Tensor:
        # Beyond a pole the slope begins anew from below: such a point is outside as well.
        outside = torch.isnan(value) | torch.where(w > middle, value < most, value > least)
        above = torch.where(w > middle, torch.inf, -torch.inf).to(w.dtype)
        return torch.where(outside & (w != middle), above, value - aim)

    rising = least < aim
    low = torch.where(rising, middle, middle - 2.0**-4)
    high = torch.where(rising, middle + 2.0**-4, middle)
    for power in range(-3, 120):
        at_low, at_high = slope(low).detach(), slope(high).detach()
        short_low, short_high = miss(low, at_low) > 0, miss(high, at_high) < 0
        if not bool((short_low | short_high).any()):
            break
        # What falls short on one side is a bound on the other.
        least = torch.where(short_low, at_low, least)
        most = torch.where(short_high, at_high, most)
        low, high = torch.where(short_high, high, low), torch.where(short_low, low, high)
        low = torch.where(short_low, middle - 2.0**power, low)
        high = torch.where(short_high, middle + 2.0**power, high)
    # A root near 0 has its own number of digits to be found: bounds beside 0 halve that number.
    for beside in (-NOTHING, NOTHING):
        point = torch.full_like(low, beside)
        error = torch.where((low < point) & (point < high), miss(point, slope(point).detach()), 0)
        low, high = torch.where(error < 0, point, low), torch.where(error > 0, point, high)
    w = (low + high) / 2
    tiny = 4 * torch.finfo(w.dtype).eps
    settled = torch.zeros_like(w, dtype=torch.bool)
    moved = high - low
    for _ in range(240):
        value, curvature = _value_and_curvature(slope, w)
        error = miss(w, value)
        low, high = torch.where(error < 0, w, low), torch.where(error > 0, w, high)
        # The slope is the target to the last digits.
        hit = error.abs() <= tiny * aim.abs()
        newton = w - error / curvature
        # At a jump Newton steps may oscillate: one that is no half of the step before gives way to a
        # halving of the bracket, unless both are rounding errors.
        step = (newton - w).abs()
        halved = 2 * step <= moved
        inside = (newton > low) & (newton < high) & halved
        rounded = ~halved & (step <= 4 * tiny * w.abs()) & (moved <= 4 * tiny * w.abs())
        new = torch.where(
            settled | hit | rounded, w, torch.where(inside, newton, _centre(low, high))
        )
        close = tiny * torch.maximum(low.abs(), high.abs()) + 2 * NOTHING
        moved = (new - w).abs()
        settled = settled | hit | rounded | (moved <= tiny * w.abs()) | (high - low <= close)
        w = new
        if bool(settled.all()):
            break
    return w


def _centre(low: Tensor, high: Tensor) -> Tensor:
    """The middle of a bracket.  Between points of one sign and very different size it is the geometric
    mean, which halves the number of digits."""
    above, below = (low > 0) & (high > 4 * low), (high < 0) & (low < 4 * high)
    mean = torch.sqrt(low.abs()) * torch.sqrt(high.abs())
    return torch.where(above, mean, torch.where(below, -mean, (low + high) / 2))


def invert(potential: Slope, target: Tensor, kinks: Kinks) -> Tensor:
    """The w at which the potential's slope equals ``target``, with its gradient."""
    return _solve(slope_of(potential), target, kinks)


def minimise(objective: Slope, like: Tensor, kinks: Kinks) -> Tensor:
    """The minimum of a separable convex function of w, shaped like ``like``, with its gradient."""
    return _solve(slope_of(objective), torch.zeros_like(like.detach()), kinks)


def _solve(slope: Slope, target: Tensor, kinks: Kinks) -> Tensor:
    """The w at which an increasing slope crosses ``target``, with its gradient.

    Where the slope is smooth, the gradient is that of one Newton step on it.  Where the slope jumps
    across the target, w is a kink of the function: Newton steps on the value that is 0 there find it,
    and give its gradient.
    """
    found = root(slope, target)
    flat = slope(torch.zeros_like(found)).detach() == target.detach()
    found = torch.where(flat & (found.abs() < 1e-6), 0.0, found)
    # A Newton step has the gradient; near a pole it may lead past it, so the value stays.
    step = _newton(slope, found, target)
    result = found + (step - step.detach())
    for number in range(len(kinks(found))):

        def kink(w: Tensor, number: int = number) -> Tensor:
            return kinks(w)[number].expand(w.shape)

        place = found
        for _ in range(3):
            place = (place + _newton(kink, place, 0 * target)).detach()
        result = torch.where(
            _jumps_across(slope, place, target.detach()),
            place + _newton(kink, place, 0 * target),
            result,
        )
    return result


def _jumps_across(slope: Slope, place: Tensor, target: Tensor) -> Tensor:
    """Whether the slope jumps from below ``target`` to above it at ``place``."""
    step = 64 * torch.finfo(place.dtype).eps * (place.abs() + 1e-4)
    below, above = slope(place - step).detach(), slope(place + step).detach()
    rise = (_curvature(slope, place - step) + _curvature(slope, place + step)).abs() * step
    floor = 64 * torch.finfo(place.dtype).eps * (below.abs() + above.abs())
    return (above - below > 4 * rise + floor) & (below <= target) & (target <= above)


def _newton(slope: Slope, at: Tensor, target: Tensor) -> Tensor:
    """A Newton step towards ``slope = target``; 0 where it would not be finite."""
    curvature = _curvature(slope, at)
    safe = torch.where(curvature == 0, torch.ones_like(curvature), curvature)
    step = (target - slope(at)) / safe
    return torch.where(torch.isfinite(step.detach()) & (curvature != 0), step, 0 * target)
