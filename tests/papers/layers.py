"""Whole layers written from the papers: from features to features, with a layer's own parameters.

Each takes x [time, width], the parameters of the memory by name, and the number of heads; where a
paper leaves something open (what surrounds the memory), the shipped spec's words are followed.
Nothing here knows the project.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.papers.loops import additive, deep, delta, robust

Parameters = dict[str, Tensor]


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


def mamba_decay(x: Tensor, p: Parameters) -> Tensor:
    """alpha = exp(-exp(A) softplus(W x + dt)), one number per head (Gu and Dao 2023)."""
    step = torch.log(1 + torch.exp(x @ p["alpha_linear.weight"].T + p["alpha_param_2"]))
    return torch.exp(-torch.exp(p["alpha_param"]) * step)


def linear_attention(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """Katharopoulos et al. 2020."""
    return out(heads_of(additive.linear_attention, *qkv(x, p, heads)), x, p)


def gla(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """Yang et al. 2023: alpha = sigmoid(W2 W1 x + b)^(1 / 16), per key channel."""
    q, k, v = (
        F.silu(by_head(x, p[f"{name}_linear.weight"], heads)) for name in ("query", "key", "value")
    )
    alpha = torch.sigmoid(low_rank(x, p, "alpha", heads) + p["alpha_param"]) ** (1 / 16)
    return out(heads_of(additive.gla, q, k, v, alpha), x, p)


def hgrn(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """Qin et al. 2023: a forget gate per channel, here with a learned offset that starts at 2."""
    forget = torch.sigmoid(by_head(x, p["alpha_linear.weight"], heads) + 2 + p["alpha_param"])
    candidate = by_head(x, p["value_linear.weight"], heads)
    return out(heads_of(additive.hgrn, candidate, forget), x, p)


def deltanet(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """Yang et al. 2024: beta = sigmoid(W x)."""
    beta = torch.sigmoid(x @ p["eta_linear.weight"].T)
    return out(heads_of(delta.deltanet, *qkv(x, p, heads), beta), x, p)


def gated_deltanet(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """Yang et al. 2024: the decay of Mamba-2, beta = sigmoid(W x)."""
    beta = torch.sigmoid(x @ p["eta_linear.weight"].T)
    given = (*qkv(x, p, heads), mamba_decay(x, p), beta)
    return out(heads_of(delta.gated_deltanet, *given), x, p)


def delta_product(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """Siems et al. 2025: beta in [0, 2] for each of two pairs."""
    beta = 2 * torch.sigmoid(by_head(x, p["eta_linear.weight"], heads))
    given = (*qkv(x, p, heads, True, 2), mamba_decay(x, p), beta)
    return out(heads_of(delta.delta_product, *given), x, p)


def logcosh_momentum(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """In no paper: the gates of Gated DeltaNet, momentum below 0.8."""
    eta = torch.sigmoid(x @ p["eta_linear.weight"].T) / 2
    mu = 0.8 * torch.sigmoid(x @ p["mu_linear.weight"].T)
    given = (*qkv(x, p, heads), mamba_decay(x, p), eta, mu)
    return out(heads_of(robust.logcosh_momentum, *given), x, p)


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


def weights_of(p: Parameters, head: int) -> Parameters:
    """A head's network before the first token; its shifts start at zero."""
    w = {name: p[f"{name}_start"][head] for name in ("W1", "W2")}
    return w | {name: p[f"{name}_param"][head] for name in ("norm_weight", "norm_shift")}


def ttt_mlp(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """Sun et al. 2024: eta = 0.1 sigmoid(W x); a learned 1 / position inside blocks of 16."""
    q, k, v = qkv(x, p, heads, False)
    eta, ys = 0.1 * torch.sigmoid(x @ p["eta_linear.weight"].T), []
    for h in range(heads):
        scale = (1 / torch.arange(1, 17).to(x) + p["_1_param"][h]).clamp(min=0)
        w = weights_of(p, h)
        w |= {"b1": p["W1_start"].new_zeros(w["W1"].shape[0]), "b2": v.new_zeros(v.shape[-1])}
        ys.append(deep.ttt_mlp(q[:, h], k[:, h], v[:, h], eta[:, h], scale, w, 16))
    return out(torch.stack(ys, 1), x, p)


def titans(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """Behrouz et al. 2024: alpha, theta and eta are functions of x."""
    q, k, v = qkv(x, p, heads)
    alpha = 1 - 0.1 * torch.sigmoid(x @ p["alpha_linear.weight"].T - 4)
    theta = torch.sigmoid(x @ p["eta_linear.weight"].T) / 128
    eta = 0.9 * torch.sigmoid(x @ p["mu_linear.weight"].T)
    given = (q, k, v, alpha, theta, eta)
    ys = [deep.titans(*(u[:, h] for u in given), weights_of(p, h), 64) for h in range(heads)]
    return out(torch.stack(ys, 1), x, p)


def row_gates(
    x: Tensor, p: Parameters, heads: int, share: int, rate: float = 0
) -> dict[str, tuple[Tensor, Tensor]]:
    """alpha in [0.9, 1] and eta below 1 / share, for every row of both weights."""
    return {
        w: (
            0.9 + 0.1 * torch.sigmoid(low_rank(x, p, f"alpha_{w}", heads) + 4),
            torch.sigmoid(low_rank(x, p, f"eta_{w}", heads) + rate) / share,
        )
        for w in ("W1", "W2")
    }


def yaad(x: Tensor, p: Parameters, heads: int, sweeps: int = 1) -> Tensor:
    """Behrouz et al. 2025: delta is a function of x, positive."""
    q, k, v = qkv(x, p, heads)
    delta = torch.log(1 + torch.exp(x @ p["delta_linear.weight"].T - 1))
    gates, ys = row_gates(x, p, heads, 64, rate=-5), []
    for h in range(heads):
        own = {w: (a[:, h], e[:, h]) for w, (a, e) in gates.items()}
        given = (q[:, h], k[:, h], v[:, h], delta[:, h], own, weights_of(p, h), 64, sweeps)
        ys.append(deep.yaad(*given))
    return out(torch.stack(ys, 1), x, p)


def memora(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """Behrouz et al. 2025: rows start on the simplex, as the softmax of learned logits."""
    q, k, v = qkv(x, p, heads)
    gates, ys = row_gates(x, p, heads, 16), []
    for h in range(heads):
        own = {w: (a[:, h], e[:, h]) for w, (a, e) in gates.items()}
        w = weights_of(p, h)
        log = {name: torch.log_softmax(w.pop(name), -1) for name in ("W1", "W2")}
        ys.append(deep.memora(q[:, h], k[:, h], v[:, h], own, log, w, 64))
    return out(torch.stack(ys, 1), x, p)
