"""Memories whose writes do not depend on what they hold, as token loops from the papers.

One head of one sequence: q, k, v and gates [time, ...].  Nothing here knows the project.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


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


def hgrn(candidate: Tensor, forget: Tensor) -> Tensor:
    """Qin et al. 2023, real part: h_t = f h_(t-1) + (1 - f) silu(c)."""
    h, out = torch.zeros_like(candidate[0]), []
    for t in range(len(candidate)):
        h = forget[t] * h + (1 - forget[t]) * F.silu(candidate[t])
        out.append(h)
    return torch.stack(out)


def hgrn2(q: Tensor, v: Tensor, forget: Tensor) -> Tensor:
    """Qin et al. 2024: S_t = S_(t-1) Diag(f) + v (1 - f)'; y = S q."""
    s, out = v.new_zeros(v.shape[1], q.shape[1]), []
    for t in range(len(q)):
        s = s @ torch.diag(forget[t]) + torch.outer(v[t], 1 - forget[t])
        out.append(s @ q[t])
    return torch.stack(out)


def mamba2(c: Tensor, b: Tensor, x: Tensor, decay: Tensor, dt: Tensor, skip: Tensor) -> Tensor:
    """Dao and Gu 2024: h_t = exp(-A dt) h_(t-1) + dt x B'; y = h C + skip, which is D x."""
    h, out = x.new_zeros(x.shape[1], b.shape[1]), []
    for t in range(len(x)):
        h = decay[t] * h + torch.outer(dt[t] * x[t], b[t])
        out.append(h @ c[t] + skip[t])
    return torch.stack(out)


def rwkv6(r: Tensor, k: Tensor, v: Tensor, w: Tensor, bonus: Tensor) -> Tensor:
    """Peng et al. 2024: y_t = S_(t-1) r + bonus, (r (u k)') v; then S_t = S_(t-1) Diag(w) + v k'."""
    s, out = v.new_zeros(v.shape[1], k.shape[1]), []
    for t in range(len(r)):
        out.append(s @ r[t] + bonus[t])
        s = s @ torch.diag(w[t]) + torch.outer(v[t], k[t])
    return torch.stack(out)


def min_gru(candidate: Tensor, z: Tensor) -> Tensor:
    """Feng et al. 2024: h_t = (1 - z) h_(t-1) + z c."""
    h, out = torch.zeros_like(candidate[0]), []
    for t in range(len(candidate)):
        h = (1 - z[t]) * h + z[t] * candidate[t]
        out.append(h)
    return torch.stack(out)


def swla(q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, eta: Tensor, gamma: Tensor) -> Tensor:
    """Behrouz et al. 2025: M_t = alpha M_(t-1) + eta sum of gamma^age v k' over the last four tokens."""
    m, out = v.new_zeros(v.shape[1], k.shape[1]), []
    for t in range(len(q)):
        m = alpha[t] * m
        for age in range(min(4, t + 1)):
            m = m + eta[t] * gamma[t] ** age * torch.outer(v[t - age], k[t - age])
        out.append(m @ q[t])
    return torch.stack(out)
