"""Memories of slots, normalisers, complex states and statistics, as token loops from the papers.

One head of one sequence: q, k, v and gates [time, ...].  Nothing here knows the project.
"""

from __future__ import annotations

import torch
from torch import Tensor


def decaying_fast_weights(q: Tensor, k: Tensor, v: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Mao 2022: S_t = (row column') * S_(t-1) + v k'; y = S q."""
    s, out = v.new_zeros(v.shape[1], k.shape[1]), []
    for t in range(len(q)):
        s = torch.outer(row[t], column[t]) * s + torch.outer(v[t], k[t])
        out.append(s @ q[t])
    return torch.stack(out)


def slots(q: Tensor, k: Tensor, v: Tensor, alpha: Tensor) -> Tensor:
    """Zhang et al. 2024: K = Diag(alpha) K + (1 - alpha) k', V = Diag(alpha) V + (1 - alpha) v';
    y = V' softmax(K q).  Raven (Afzal et al. 2026) has alpha = exp(a r) with a sparse r."""
    keys, values = v.new_zeros(alpha.shape[1], k.shape[1]), v.new_zeros(alpha.shape[1], v.shape[1])
    out = []
    for t in range(len(q)):
        keys = torch.diag(alpha[t]) @ keys + torch.outer(1 - alpha[t], k[t])
        values = torch.diag(alpha[t]) @ values + torch.outer(1 - alpha[t], v[t])
        out.append(values.T @ torch.softmax(keys @ q[t], 0))
    return torch.stack(out)


def mlstm(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    """Beck et al. 2024: C = e^f C + e^i v k', n = e^f n + e^i k, both held as e^-m of themselves with
    m = max(f + m, i); y = C q / max(|n q|, e^-m).  f is a logarithm."""
    c, n, m, out = v.new_zeros(v.shape[1], k.shape[1]), torch.zeros_like(k[0]), f.new_zeros(()), []
    for t in range(len(q)):
        larger = torch.maximum(f[t] + m, i[t])
        keep, put, m = torch.exp(f[t] + m - larger), torch.exp(i[t] - larger), larger
        c = keep * c + put * torch.outer(v[t], k[t])
        n = keep * n + put * k[t]
        out.append(c @ q[t] / torch.maximum((n @ q[t]).abs(), torch.exp(-m)))
    return torch.stack(out)


def lru(u: Tensor, rate: Tensor, size: Tensor, c: Tensor, skip: Tensor) -> Tensor:
    """Orvieto et al. 2023: h = lambda h + gamma u; y = Re(c h) + skip, which is D u.  u, lambda (the
    rate) and c are complex."""
    h, out = torch.zeros_like(u[0]), []
    for t in range(len(u)):
        h = rate[t] * h + size[t] * u[t]
        out.append((c[t] * h).real + skip[t])
    return torch.stack(out)


def mamba3(
    c: Tensor, b: Tensor, x: Tensor, rate: Tensor, dt: Tensor, share: Tensor, skip: Tensor
) -> Tensor:
    """2603.15569: h_t = e^(dt A) h_(t-1) + (1 - share) dt e^(dt A) B_(t-1) x_(t-1) + share dt B_t x_t;
    y = Re(h C) + skip, which is D x.  B, C and the rate e^(dt A) of every channel are complex."""
    h, before, out = b.new_zeros(x.shape[1], b.shape[1]), b.new_zeros(x.shape[1], b.shape[1]), []
    for t in range(len(x)):
        now = torch.outer(x[t].to(b), b[t])
        h = (h + (1 - share[t]) * dt[t] * before) @ torch.diag(rate[t]) + share[t] * dt[t] * now
        before = now
        out.append((h @ c[t]).real + skip[t])
    return torch.stack(out)


def preconditioned_gdn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    alpha: Tensor,
    fade: Tensor,
    beta: Tensor,
    rate: Tensor,
    usual: Tensor,
) -> Tensor:
    """Tumma et al. 2026: A = fade A + rate k^2; r = log A - c; P = exp(-log(1.5) r / (1 + |r|));
    S = alpha S; S += beta (v - S k) (P k)'.  log(1.5) is written 0.405465, and A is at least 0.001."""
    s, a, out = v.new_zeros(v.shape[1], k.shape[1]), torch.zeros_like(k[0]), []
    for t in range(len(q)):
        a = fade[t] * a + rate[t] * k[t] ** 2
        r = torch.log(a.clamp(min=0.001)) - usual[t]
        p = torch.exp(-0.405465 * r / (1 + r.abs()))
        s = alpha[t] * s
        s = s + beta[t] * torch.outer(v[t] - s @ k[t], p * k[t])
        out.append(s @ q[t])
    return torch.stack(out)


def m2rnn(q: Tensor, k: Tensor, v: Tensor, f: Tensor, w: Tensor, h: Tensor) -> Tensor:
    """Mishra et al. 2026: h = f h + (1 - f) tanh(h W + k v'); y = h' q.  h is what it begins with."""
    out = []
    for t in range(len(q)):
        h = f[t] * h + (1 - f[t]) * torch.tanh(h @ w + torch.outer(k[t], v[t]))
        out.append(h.T @ q[t])
    return torch.stack(out)


def normalised_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Katharopoulos et al. 2020: S = S + v k', z = z + k; y = S q / (z q), here with z q at least 0.001."""
    s, z, out = v.new_zeros(v.shape[1], k.shape[1]), torch.zeros_like(k[0]), []
    for t in range(len(q)):
        s, z = s + torch.outer(v[t], k[t]), z + k[t]
        out.append(s @ q[t] / (z @ q[t]).clamp(min=0.001))
    return torch.stack(out)
