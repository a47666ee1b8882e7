"""Whole layers with slots, normalisers, complex states and statistics, written from the papers.

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
    by_head,
    channels,
    heads_of,
    mamba_decay,
    out,
    qkv,
    short_conv,
    squashed,
)
from tests.papers.loops import several_states as loops


def projected(x: Tensor, p: Parameters, heads: int, *names: str) -> list[Tensor]:
    """Plain projections, [time, heads, channels] each."""
    return [by_head(x, p[f"{name}_linear.weight"], heads) for name in names]


def unit(u: Tensor) -> Tensor:
    """A vector of length one."""
    return u / u.norm(dim=-1, keepdim=True)


def decaying_fast_weights(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """Mao 2022: two sigmoids, of rows and of columns; nothing but a projection follows."""
    q, k, v = projected(x, p, heads, "query", "key", "value")
    row, column = channels("beta", 4)(x, p, heads), channels("alpha", 4)(x, p, heads)
    y = heads_of(loops.decaying_fast_weights, q, k, v, row, column)
    return y.flatten(1) @ p["answer.project.weight"].T


def gated_slots(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """Zhang et al. 2024: alpha = sigmoid(W x)^(1 / 8), one number per slot."""
    q, k, v = (F.silu(u) for u in projected(x, p, heads, "query", "key", "value"))
    return out(heads_of(loops.slots, q, k, v, channels("alpha")(x, p, heads) ** (1 / 8)), x, p)


def raven(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """Afzal et al. 2026: r = KeepTopK(sigmoid(W x)) / its sum, four of 16 slots; alpha = exp(a r)."""
    q, k, v = projected(x, p, heads, "query", "key", "value")
    scores = channels("route")(x, p, heads)
    best = torch.zeros_like(scores).scatter(-1, scores.topk(4, -1).indices, 1.0)
    share = scores * best / (scores * best).sum(-1, keepdim=True)
    step = F.softplus(by_head(x, p["alpha_linear.weight"], heads))
    alpha = torch.exp(-torch.exp(p["alpha_param"])[:, None] * step * share)
    return out(heads_of(loops.slots, unit(q), unit(k), v, alpha), x, p)


def mlstm(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """Beck et al. 2024: an exponential input gate, the forget gate log sigmoid(W x + 4)."""
    forget = F.logsigmoid(x @ p["forget_linear.weight"].T + 4)
    given = (*qkv(x, p, heads), x @ p["input__linear.weight"].T, forget)
    return out(heads_of(loops.mlstm, *given), x, p)


def lru(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """Orvieto et al. 2023: lambda = exp(-exp(nu) + i exp(theta)), gamma = sqrt(1 - |lambda|^2), here with
    0.0001 in the root.  nu is a parameter less 3, theta and the imaginary part of c one less 1."""
    real, imaginary = projected(x, p, heads, "value", "shadow")
    size = torch.exp(-torch.exp(p["r_param"] - 3))
    rate = torch.polar(size, torch.exp(p["angle_param"] - 1))
    c = torch.complex(p["_1_param"], p["_2_param"] - 1)
    lasting = (rate, torch.sqrt(1 - size**2 + 0.0001), c)
    fixed = (u.expand(len(x), *u.shape) for u in lasting)
    return out(
        heads_of(loops.lru, torch.complex(real, imaginary), *fixed, p["_3_param"] * real), x, p
    )


def mamba3(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """2603.15569 and its code: dt = softplus(W x + b), |e^(dt A)| = exp(-A dt), angles pi dt tanh(W x)
    with pi written 3.14159, share sigmoid(W x).  B is conjugated, which names the
    parameters of its imaginary part otherwise."""
    q, k, v = projected(x, p, heads, "query", "key", "value")
    q_im, k_im, turn = projected(x, p, heads, "query_im", "key_im", "angle")
    c, b, turn = torch.complex(unit(q), q_im), torch.complex(unit(k), -k_im), torch.tanh(turn)
    dt = F.softplus(x @ p["dt_linear.weight"].T + p["dt_param"])
    length = torch.exp(-torch.exp(p["alpha_param"]) * dt)[..., None]
    rate = torch.polar(length.expand(turn.shape), 3.14159 * dt[..., None] * turn)
    skip = p["_1_param"][:, None] * v
    given = (c, b, v, rate, dt, squashed("share")(x, p, heads), skip)
    return out(heads_of(loops.mamba3, *given), x, p)


def preconditioned_gdn(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """Tumma et al. 2026: two decays of Mamba-2, beta and the rate sigmoid(W x), c a number of the head."""
    decays = (mamba_decay(x, p), mamba_decay(x, p, "fade"))
    rates = (squashed("eta")(x, p, heads), squashed("rate")(x, p, heads))
    usual = p["usual_param"].expand(len(x), heads)
    given = (*qkv(x, p, heads), *decays, *rates, usual)
    return out(heads_of(loops.preconditioned_gdn, *given), x, p)


def m2rnn(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """Mishra et al. 2026: f = sigmoid(W x + 2); the recurrent matrix is U'."""
    names = ("query", "key", "value")
    plain = zip(names, projected(x, p, heads, *names), strict=True)
    q, k, v = (F.silu(short_conv(u, p[f"{name}_shape.conv.weight"])) for name, u in plain)
    f = squashed("forget", 1, 2)(x, p, heads)
    empty = torch.zeros_like(p["U_start"][0])
    y = [
        loops.m2rnn(q[:, h], k[:, h], v[:, h], f[:, h], p["U_start"][h].T, empty)
        for h in range(heads)
    ]
    return out(torch.stack(y, 1), x, p)


def normalised_attention(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """Katharopoulos et al. 2020, with softplus for elu + 1."""
    q, k, v = projected(x, p, heads, "query", "key", "value")
    return out(heads_of(loops.normalised_attention, F.softplus(q), F.softplus(k), v), x, p)
