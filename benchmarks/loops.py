"""Memories as one writes them without a compiler: plain torch, one token after the other."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import gelu

BLOCK = 64


def applied(matrix: Tensor, x: Tensor) -> Tensor:
    """[…, n, m] times [..., m]."""
    return (matrix @ x[..., None])[..., 0]


def linear(query: Tensor, key: Tensor, value: Tensor, alpha: Tensor) -> Tensor:
    """Linear attention that forgets; tokens [B, T, H, D], alpha [B, T, H]."""
    memory, answers = query.new_zeros(*query.shape[::2], *query.shape[3:] * 2), []
    for t in range(query.shape[1]):
        write = value[:, t, :, :, None] * key[:, t, :, None, :]
        memory = alpha[:, t, :, None, None] * memory + write
        answers.append(applied(memory, query[:, t]))
    return torch.stack(answers, 1)


def substitution(query: Tensor, key: Tensor, value: Tensor, alpha: Tensor, eta: Tensor) -> Tensor:
    """A matrix under log-cosh, decay first; eta [B, T, H]."""
    memory, answers = query.new_zeros(*query.shape[::2], *query.shape[3:] * 2), []
    for t in range(query.shape[1]):
        memory = alpha[:, t, :, None, None] * memory
        error = torch.tanh(applied(memory, key[:, t]) - value[:, t])
        memory = memory - (eta[:, t, :, None] * error)[..., None] * key[:, t, :, None, :]
        answers.append(applied(memory, query[:, t]))
    return torch.stack(answers, 1)


def deep(
    query: Tensor, key: Tensor, value: Tensor, alpha: Tensor, eta: Tensor, w1: Tensor, w2: Tensor
) -> Tensor:
    """A network of two layers with a residual, gradients at the start of each block of 64."""
    answers, (anchor1, anchor2) = [], (w1, w2)
    for t in range(query.shape[1]):
        if t % BLOCK == 0:
            anchor1, anchor2 = w1, w2
        x, keep, rate = key[:, t], alpha[:, t, :, None, None], eta[:, t, :, None, None]
        hidden = applied(anchor1, x)
        error = applied(anchor2, gelu(hidden)) + x - value[:, t]
        slope = (1 + torch.erf(hidden / math.sqrt(2))) / 2
        slope = slope + hidden * torch.exp(-hidden * hidden / 2) / math.sqrt(2 * math.pi)
        back = applied(anchor2.mT, error) * slope
        w1 = keep * w1 - rate * back[..., None] * x[..., None, :]
        w2 = keep * w2 - rate * error[..., None] * gelu(hidden)[..., None, :]
        answers.append(applied(w2, gelu(applied(w1, query[:, t]))) + query[:, t])
    return torch.stack(answers, 1)


LOOPS: dict[str, Callable[..., Tensor]] = {
    "linear": linear,
    "substitution": substitution,
    "deep": deep,
}
