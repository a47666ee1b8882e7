"""Whole layers with a network, written from the papers: from features to features.

Each takes x [time, width], the parameters of the memory by name, and the number of heads; where a
paper leaves something open (what surrounds the memory), the shipped spec's words are followed.
Nothing here knows the project.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tests.papers.layers.parts import Parameters, low_rank, out, qkv, squashed
from tests.papers.loops import deep


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


def ttt_linear(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """Sun et al. 2024: eta = sigmoid(W x) / 8; a learned 1 / position inside blocks of 16."""
    q, k, v = qkv(x, p, heads, False)
    eta, ys = torch.sigmoid(x @ p["eta_linear.weight"].T) / 8, []
    for h in range(heads):
        scale = (1 / torch.arange(1, 17).to(x) + p["_1_param"][h]).clamp(min=0)
        w = {name: p[f"{name}_param"][h] for name in ("norm_weight", "norm_shift")}
        w |= {"W1": p["W1_start"][h], "b1": v.new_zeros(v.shape[-1])}
        ys.append(deep.ttt_linear(q[:, h], k[:, h], v[:, h], eta[:, h], scale, w, 16))
    return out(torch.stack(ys, 1), x, p)


def moneta(x: Tensor, p: Parameters, heads: int, printed: bool = False) -> Tensor:
    """Behrouz et al. 2025: what is carried starts as learned."""
    q, k, v = qkv(x, p, heads)
    gates, ys = row_gates(x, p, heads, 64, rate=-5), []
    for h in range(heads):
        own = {w: (a[:, h], e[:, h]) for w, (a, e) in gates.items()}
        w = weights_of(p, h)
        held = {name: w.pop(name) for name in ("W1", "W2")}
        ys.append(deep.moneta(q[:, h], k[:, h], v[:, h], own, held, w, 64, printed))
    return out(torch.stack(ys, 1), x, p)


def atlas(x: Tensor, p: Parameters, heads: int) -> Tensor:
    """Behrouz et al. 2025: every gate is a function of x."""
    q, k, v = qkv(x, p, heads)
    alpha = 1 - squashed("alpha", 0.01, -4)(x, p, heads)
    rest = (squashed("eta", 1 / 64), squashed("mu", 0.9), squashed("gamma"))
    gates = (alpha, *(gate(x, p, heads) for gate in rest))
    ys = []
    for h in range(heads):
        own = tuple(gate[:, h] for gate in gates)
        ys.append(deep.atlas(q[:, h], k[:, h], v[:, h], own, weights_of(p, h), 16))
    return out(torch.stack(ys, 1), x, p)
