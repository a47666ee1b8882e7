"""The oracle's implicit step: the exact minimum of a loss near the weight that the rule keeps.

It is found without gradients; its own gradient is that of the implicit function theorem.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class _Implicit(torch.autograd.Function):
    """The identity on a minimum that was found without gradients, with the gradient of the minimum.

    solve  from a cotangent b to ``(1 + rate H)^-T b``
    """

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
    """``argmin_W loss(W) + sum |W - kept|^2 / (2 rate)``, with its gradient.

    loss   from weights [batch, head, *axes] to one number, summed over batch and heads

    Newton's method on ``W - kept + rate * slope = 0``, which also holds at rate 0.  With H the
    Hessian and D = sqrt(rate), ``(1 + D D H)^-1 = 1 - D (1 + D H D)^-1 D H``: the inner system is
    symmetric and is solved by conjugate gradients.
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

    def residual(at: list[Tensor]) -> list[Tensor]:
        return [
            w - k.detach() + r.detach() * s.detach()
            for w, k, r, s in zip(at, kept, rates, slopes(at)[1], strict=True)
        ]

    def along(at: list[Tensor], move: list[Tensor]) -> Tensor:
        """The derivative of the objective in a direction, for each batch and head."""
        terms = [
            torch.where(r.detach() > 0, m * d / torch.where(r > 0, r, 1.0).detach(), 0.0)
            for m, d, r in zip(residual(at), move, rates, strict=True)
        ]
        return torch.stack([t.flatten(2).sum(2) for t in terms]).sum(0)

    at = [k.detach().clone() for k in kept]
    tolerance = 4 * torch.finfo(at[0].dtype).eps
    for _ in range(100):
        left = residual(at)
        size = 1 + max(float(w.abs().max()) for w in at)
        if max(float(m.abs().max()) for m in left) <= tolerance * size:
            break
        move = [-m for m in solver(at)[0](left)]
        downhill = along(at, move)
        share = torch.ones_like(downhill)
        for _ in range(40):
            # A full step may overshoot the minimum of a loss that is not quadratic: halve it then.
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
    """Solves ``times(x) = right`` by conjugate gradients, for each batch and head by itself."""

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
