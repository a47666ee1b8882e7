"""Whole layers with a matrix or a vector, written from the papers: from features to features.

Each takes x [time, width], the parameters of the memory by name, and the number of heads; where a
paper leaves something open (what surrounds the memory), the shipped spec's words are followed.
Nothing here knows the project.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.papers.layers.parts import (
    Parameters,
    before,
    by_head,
    channel_decay,
    channels,
    gated,
    heads_of,
    low_rank,
    mamba_decay,
    out,
    positive,
    qkv,
    short_conv,
    squashed,
)
from tests.papers.loops import additive, delta, retained, robust


def gla(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """Yang et al. 2023: alpha = sigmoid(W2 W1 x + b)^(1 / 16), per key channel."""
    q, k, v = (
        F.silu(by_head(x, p[f"{name}_linear.weight"], heads)) for name in ("query", "key", "value")
    )
    alpha = torch.sigmoid(low_rank(x, p, "alpha", heads) + p["alpha_param"]) ** (1 / 16)
    return out(heads_of(additive.gla, q, k, v, alpha), x, p)


def retnet(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """Sun et al. 2023, without rotation: gamma = 1 - 2^(-5 - h), h from 0."""
    q, k, v = (by_head(x, p[f"{name}_linear.weight"], heads) for name in ("query", "key", "value"))
    gamma = torch.tensor([1 - 2.0 ** (-5 - h) for h in range(heads)]).to(x)
    return out(heads_of(additive.retnet, q, k, v, gamma.expand(len(x), heads)), x, p)


def lightning(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """Qin et al. 2024: lambda = exp(-s_h), with the slopes s_h = 2^(-8 h / H) of ALiBi, h from 1."""
    q, k, v = (
        F.silu(by_head(x, p[f"{name}_linear.weight"], heads)) for name in ("query", "key", "value")
    )
    slopes = [2.0 ** (-8 * (h + 1) / heads) for h in range(heads)]
    decay = torch.exp(-torch.tensor(slopes, dtype=x.dtype))
    return out(heads_of(additive.retnet, q, k, v, decay.expand(len(x), heads)), x, p)


def hgrn(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """Qin et al. 2023: a forget gate per channel, here with a learned offset that starts at 2."""
    forget = torch.sigmoid(by_head(x, p["alpha_linear.weight"], heads) + 2 + p["alpha_param"])
    candidate = by_head(x, p["value_linear.weight"], heads)
    return out(heads_of(additive.hgrn, candidate, forget), x, p)


def delta_product(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """Siems et al. 2025: beta in [0, 2] for each of two pairs."""
    beta = 2 * torch.sigmoid(by_head(x, p["eta_linear.weight"], heads))
    given = (*qkv(x, p, heads, True, 2), mamba_decay(x, p), beta)
    return out(heads_of(delta.delta_product, *given), x, p)


def rwkv7(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """Peng et al. 2025: token shift; w = exp(-e^(-1/2) sigmoid(d)), e^(-1/2) written 0.6065;
    kappa = k xi, normed; k~ = k lerp(1, a, alpha); y = S r + (r (rho k~)') v.  xi and alpha start
    at 1, and k is normed first."""
    mixed = (x + before(x)) / 2
    maps = (p[f"{name}_linear.weight"] for name in ("query", "key", "value"))
    r, k, v = (by_head(mixed, weight, heads) for weight in maps)
    k = k / k.norm(dim=-1, keepdim=True)
    hidden = torch.tanh(x @ p["w_linear.weight"].T)
    d = p["w_param"] + by_head(hidden, p["w_linear_2.weight"], heads)
    w = torch.exp(-0.6065 / (1 + torch.exp(-d)))
    a = torch.sigmoid(p["a_param"] + low_rank(x, p, "a", heads))
    kappa = k * (1 + p["removal_param"])
    kappa = kappa / kappa.norm(dim=-1, keepdim=True)
    mix = 1 + p["insert_param"]
    replaced = k * ((1 - mix) + mix * a)
    bonus = torch.einsum("thk,hk,thk->th", r, p["_1_param"], replaced)[..., None] * v
    return out(heads_of(delta.rwkv7, r, w, replaced, v, kappa, a, bonus), x, p)


def hgrn2(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """Qin et al. 2024: f = b + (1 - b) sigmoid(W x), written 1 - (1 - b) sigmoid(W x - 2); silu of q."""
    q = F.silu(by_head(x, p["query_linear.weight"], heads))
    v = by_head(x, p["value_linear.weight"], heads)
    forget = 1 - (1 - torch.sigmoid(p["bound_param"])) * channels("alpha", -2)(x, p, heads)
    return out(heads_of(additive.hgrn2, q, v, forget), x, p)


def mamba2(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """Dao and Gu 2024: dt = softplus(W x + b), decay exp(-A dt), the skip D; no norm of B and C."""
    names = ("query", "key", "value")
    convolved = (
        short_conv(by_head(x, p[f"{n}_linear.weight"], heads), p[f"{n}_shape.conv.weight"])
        for n in names
    )
    c, b, u = (F.silu(given) for given in convolved)
    dt = F.softplus(x @ p["dt_linear.weight"].T + p["dt_param"])
    decay = torch.exp(-torch.exp(p["alpha_param"]) * dt)
    skip = p["_1_param"][:, None] * u
    return out(heads_of(additive.mamba2, c, b, u, decay, dt, skip), x, p)


def rwkv6(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """Peng et al. 2024: token shift by half; w = exp(-exp(d + W2 tanh(W1 x) - 4)); the bonus u."""
    mixed = (x + before(x)) / 2
    r, k, v = (by_head(mixed, p[f"{n}_linear.weight"], heads) for n in ("query", "key", "value"))
    hidden = torch.tanh(x @ p["w_linear.weight"].T)
    w = torch.exp(-torch.exp(p["w_param"] - 4 + by_head(hidden, p["w_linear_2.weight"], heads)))
    bonus = (r * p["_1_param"] * k).sum(-1, keepdim=True) * v
    return out(heads_of(additive.rwkv6, r, k, v, w, bonus), x, p)


def min_gru(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """Feng et al. 2024: z = sigmoid(W x), candidate W x."""
    candidate = by_head(x, p["value_linear.weight"], heads)
    return out(heads_of(additive.min_gru, candidate, channels("eta")(x, p, heads)), x, p)


def kda(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """Kimi Team 2025: a decay per key channel, beta = sigmoid(W x)."""
    return gated(delta.kda, channel_decay, squashed("eta"), decay=False)(x, p, heads)


def gdn2(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """2605.22791: the decay of KDA; sigmoid gates on key and value channels."""
    gates = (channel_decay, channels("erase"), channels("store"))
    return gated(delta.gdn2, *gates, decay=False)(x, p, heads)


def comba(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """Hu et al. 2025: p = sigmoid(b) k, and a learned share of k taken from q."""
    q, k, v = qkv(x, p, heads)
    asked = torch.sigmoid(p["_1_param"])[:, None] * k
    given = (mamba_decay(x, p), squashed("eta")(x, p, heads), asked)
    return out(heads_of(delta.comba, q - p["_2_param"][:, None] * k, k, v, *given), x, p)


def mdn(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """Huang et al. 2026: with the angle a = arctan(eta f), alpha is cos^2 a and beta sin^2 a of their
    gates; log mu is at least -2."""
    q, k, v = qkv(x, p, heads)
    eta = 1 + torch.tanh(x @ p["eta_linear.weight"].T)
    angle = torch.arctan(eta * torch.exp(p["ratio_param"]))
    alpha = mamba_decay(x, p) * torch.cos(angle) ** 2
    beta = torch.sin(angle) ** 2 * squashed("beta")(x, p, heads)
    mu = torch.exp(-(torch.exp(p["mu_param"]) * positive("mu")(x, p, heads)).clamp(max=2))
    q = q - torch.exp(p["_1_param"])[:, None] * k
    return out(heads_of(delta.mdn, q, k, v, alpha, mu, eta, beta), x, p)


def longhorn(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """Liu et al. 2024: beta = sigmoid(W x) for every value channel; keys keep their length."""
    names = ("query", "key", "value")
    convolved = (
        short_conv(by_head(x, p[f"{n}_linear.weight"], heads), p[f"{n}_shape.conv.weight"])
        for n in names
    )
    given = (*(F.silu(u) for u in convolved), channels("eta")(x, p, heads))
    return out(heads_of(delta.longhorn, *given), x, p)


def titans_linear(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """Behrouz et al. 2024: alpha, theta and eta are functions of x."""

    def alpha(x: Tensor, p: Parameters, heads: int) -> Tensor:
        return 1 - squashed("alpha", 0.1, -2)(x, p, heads)

    gates = (alpha, squashed("eta", 1 / 4), squashed("mu", 0.8))
    return gated(delta.titans_linear, *gates, decay=False)(x, p, heads)


def heavy_tails(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """In no paper: trust = sum of exp(u) k^2."""

    def trust(x: Tensor, p: Parameters, heads: int) -> Tensor:
        _, k, _ = qkv(x, p, heads)
        return (torch.exp(p["trust_param"]) * k**2).sum(-1)

    return gated(robust.heavy_tails, squashed("eta"), positive("delta"), trust)(x, p, heads)


def channel_momentum(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """In no paper: mu = 0.8 sigmoid(W2 W1 x + b), one number per key channel."""

    def mu(x: Tensor, p: Parameters, heads: int) -> Tensor:
        return 0.8 * torch.sigmoid(low_rank(x, p, "mu", heads) + p["mu_param"])

    return gated(delta.channel_momentum, squashed("eta", 1 / 2), mu)(x, p, heads)


def elastic_net(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """Behrouz et al. 2025: beta above 16, gamma above 64, eta from 0.01 to 0.51."""
    eta = squashed("eta", 1 / 2)(x, p, heads) + 0.01
    beta, gamma = 16 + positive("beta")(x, p, heads), 64 + positive("gamma")(x, p, heads)
    return out(heads_of(retained.elastic_net, *qkv(x, p, heads), beta, gamma, eta), x, p)
