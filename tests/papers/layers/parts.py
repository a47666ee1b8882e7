"""What layers written from the papers are made of: projections, convolutions, norms, gates.

Each takes x [time, width], the parameters of the memory by name, and the number of heads; where a
paper leaves something open (what surrounds the memory), the shipped spec's words are followed.
Nothing here knows the project.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Parameters = dict[str, Tensor]
Layer = Callable[[Tensor, Parameters, int], Tensor]
Gate = Callable[[Tensor, Parameters, int], Tensor]


def by_head(x: Tensor, weight: Tensor, heads: int, *shape: int) -> Tensor:
    """A projection, [time, heads, *shape]; the last axis takes what is left."""
    return (x @ weight.T).reshape(len(x), heads, *shape, -1)


def low_rank(x: Tensor, p: Parameters, name: str, heads: int) -> Tensor:
    """A projection through few channels."""
    return by_head(x @ p[f"{name}_linear.down"].T, p[f"{name}_linear.weight"], heads)


def before(u: Tensor) -> Tensor:
    """Each token's predecessor; zero before the first."""
    return torch.cat([torch.zeros_like(u[:1]), u[:-1]])


def short_conv(u: Tensor, weight: Tensor) -> Tensor:
    """A causal depthwise convolution; the newest token has the first weight."""
    total = torch.zeros_like(u)
    for lag in range(len(weight)):
        total = total + weight[lag] * u
        u = before(u)
    return total


def qkv(x: Tensor, p: Parameters, heads: int, silu: bool = True, *pairs: int) -> list[Tensor]:
    """Short convolution, SiLU, and an l2 norm for queries and keys (Yang et al. 2024)."""
    made = []
    for name in ("query", "key", "value"):
        shape = pairs if name != "query" else ()
        u = by_head(x, p[f"{name}_linear.weight"], heads, *shape)
        u = short_conv(u, p[f"{name}_shape.conv.weight"])
        u = F.silu(u) if silu else u
        made.append(u if name == "value" else u / u.norm(dim=-1, keepdim=True))
    return made


def out(y: Tensor, x: Tensor, p: Parameters) -> Tensor:
    """RMS norm per head, a gate of the input, the output projection."""
    y = y / torch.sqrt((y**2).mean(-1, keepdim=True) + 1e-6) * p["answer.norm.weight"]
    y = y.flatten(1)
    if "answer.gate.weight" in p:
        y = y * F.silu(x @ p["answer.gate.weight"].T)
    return y @ p["answer.project.weight"].T


def heads_of(loop: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """A token loop for every head, [time, heads, value]."""
    return torch.stack([loop(*(u[:, h] for u in inputs)) for h in range(inputs[0].shape[1])], 1)


def mamba_decay(x: Tensor, p: Parameters, name: str = "alpha") -> Tensor:
    """exp(-exp(A) softplus(W x + dt)), one number per head (Gu and Dao 2023)."""
    step = torch.log(1 + torch.exp(x @ p[f"{name}_linear.weight"].T + p[f"{name}_param_2"]))
    return torch.exp(-torch.exp(p[f"{name}_param"]) * step)


def squashed(name: str, most: float = 1, shift: float = 0) -> Gate:
    """most sigmoid(W x + shift), one number per head."""
    return lambda x, p, heads: most * torch.sigmoid(x @ p[f"{name}_linear.weight"].T + shift)


def positive(name: str, shift: float = 0) -> Gate:
    """softplus(W x + shift), one number per head."""
    return lambda x, p, heads: F.softplus(x @ p[f"{name}_linear.weight"].T + shift)


def channels(name: str, shift: float = 0) -> Gate:
    """sigmoid(W x + shift), one number per channel."""
    return lambda x, p, heads: torch.sigmoid(by_head(x, p[f"{name}_linear.weight"], heads) + shift)


def channel_decay(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """alpha = exp(-exp(A) softplus(W2 W1 x + dt - 4)), one number per key channel (Kimi Team 2025)."""
    step = F.softplus(low_rank(x, p, "alpha", heads) + p["alpha_param_2"] - 4)
    return torch.exp(-torch.exp(p["alpha_param"])[:, None] * step)


def gated(loop: Callable[..., Tensor], *gates: Gate, decay: bool = True) -> Layer:
    """The usual layer around a loop: convolved, normed projections, the decay of Mamba-2, then gates."""

    def layer(x: Tensor, p: Parameters, heads: int) -> Tensor:
        given = [mamba_decay(x, p)] if decay else []
        given += [gate(x, p, heads) for gate in gates]
        return out(heads_of(loop, *qkv(x, p, heads), *given), x, p)

    return layer
