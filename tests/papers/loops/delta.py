"""The delta rule and its kin, as token loops from the papers.

One head of one sequence: q, k, v and gates [time, ...].  Nothing here knows the project.
"""

from __future__ import annotations

import torch
from torch import Tensor


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


def kda(q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Kimi Team 2025: S_t = S_(t-1) Diag(alpha) (I - beta k k') + beta v k'."""
    s, eye, out = v.new_zeros(v.shape[1], k.shape[1]), torch.eye(k.shape[1]).to(k), []
    for t in range(len(q)):
        erase = torch.diag(alpha[t]) @ (eye - beta[t] * torch.outer(k[t], k[t]))
        s = s @ erase + beta[t] * torch.outer(v[t], k[t])
        out.append(s @ q[t])
    return torch.stack(out)


def comba(q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, beta: Tensor, p: Tensor) -> Tensor:
    """Hu et al. 2025: S_t = S_(t-1) (alpha - beta p k') + beta v k'; y = S q.  p is b k, and q is less
    d k."""
    s, eye, out = v.new_zeros(v.shape[1], k.shape[1]), torch.eye(k.shape[1]).to(k), []
    for t in range(len(q)):
        erase = alpha[t] * eye - beta[t] * torch.outer(p[t], k[t])
        s = s @ erase + beta[t] * torch.outer(v[t], k[t])
        out.append(s @ q[t])
    return torch.stack(out)


def gdn2(q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, erase: Tensor, store: Tensor) -> Tensor:
    """2605.22791: S_t = S_(t-1) Diag(alpha) (I - (b k) k') + (w v) k'."""
    s, eye, out = v.new_zeros(v.shape[1], k.shape[1]), torch.eye(k.shape[1]).to(k), []
    for t in range(len(q)):
        transition = torch.diag(alpha[t]) @ (eye - torch.outer(erase[t] * k[t], k[t]))
        s = s @ transition + torch.outer(store[t] * v[t], k[t])
        out.append(s @ q[t])
    return torch.stack(out)


def mdn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    alpha: Tensor,
    mu: Tensor,
    eta: Tensor,
    beta: Tensor,
) -> Tensor:
    """Huang et al. 2026: M_t = mu M_(t-1) + eta (v - S_(t-1) p) k' with p = alpha k;
    S_t = alpha S_(t-1) + beta M_t; y = S q.  q is less d k."""
    s = m = v.new_zeros(v.shape[1], k.shape[1])
    out = []
    for t in range(len(q)):
        m = mu[t] * m + eta[t] * torch.outer(v[t] - s @ (alpha[t] * k[t]), k[t])
        s = alpha[t] * s + beta[t] * m
        out.append(s @ q[t])
    return torch.stack(out)


def q_delta(q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, beta: Tensor, share: Tensor) -> Tensor:
    """Park et al. 2026: S_t = alpha S_(t-1) + beta (v - alpha S_(t-1) (k + lambda q)) k'."""
    s, out = v.new_zeros(v.shape[1], k.shape[1]), []
    for t in range(len(q)):
        s = alpha[t] * s
        s = s + beta[t] * torch.outer(v[t] - s @ (k[t] + share[t] * q[t]), k[t])
        out.append(s @ q[t])
    return torch.stack(out)


def longhorn(q: Tensor, k: Tensor, v: Tensor, beta: Tensor) -> Tensor:
    """Liu et al. 2024, the exact solution: row i goes towards v_i by e = b_i / (1 + b_i k k')."""
    s, out = v.new_zeros(v.shape[1], k.shape[1]), []
    for t in range(len(q)):
        rate = beta[t] / (1 + beta[t] * (k[t] @ k[t]))
        s = s + torch.outer(rate * (v[t] - s @ k[t]), k[t])
        out.append(s @ q[t])
    return torch.stack(out)


def omega_net(q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, eta: Tensor, gamma: Tensor) -> Tensor:
    """Behrouz et al. 2025: M_t = alpha M_(t-1) - eta sum of gamma^age (M_(t-1) k - v) k' over four."""
    m, out = v.new_zeros(v.shape[1], k.shape[1]), []
    for t in range(len(q)):
        step = torch.zeros_like(m)
        for age in range(min(4, t + 1)):
            past_k, past_v = k[t - age], v[t - age]
            step = step + gamma[t] ** age * torch.outer(m @ past_k - past_v, past_k)
        m = alpha[t] * m - eta[t] * step
        out.append(m @ q[t])
    return torch.stack(out)


def titans_linear(
    q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, theta: Tensor, eta: Tensor
) -> Tensor:
    """Behrouz et al. 2024, matrix: S = eta S - theta 2 (M k - v) k'; M = alpha M + S."""
    m = s = v.new_zeros(v.shape[1], k.shape[1])
    out = []
    for t in range(len(q)):
        s = eta[t] * s - theta[t] * 2 * torch.outer(m @ k[t] - v[t], k[t])
        m = alpha[t] * m + s
        out.append(m @ q[t])
    return torch.stack(out)


def channel_momentum(
    q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, eta: Tensor, mu: Tensor
) -> Tensor:
    """In no paper: the gated delta rule with momentum that fades by key channel, decay first."""
    w = s = v.new_zeros(v.shape[1], k.shape[1])
    out = []
    for t in range(len(q)):
        w = alpha[t] * w
        s = s @ torch.diag(mu[t]) - eta[t] * torch.outer(w @ k[t] - v[t], k[t])
        w = w + s
        out.append(w @ q[t])
    return torch.stack(out)
