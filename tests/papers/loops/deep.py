"""Networks that learn while they read, as token loops from the papers, with gradients by hand.

One head of one sequence: q, k, v and gates [time, ...], weights by name without leading axes.  Nothing
here knows the project.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = dict[str, Tensor]


def gelu_slope(x: Tensor) -> Tensor:
    """Phi(x) + x phi(x)."""
    return (1 + torch.erf(x / 2**0.5)) / 2 + x * torch.exp(-x * x / 2) / (2 * math.pi) ** 0.5


def gelu_tanh_slope(x: Tensor) -> Tensor:
    """The slope of the tanh approximation."""
    c = (2 / math.pi) ** 0.5
    th = torch.tanh(c * (x + 0.044715 * x**3))
    return (1 + th) / 2 + x * (1 - th**2) * c * (1 + 3 * 0.044715 * x**2) / 2


def norm(z: Tensor) -> tuple[Tensor, Tensor]:
    """A vector less its mean over its deviation, and that deviation."""
    deviation = torch.sqrt(z.var(unbiased=False) + 1e-6)
    return (z - z.mean()) / deviation, deviation


def norm_slope(hat: Tensor, deviation: Tensor, g: Tensor) -> Tensor:
    """Layer norm backwards: (g - mean g - hat mean(g hat)) / deviation."""
    return (g - g.mean() - hat * (g * hat).mean()) / deviation


def deep_read(w: Weights, x: Tensor, tanh: bool = False) -> Tensor:
    """x + LN(W2 gelu(W1 x + b1) + b2)."""
    h = F.gelu(w["W1"] @ x + w.get("b1", 0), approximate="tanh" if tanh else "none")
    hat, _ = norm(w["W2"] @ h + w.get("b2", 0))
    return x + w["norm_weight"] * hat + w["norm_shift"]


def deep_slopes(w: Weights, k: Tensor, v: Tensor, phi, tanh: bool = False) -> Weights:
    """The gradients of the loss whose slope in the error is phi."""
    a = w["W1"] @ k + w.get("b1", 0)
    h = F.gelu(a, approximate="tanh" if tanh else "none")
    hat, deviation = norm(w["W2"] @ h + w.get("b2", 0))
    error = k + w["norm_weight"] * hat + w["norm_shift"] - v
    d2 = norm_slope(hat, deviation, w["norm_weight"] * phi(error))
    d1 = (w["W2"].T @ d2) * (gelu_tanh_slope(a) if tanh else gelu_slope(a))
    return {"W2": torch.outer(d2, h), "b2": d2, "W1": torch.outer(d1, k), "b1": d1}


def ttt_mlp(
    q: Tensor, k: Tensor, v: Tensor, eta: Tensor, scale: Tensor, w: Weights, block: int
) -> Tensor:
    """Sun et al. 2024: W_t = W_0 - scale_t sum_(i<=t) eta_i grad_i(W_0) in each mini-batch."""
    out, learned = [], ("W1", "b1", "W2", "b2")
    for start in range(0, len(q), block):
        anchor, total = dict(w), {n: torch.zeros_like(w[n]) for n in learned}
        for i, t in enumerate(range(start, min(start + block, len(q)))):
            g = deep_slopes(anchor, k[t], v[t], lambda r: r, tanh=True)
            total = {n: total[n] + eta[t] * g[n] for n in learned}
            w = {**anchor, **{n: anchor[n] - scale[i] * total[n] for n in learned}}
            out.append(deep_read(w, q[t], tanh=True))
    return torch.stack(out)


def titans(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    alpha: Tensor,
    theta: Tensor,
    eta: Tensor,
    w: Weights,
    block: int,
) -> Tensor:
    """Behrouz et al. 2024: S = eta S - theta grad |M(k) - v|^2 (block's start); M = alpha M + S."""
    s, out = {n: torch.zeros_like(w[n]) for n in ("W1", "W2")}, []
    for t in range(len(q)):
        if t % block == 0:
            anchor = w
        g = deep_slopes(anchor, k[t], v[t], lambda r: 2 * r)
        s = {n: eta[t] * s[n] - theta[t] * g[n] for n in s}
        w = {**w, **{n: alpha[t] * w[n] + s[n] for n in s}}
        out.append(deep_read(w, q[t]))
    return torch.stack(out)


def yaad(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    delta: Tensor,
    gates: dict[str, tuple[Tensor, Tensor]],
    w: Weights,
    block: int,
    sweeps: int = 1,
) -> Tensor:
    """Behrouz et al. 2025: l2 gradient where the error is short, else delta * l1 gradient."""
    courses, out = [w] * sweeps, []
    for t in range(len(q)):
        if t % block == 0:
            anchor = courses[-1]
            courses = [anchor] * sweeps

        def phi(r: Tensor, t: int = t) -> Tensor:
            return r if r.norm() <= delta[t] else delta[t] * torch.tanh(10 * r)

        slopes = [deep_slopes(base, k[t], v[t], phi) for base in (anchor, *courses[:-1])]
        courses = [
            {**c, **{n: a[t][:, None] * c[n] - e[t][:, None] * g[n] for n, (a, e) in gates.items()}}
            for c, g in zip(courses, slopes, strict=True)
        ]
        out.append(deep_read(courses[-1], q[t]))
    return torch.stack(out)


def memora(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: dict[str, tuple[Tensor, Tensor]],
    log: Weights,
    fixed: Weights,
    block: int,
) -> Tensor:
    """Behrouz et al. 2025: W = softmax(alpha log W - eta grad) by rows; linear inside a block."""
    out = []
    for t in range(len(q)):
        if t % block == 0:
            w = anchor = fixed | {n: torch.softmax(log[n], -1) for n in log}
        g = deep_slopes(anchor, k[t], v[t], lambda r: r)
        step = {n: (a[t][:, None], e[t][:, None] * g[n]) for n, (a, e) in gates.items()}
        log = {n: keep * log[n] - move for n, (keep, move) in step.items()}
        w = fixed | {n: keep * w[n] - move for n, (keep, move) in step.items()}
        out.append(deep_read(w, q[t]))
    return torch.stack(out)


def ttt_linear(
    q: Tensor, k: Tensor, v: Tensor, eta: Tensor, scale: Tensor, w: Weights, block: int
) -> Tensor:
    """Sun et al. 2024: x + LN(W x + b); steps as in TTT-MLP."""
    out, shift, learned = [], w["norm_shift"], ("W1", "b1")
    for start in range(0, len(q), block):
        anchor, total = dict(w), {n: torch.zeros_like(w[n]) for n in learned}
        for i, t in enumerate(range(start, min(start + block, len(q)))):
            hat, deviation = norm(anchor["W1"] @ k[t] + anchor["b1"])
            error = k[t] + w["norm_weight"] * hat + shift - v[t]
            d = norm_slope(hat, deviation, w["norm_weight"] * error)
            total["W1"] = total["W1"] + eta[t] * torch.outer(d, k[t])
            total["b1"] = total["b1"] + eta[t] * d
            w = {**anchor, **{n: anchor[n] - scale[i] * total[n] for n in learned}}
            hat, _ = norm(w["W1"] @ q[t] + w["b1"])
            out.append(q[t] + w["norm_weight"] * hat + shift)
    return torch.stack(out)


def moneta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: dict[str, tuple[Tensor, Tensor]],
    held: Weights,
    fixed: Weights,
    block: int,
    printed: bool = False,
) -> Tensor:
    """Behrouz et al. 2025, p = 3, q = 4: A = alpha A - eta grad; W = A / |A|_4^2 as printed, or the
    minimiser A |A|^2 / (3 |A|_4^2), at the ends of blocks."""

    def link(a: Tensor) -> Tensor:
        four = (a**4).sum() ** (1 / 4)
        return a / four.pow(2).clamp(min=0.01) if printed else a**3 / (3 * four**2)

    out = []
    for t in range(len(q)):
        if t % block == 0:
            w = anchor = fixed | {n: link(held[n]) for n in held}
        g = deep_slopes(anchor, k[t], v[t], lambda r: 3 * torch.tanh(10 * r) * (r**2 + 1e-6))
        step = {n: (a[t][:, None], e[t][:, None] * g[n]) for n, (a, e) in gates.items()}
        held = {n: keep * held[n] - move for n, (keep, move) in step.items()}
        w = fixed | {n: keep * w[n] - move for n, (keep, move) in step.items()}
        out.append(deep_read(w, q[t]))
    return torch.stack(out)


def orthogonal(x: Tensor) -> Tensor:
    """Five steps of Newton and Schulz, which bring singular values near 1 (Jordan et al. 2024)."""
    x = x / x.norm()
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
    return x


def atlas(
    q: Tensor, k: Tensor, v: Tensor, gates: tuple[Tensor, ...], w: Weights, block: int
) -> Tensor:
    """Behrouz et al. 2025: S = theta S - sum of gamma^age grad over the last four tokens at the block's
    first weights; M = alpha M + eta NS5(S).  Gates: alpha, eta, theta, gamma."""
    (alpha, eta, theta, gamma), out = gates, []
    s = {n: torch.zeros_like(w[n]) for n in ("W1", "W2")}
    for t in range(len(q)):
        if t % block == 0:
            anchor = w
        s = {n: theta[t] * s[n] for n in s}
        for age in range(min(4, t + 1)):
            g = deep_slopes(anchor, k[t - age], v[t - age], lambda r: r)
            s = {n: s[n] - gamma[t] ** age * g[n] for n in s}
        w = {**w, **{n: alpha[t] * w[n] + eta[t] * orthogonal(s[n]) for n in s}}
        out.append(deep_read(w, q[t]))
    return torch.stack(out)
