"""The inverse of an increasing function, elementwise: Newton steps inside a bracket."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Formula = Callable[[Tensor], Tensor]
End = Tensor | float | None
MAX_STEPS, PATIENCE = 320, 3
"""Steps at most; Newton steps in a row that may fail to halve the bracket, before it is bisected."""


def monotone_inverse(
    slope: Formula,
    steep: Formula,
    a: Tensor,
    low: End = None,
    high: End = None,
    jumps: Sequence[tuple[Formula, Formula]] = (),
) -> Tensor:
    """The w between ``low`` and ``high`` with ``slope(w) = a``, elementwise, for an increasing slope.

    steep      the derivative of the slope
    low, high  the ends of the domain, not in it; None: infinite
    jumps      (formula of w that is 0 where the slope may jump, its derivative); where a lies between
               the two values at a jump, w is the place of the jump

    Gradients come from one last Newton step, on the slope or on the formula of the jump.
    """
    with torch.no_grad():
        found = w = _found(slope, steep, a, low, high)
        for _ in range(2):
            w = _inside(w + _step(slope(w) - a, steep(w)), low, high)
    answer = w + _step(slope(w) - a, steep(w))
    for place, speed in jumps:
        here, inside = _at_jump(slope, steep, a, place, speed, found)
        answer = torch.where(inside, here, answer)
    return answer


def _step(miss: Tensor, steep: Tensor) -> Tensor:
    """The Newton step for an error ``miss`` at slope ``steep``; 0 where it would not be finite."""
    steep = (steep + torch.zeros_like(miss)).detach()
    there = torch.isfinite(miss.detach() / steep) & (steep != 0)
    return -torch.where(there, miss, 0.0) / torch.where(there, steep, 1.0)


def _at_jump(
    slope: Formula, steep: Formula, a: Tensor, place: Formula, speed: Formula, w: Tensor
) -> tuple[Tensor, Tensor]:
    """The place of the jump next to w, and whether a lies between the two values there."""
    with torch.no_grad():
        at = w
        for _ in range(2):
            at = at + _step(place(at), speed(at))
        width = 32 * torch.finfo(w.dtype).eps * (torch.abs(at) + 1e-6)
        under, over = slope(at - width), slope(at + width)
        smooth = (steep(at - width) + steep(at + width)) * width
        floor = 32 * torch.finfo(w.dtype).eps * (torch.abs(under) + torch.abs(over))
        jump = over - under > 4 * torch.abs(smooth) + floor
        inside = jump & (under <= a) & (a <= over)
    return at + _step(place(at), speed(at)), inside


def _found(slope: Formula, steep: Formula, a: Tensor, low: End, high: End) -> Tensor:
    """The solution to nearly full precision, searched on a line that `_line` maps to the domain."""
    start = torch.zeros_like(a)
    a = a + torch.zeros_like(slope(_line(start, low, high)[0]))
    t = torch.zeros_like(a)
    reach = math.log(torch.finfo(a.dtype).max) - 2
    left, right = torch.full_like(a, -reach), torch.full_like(a, reach)
    width, still = right - left, torch.zeros_like(a)
    tiny = 2 * torch.finfo(a.dtype).eps
    done = torch.zeros_like(a, dtype=torch.bool)
    for _ in range(MAX_STEPS):
        w, speed = _line(t, low, high)
        miss = slope(w) - a
        miss = torch.where(
            torch.isnan(miss), t, miss
        )  # outside the domain: too far from the middle
        left, right = torch.where(miss < 0, t, left), torch.where(miss > 0, t, right)
        newton = t - miss / (steep(w) * speed)
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
    return _inside(_line(t, low, high)[0], low, high)


def _inside(w: Tensor, low: End, high: End) -> Tensor:
    """w, or where it has reached an end of the domain, the next number inside."""
    for end, within in ((low, math.inf), (high, -math.inf)):
        if end is not None:
            limit = torch.as_tensor(end, dtype=w.dtype, device=w.device)
            limit = torch.nextafter(limit, torch.full_like(limit, within))
            w = torch.maximum(w, limit) if within > 0 else torch.minimum(w, limit)
    return w


def _line(t: Tensor, low: End, high: End) -> tuple[Tensor, Tensor]:
    """A map of the real line onto ``low < w < high`` that is dense near finite ends; its derivative."""
    match low, high:
        case None, None:
            return torch.sinh(t), torch.cosh(t)
        case _, None:
            return low + torch.exp(t), torch.exp(t)
        case None, _:
            return high - torch.exp(-t), torch.exp(-t)
        case _:
            width = high - low  # type: ignore[operator]
            size = width * torch.sigmoid(t) * torch.sigmoid(-t)
            return torch.where(
                t < 0, low + width * torch.sigmoid(t), high - width * torch.sigmoid(-t)
            ), size
