"""Published recurrences as plain token loops, written from the papers with gradients by hand.

Each takes one head of one sequence: q, k, v and gates [time, ...], weights without leading axes.
Nothing here knows the project.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = dict[str, Tensor]


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Katharopoulos et al. 2020, without normaliser: S_t = S_(t-1) + v k'; y = S q."""
    s, out = v.new_zeros(v.shape[1], k.shape[1]), []
    for t in range(len(q)):
        s = s + torch.outer(v[t], k[t])
        out.append(s @ q[t])
    return torch.stack(out)


def gla(q: Tensor, k: Tensor, v: Tensor, alpha: Tensor) -> Tensor:
    """Yang et al. 2023: S_t = S_(t-1) Diag(alpha_t) + v k'."""
    s, out = v.new_zeros(v.shape[1], k.shape[1]), []
    for t in range(len(q)):
        s = s @ torch.diag(alpha[t]) + torch.outer(v[t], k[t])
        out.append(s @ q[t])
    return torch.stack(out)


def retnet(q: Tensor, k: Tensor, v: Tensor, gamma: Tensor) -> Tensor:
    """Sun et al. 2023, without rotation: S_t = gamma S_(t-1) + v k'; y = S q.  Qin et al. 2024 write the
    same with lambda for gamma."""
    s, out = v.new_zeros(v.shape[1], k.shape[1]), []
    for t in range(len(q)):
        s = gamma[t] * s + torch.outer(v[t], k[t])
        out.append(s @ q[t])
    return torch.stack(out)


def deltanet(q: Tensor, k: Tensor, v: Tensor, beta: Tensor) -> Tensor:
    """Yang et al. 2024: S_t = S_(t-1) (I - beta k k') + beta v k'."""
    s, eye, out = v.new_zeros(v.shape[1], k.shape[1]), torch.eye(k.shape[1]).to(k), []
    for t in range(len(q)):
        s = s @ (eye - beta[t] * torch.outer(k[t], k[t])) + beta[t] * torch.outer(v[t], k[t])
        out.append(s @ q[t])
    return torch.stack(out)


def gated_deltanet(q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Yang et al. 2024: S_t = alpha S_(t-1) (I - beta k k') + beta v k'."""
    s, eye, out = v.new_zeros(v.shape[1], k.shape[1]), torch.eye(k.shape[1]).to(k), []
    for t in range(len(q)):
        erase = alpha[t] * (eye - beta[t] * torch.outer(k[t], k[t]))
        s = s @ erase + beta[t] * torch.outer(v[t], k[t])
        out.append(s @ q[t])
    return torch.stack(out)


def rwkv7(
    r: Tensor, w: Tensor, insert: Tensor, v: Tensor, removal: Tensor, a: Tensor, bonus: Tensor
) -> Tensor:
    """Peng et al. 2025: S_t = S_(t-1) (Diag(w) - c (a c)') + v k'; y = S r + bonus."""
    s, out = v.new_zeros(v.shape[1], r.shape[1]), []
    for t in range(len(r)):
        transition = torch.diag(w[t]) - torch.outer(removal[t], a[t] * removal[t])
        s = s @ transition + torch.outer(v[t], insert[t])
        out.append(s @ r[t] + bonus[t])
    return torch.stack(out)


def delta_product(q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Siems et al. 2025, gated: one decay, then a delta step for each of the token's pairs."""
    s, eye, out = v.new_zeros(v.shape[2], k.shape[2]), torch.eye(k.shape[2]).to(k), []
    for t in range(len(q)):
        s = alpha[t] * s
        for j in range(k.shape[1]):
            householder = eye - beta[t, j] * torch.outer(k[t, j], k[t, j])
            s = s @ householder + beta[t, j] * torch.outer(v[t, j], k[t, j])
        out.append(s @ q[t])
    return torch.stack(out)


def hgrn(candidate: Tensor, forget: Tensor) -> Tensor:
    """Qin et al. 2023, real part: h_t = f h_(t-1) + (1 - f) silu(c)."""
    h, out = torch.zeros_like(candidate[0]), []
    for t in range(len(candidate)):
        h = forget[t] * h + (1 - forget[t]) * F.silu(candidate[t])
        out.append(h)
    return torch.stack(out)


def logcosh_momentum(
    q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, eta: Tensor, mu: Tensor
) -> Tensor:
    """In no paper: slope tanh(W k - v) of log cosh, Titans' momentum, exact, decay first."""
    w = s = v.new_zeros(v.shape[1], k.shape[1])
    out = []
    for t in range(len(q)):
        w = alpha[t] * w
        s = mu[t] * s - eta[t] * torch.outer(torch.tanh(w @ k[t] - v[t]), k[t])
        w = w + s
        out.append(w @ q[t])
    return torch.stack(out)


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
