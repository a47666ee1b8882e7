"""Memories that bound or reweigh the error, as token loops from the papers.

One head of one sequence: q, k, v and gates [time, ...].  Nothing here knows the project.
"""

from __future__ import annotations

import torch
from torch import Tensor


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


def value_shift(
    q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, eta: Tensor, delta: Tensor
) -> Tensor:
    """Behrouz et al. 2025: loss (|r| + delta)^2 / 2, whose slope is (1 + delta / |r|) r;
    |r|^2 is 0.01 larger."""
    w, out = v.new_zeros(v.shape[1], k.shape[1]), []
    for t in range(len(q)):
        w = alpha[t] * w
        r = w @ k[t] - v[t]
        r = r * (1 + delta[t] / torch.sqrt((r**2).sum() + 0.01))
        w = w - eta[t] * torch.outer(r, k[t])
        out.append(w @ q[t])
    return torch.stack(out)


def absolute_error(q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, eta: Tensor) -> Tensor:
    """Behrouz et al. 2025: slope sign(W k - v), smooth as tanh(10 r); measured before the decay."""
    w, out = v.new_zeros(v.shape[1], k.shape[1]), []
    for t in range(len(q)):
        w = alpha[t] * w - eta[t] * torch.outer(torch.tanh(10 * (w @ k[t] - v[t])), k[t])
        out.append(w @ q[t])
    return torch.stack(out)


def cubed_error(q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, eta: Tensor) -> Tensor:
    """Behrouz et al. 2025, p = 3: slope 3 sign(r) r^2, measured before the decay."""
    w, out = v.new_zeros(v.shape[1], k.shape[1]), []
    for t in range(len(q)):
        r = w @ k[t] - v[t]
        w = alpha[t] * w - eta[t] * torch.outer(3 * r * r.abs(), k[t])
        out.append(w @ q[t])
    return torch.stack(out)


def huber_channels(
    q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, eta: Tensor, delta: Tensor
) -> Tensor:
    """Behrouz et al. 2025, by coordinate: slope r, at most delta in size."""
    w, out = v.new_zeros(v.shape[1], k.shape[1]), []
    for t in range(len(q)):
        w = alpha[t] * w
        r = w @ k[t] - v[t]
        bounded = torch.where(r.abs() <= delta[t], r, delta[t] * torch.sign(r))
        w = w - eta[t] * torch.outer(bounded, k[t])
        out.append(w @ q[t])
    return torch.stack(out)


def huber_length(
    q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, eta: Tensor, delta: Tensor
) -> Tensor:
    """Behrouz et al. 2025, by length: slope r where |r| <= delta, else delta r / |r|."""
    w, out = v.new_zeros(v.shape[1], k.shape[1]), []
    for t in range(len(q)):
        w = alpha[t] * w
        r = w @ k[t] - v[t]
        r = r if r.norm() <= delta[t] else delta[t] * r / r.norm()
        w = w - eta[t] * torch.outer(r, k[t])
        out.append(w @ q[t])
    return torch.stack(out)


def heavy_tails(
    q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, eta: Tensor, delta: Tensor, trust: Tensor
) -> Tensor:
    """In no paper: Huber's slope by length, up to a threshold that the key scales."""
    return huber_length(q, k, v, alpha, eta, delta * trust)


def erase_and_hold(
    q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, b: Tensor, eta: Tensor
) -> Tensor:
    """In no paper: W = alpha W, less b (W k) k' and eta tanh(W k - v) k'."""
    w, out = v.new_zeros(v.shape[1], k.shape[1]), []
    for t in range(len(q)):
        w = alpha[t] * w
        held = w @ k[t]
        w = w - torch.outer(b[t] * held + eta[t] * torch.tanh(held - v[t]), k[t])
        out.append(w @ q[t])
    return torch.stack(out)
