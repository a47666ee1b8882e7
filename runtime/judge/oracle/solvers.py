"""The oracle's solvers: inverse of a potential's slope, minimum of a penalty, implicit step.

None of them knows a closed form.  Each finds the solution without derivatives of the result being
tracked, then takes one more Newton step in which only the equation is differentiated: that step
changes nothing in value and carries the gradient of the implicit function theorem.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Slope = Callable[[Tensor], Tensor]
Kinks = Callable[[Tensor], list[Tensor]]
"""Of a weight: numbers that are 0 where the function has a kink."""


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
    probe = w.detach().requires_grad_()
    with torch.enable_grad():
        value = slope(probe)
        if not value.requires_grad:
            return torch.zeros_like(w)
        (result,) = torch.autograd.grad(value.sum(), probe, allow_unused=True)
    return torch.zeros_like(w) if result is None else result.detach()


def _start(slope: Slope, shape: Sequence[int], like: Tensor) -> Tensor:
    """For every element some point where the slope is finite; small positive ones are tried first."""
    chosen = torch.full(tuple(shape), torch.nan, dtype=like.dtype, device=like.device)
    for guess in (1e-4, 1e-2, 0.1, 0.5, 1.0, 0.0, -0.1, -1.0, 3.0, 10.0, 30.0, 100.0, -10.0):
        point = torch.full_like(chosen, guess)
        good = torch.isfinite(slope(point).detach()) & torch.isnan(chosen)
        chosen = torch.where(good, point, chosen)
    if bool(torch.isnan(chosen).any()):
        raise ValueError("the slope of this potential is finite at none of the points tried")
    return chosen


def root(slope: Slope, target: Tensor, tolerance: float) -> Tensor:
    """The w with ``slope(w) = target`` for an increasing slope; bracketed Newton, not tracked.

    Where the slope is not a number the point lies outside its domain: beyond the start it counts as
    too large above and too small below.
    """
    aim = target.detach()
    middle = _start(slope, aim.shape, aim)

    least = most = slope(middle).detach()

    def miss(w: Tensor) -> Tensor:
        value = slope(w).detach()
        # Beyond a pole the slope begins anew from below: such a point is outside as well.
        outside = torch.isnan(value) | torch.where(w > middle, value < most, value > least)
        above = torch.where(w > middle, torch.inf, -torch.inf).to(w.dtype)
        return torch.where(outside & (w != middle), above, value - aim)

    rising = miss(middle) < 0
    low = torch.where(rising, middle, middle - 2.0**-4)
    high = torch.where(rising, middle + 2.0**-4, middle)
    for power in range(-3, 120):
        short_low, short_high = miss(low) > 0, miss(high) < 0
        if not bool((short_low | short_high).any()):
            break
        # What falls short on one side is a bound on the other.
        least = torch.where(short_low, slope(low).detach(), least)
        most = torch.where(short_high, slope(high).detach(), most)
        low, high = torch.where(short_high, high, low), torch.where(short_low, low, high)
        low = torch.where(short_low, middle - 2.0**power, low)
        high = torch.where(short_high, middle + 2.0**power, high)
    w = (low + high) / 2
    tiny = max(tolerance, 4 * torch.finfo(w.dtype).eps)
    settled = torch.zeros_like(w, dtype=torch.bool)
    for turn in range(240):
        error = miss(w)
        low, high = torch.where(error < 0, w, low), torch.where(error > 0, w, high)
        newton = w - error / _curvature(slope, w)
        # At a jump Newton steps go to and fro for ever, so every fourth step halves.
        inside = (newton > low) & (newton < high) & (turn % 4 != 3)
        # Near zero a plain middle would need a step per halving of the magnitude.
        apart = (low > 0) & (high > 4 * low)
        centre = torch.where(
            apart, torch.sqrt(low.clamp_min(0) * high.clamp_min(0)), (low + high) / 2
        )
        new = torch.where(settled | (error == 0), w, torch.where(inside, newton, centre))
        close = tiny * torch.maximum(low.abs(), high.abs()) + 1e-20
        settled = (
            settled | ((new - w).abs() <= tiny * w.abs()) | (high - low <= close) | (error == 0)
        )
        w = new
        if bool(settled.all()):
            break
    return w


def invert(potential: Slope, target: Tensor, kinks: Kinks) -> Tensor:
    """The w at which the potential's slope equals ``target``, with its gradient."""
    return _solved(slope_of(potential), target, kinks, 1e-9)


def minimise(objective: Slope, like: Tensor, kinks: Kinks) -> Tensor:
    """The minimum of a separable convex function of w, shaped like ``like``, with its gradient."""
    return _solved(slope_of(objective), torch.zeros_like(like.detach()), kinks, 1e-15)


def _solved(slope: Slope, target: Tensor, kinks: Kinks, tolerance: float) -> Tensor:
    """The w at which an increasing slope crosses ``target``, with its gradient.

    On a smooth stretch that is one Newton step on the slope.  Where the slope jumps across the
    target, w sits on a kink: it is found by Newton steps on what is 0 there, and moves as that does.
    """
    found = root(slope, target, tolerance)
    flat = slope(torch.zeros_like(found)).detach() == target.detach()
    found = torch.where(flat & (found.abs() < 1e-6), 0.0, found)
    # One Newton step to full precision, for the gradient's sake; then the one that is tracked.
    smooth = (found + _newton(slope, found, target)).detach()
    result = smooth + _newton(slope, smooth, target)
    for number in range(len(kinks(found))):

        def bend(w: Tensor, number: int = number) -> Tensor:
            return kinks(w)[number].expand(w.shape)

        place = found
        for _ in range(3):
            place = (place + _newton(bend, place, 0 * target)).detach()
        result = torch.where(
            _jumps_across(slope, place, target.detach()),
            place + _newton(bend, place, 0 * target),
            result,
        )
    return result


def _jumps_across(slope: Slope, place: Tensor, target: Tensor) -> Tensor:
    """Whether the slope jumps from below ``target`` to above it at ``place``."""
    little = 64 * torch.finfo(place.dtype).eps * (place.abs() + 1e-4)
    below, above = slope(place - little).detach(), slope(place + little).detach()
    rise = (_curvature(slope, place - little) + _curvature(slope, place + little)).abs() * little
    floor = 64 * torch.finfo(place.dtype).eps * (below.abs() + above.abs())
    return (above - below > 4 * rise + floor) & (below <= target) & (target <= above)


def _newton(slope: Slope, at: Tensor, target: Tensor) -> Tensor:
    """A Newton step towards ``slope = target``; 0 where the numbers end, so that w stays put."""
    curvature = _curvature(slope, at)
    safe = torch.where(curvature == 0, torch.ones_like(curvature), curvature)
    step = (target - slope(at)) / safe
    return torch.where(torch.isfinite(step.detach()) & (curvature != 0), step, 0 * target)


class _Implicit(torch.autograd.Function):
    """Attaches a gradient to the minimum of a function that was found without one."""

    @staticmethod
    def forward(ctx, count: int, solve: Callable, *tensors: Tensor):
        ctx.count, ctx.solve = count, solve
        return tuple(t.clone() for t in tensors[:count])

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        solved = ctx.solve(list(gradients))
        return (None, None, *(None for _ in range(ctx.count)), *(-s for s in solved))


def implicit_step(
    loss: Callable[[list[Tensor]], Tensor], kept: Sequence[Tensor], rates: Sequence[Tensor]
) -> list[Tensor]:
    """argmin over W of ``loss + sum |W - kept|^2 / (2 rate)``, with its gradient.

    Newton's method on ``W - kept + rate * slope = 0``, which also holds at rate 0.  With H the
    Hessian and D = sqrt(rate), ``(1 + D D H)^-1 = 1 - D (1 + D H D)^-1 D H``: the inner system is
    symmetric and goes to conjugate gradients.  loss takes the weights and gives one summed number.
    """
    roots = [r.detach().sqrt() for r in rates]

    def slopes(weights: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        with torch.enable_grad():
            probes = [w.detach().requires_grad_() for w in weights]
            found = torch.autograd.grad(loss(probes), probes, create_graph=True, allow_unused=True)
            return probes, [_or_zero(s, p) for s, p in zip(found, probes, strict=True)]

    def scaled(d: Sequence[Tensor], x: Sequence[Tensor]) -> list[Tensor]:
        return [a * b for a, b in zip(d, x, strict=True)]

    def minus(x: Sequence[Tensor], y: Sequence[Tensor]) -> list[Tensor]:
        return [a - b for a, b in zip(x, y, strict=True)]

    def solver(at: list[Tensor]) -> tuple[Callable[..., list[Tensor]], Callable[..., list[Tensor]]]:
        probes, slope = slopes(at)

        def hessian(x: list[Tensor]) -> list[Tensor]:
            live = [(s, v) for s, v in zip(slope, x, strict=True) if s.requires_grad]
            if not live:
                return [torch.zeros_like(v) for v in x]
            values, directions = zip(*live, strict=True)
            found = torch.autograd.grad(
                values, probes, directions, retain_graph=True, allow_unused=True
            )
            return [_or_zero(f, v).detach() for f, v in zip(found, x, strict=True)]

        def inner(x: list[Tensor]) -> list[Tensor]:
            return _conjugate(
                lambda d: [
                    a + b for a, b in zip(d, scaled(roots, hessian(scaled(roots, d))), strict=True)
                ],
                x,
            )

        def solve(b: list[Tensor]) -> list[Tensor]:
            return minus(b, scaled(roots, inner(scaled(roots, hessian(b)))))

        def solve_transposed(b: list[Tensor]) -> list[Tensor]:
            return minus(b, hessian(scaled(roots, inner(scaled(roots, b)))))

        return solve, solve_transposed

    def missing(at: list[Tensor]) -> list[Tensor]:
        return [
            w - k.detach() + r.detach() * s.detach()
            for w, k, r, s in zip(at, kept, rates, slopes(at)[1], strict=True)
        ]

    def along(at: list[Tensor], move: list[Tensor]) -> Tensor:
        """The derivative of the objective in a direction, for each batch and head."""
        terms = [
            torch.where(r.detach() > 0, m * d / torch.where(r > 0, r, 1.0).detach(), 0.0)
            for m, d, r in zip(missing(at), move, rates, strict=True)
        ]
        return torch.stack([t.flatten(2).sum(2) for t in terms]).sum(0)

    at = [k.detach().clone() for k in kept]
    tolerance = 4 * torch.finfo(at[0].dtype).eps
    for _ in range(100):
        left = missing(at)
        size = 1 + max(float(w.abs().max()) for w in at)
        if max(float(m.abs().max()) for m in left) <= tolerance * size:
            break
        move = [-m for m in solver(at)[0](left)]
        downhill = along(at, move)
        share = torch.ones_like(downhill)
        for _ in range(40):
            # A full step may jump over the minimum of a loss that is no square: then half of it.
            steps = [share.reshape(*share.shape, *([1] * (m.dim() - 2))) * m for m in move]
            over = (
                along([w + m for w, m in zip(at, steps, strict=True)], move) > 0.5 * downhill.abs()
            )
            over = over & (downhill.abs() > tolerance * size)
            if not bool(over.any()):
                break
            share = torch.where(over, share / 2, share)
        at = [w + m for w, m in zip(at, steps, strict=True)]
    final = [w - k + r * s for w, k, r, s in zip(at, kept, rates, slopes(at)[1], strict=True)]
    return list(_Implicit.apply(len(at), solver(at)[1], *at, *final))  # type: ignore[arg-type]


def _or_zero(found: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if found is None else found


def _conjugate(times: Callable[[list[Tensor]], list[Tensor]], right: list[Tensor]) -> list[Tensor]:
    """Conjugate gradients, one system for each batch and head, all at once."""

    def dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
        return torch.stack([(x * y).flatten(2).sum(2) for x, y in zip(a, b, strict=True)]).sum(0)

    def along(a: Tensor, x: Tensor) -> Tensor:
        return a.reshape(*a.shape, *([1] * (x.dim() - 2))) * x

    x, r = [torch.zeros_like(b) for b in right], list(right)
    p, size = list(right), dot(right, right)
    floor = 1e-30 * size
    for _ in range(4 * sum(b[0, 0].numel() for b in right)):
        if not bool((size > floor).any()):
            break
        ap = times(p)
        curve = dot(p, ap)
        step = torch.where(size > floor, size / torch.where(curve == 0, 1.0, curve), 0.0)
        x = [a + along(step, b) for a, b in zip(x, p, strict=True)]
        r = [a - along(step, b) for a, b in zip(r, ap, strict=True)]
        new = dot(r, r)
        ratio = torch.where(size > floor, new / torch.where(size == 0, 1.0, size), 0.0)
        p = [a + along(ratio, b) for a, b in zip(r, p, strict=True)]
        size = new
    return x
