"""Memories whose weights are a function of what is carried, as token loops from the papers.

One head of one sequence: q, k, v and gates [time, ...].  Nothing here knows the project.
"""

from __future__ import annotations

import torch
from torch import Tensor


def elastic_net(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, gamma: Tensor, eta: Tensor
) -> Tensor:
    """Behrouz et al. 2025: argmin <g, W> + |W - W'|^2 / (2 eta) + |W|^2 / (2 beta) + |W|_1 / gamma."""
    w, out = v.new_zeros(v.shape[1], k.shape[1]), []
    for t in range(len(q)):
        pull = w / eta[t] - torch.outer(w @ k[t] - v[t], k[t])
        pull = torch.sign(pull) * torch.relu(pull.abs() - 1 / gamma[t])
        w = pull / (1 / eta[t] + 1 / beta[t])
        out.append(w @ q[t])
    return torch.stack(out)


def soft_threshold(
    q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, gamma: Tensor, eta: Tensor
) -> Tensor:
    """Behrouz et al. 2025: A = alpha A' - eta (W k - v) k'; W is A, each entry nearer to 0 by gamma."""
    a, out = v.new_zeros(v.shape[1], k.shape[1]), []
    for t in range(len(q)):
        a = alpha[t] * a
        w = torch.sign(a) * torch.relu(a.abs() - gamma[t])
        a = a - eta[t] * torch.outer(w @ k[t] - v[t], k[t])
        out.append((torch.sign(a) * torch.relu(a.abs() - gamma[t])) @ q[t])
    return torch.stack(out)


def bounded_memory(q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, eta: Tensor) -> Tensor:
    """Behrouz et al. 2025: W = sigmoid(A), A = alpha A' - eta (W' k - v) k'."""
    a, out = v.new_zeros(v.shape[1], k.shape[1]), []
    for t in range(len(q)):
        w = torch.sigmoid(a)
        a = alpha[t] * a - eta[t] * torch.outer(w @ k[t] - v[t], k[t])
        out.append(torch.sigmoid(a) @ q[t])
    return torch.stack(out)
