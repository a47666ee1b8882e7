"""The same memories as plain token loops in torch: what a chunk form must equal.

Every loop takes named tensors (tokens [T, …], states, constants) and the length of a block, and
returns the outputs ``y`` [T, dv] and the final states by name.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, outer, stack
from torch.nn.functional import gelu, silu

Tensors = dict[str, Tensor]
Loop = Callable[[Tensors, int], Tensors]


def hebbian(x: Tensors, chunk: int) -> Tensors:
    S, y = x["S"], []
    for q, k, v, a in zip(x["q"], x["k"], x["v"], x["alpha"], strict=True):
        S = S * a + outer(v, k)
        y.append(S @ q)
    return {"y": stack(y), "S": S}


def delta(decay_first: bool) -> Loop:
    return any_bias("l2", decay_first)


def diagonal_plus_rank_one(x: Tensors, chunk: int) -> Tensors:
    S, y = x["S"], []
    for t, q in enumerate(x["q"]):
        S = S * x["w"][t] + outer(S @ x["x"][t], x["z"][t]) + outer(x["v"][t], x["k"][t])
        y.append(S @ q)
    return {"y": stack(y), "S": S}


SLOPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l2": lambda r, d: r,
    "l3": lambda r, d: 3 * r * r.abs(),
    "l1.5": lambda r, d: 1.5 * r.sign() * r.abs() ** 0.5,
    "logcosh": lambda r, d: torch.tanh(r),
    "huber": lambda r, d: torch.minimum(torch.maximum(r, -d), d),
    "norm_huber": lambda r, d: r if r.norm() <= d else r * d / r.norm(),
    "mixture": lambda r, d: r if r.norm() <= d else d * torch.tanh(10 * r),
    "softmax": lambda r, d: torch.softmax(r, 0),
}


def any_bias(bias: str, decay_first: bool) -> Loop:
    def loop(x: Tensors, chunk: int) -> Tensors:
        S, y = x["S"], []
        for t, (q, k, v, a) in enumerate(zip(x["q"], x["k"], x["v"], x["alpha"], strict=True)):
            kept = S * a
            r = (kept if decay_first else S) @ k - v
            g = SLOPES[bias](r, x["delta"][t] if "delta" in x else r)
            S = kept - x["eta"][t] * outer(g, k)
            y.append(S @ q)
        return {"y": stack(y), "S": S}

    return loop


def row_gates(x: Tensors, chunk: int) -> Tensors:
    S, y = x["S"], []
    for t, (q, k, v) in enumerate(zip(x["q"], x["k"], x["v"], strict=True)):
        g = torch.tanh(S @ k - v)
        S = x["alpha"][t][:, None] * S - outer(x["eta"][t] * g, k)
        y.append(S @ q)
    return {"y": stack(y), "S": S}


def momentum(bias: str, anchored: bool) -> Loop:
    def loop(x: Tensors, chunk: int) -> Tensors:
        S, N, y, anchor = x["S"], x["N"], [], x["S"]
        for t, (q, k, v) in enumerate(zip(x["q"], x["k"], x["v"], strict=True)):
            if t % chunk == 0:
                anchor = S
            r = (anchor if anchored else S) @ k - v
            N = x["mu"][t] * N - x["eta"][t] * outer(SLOPES[bias](r, r), k)
            S = x["alpha"][t] * S + N
            y.append(S @ q)
        return {"y": stack(y), "S": S, "N": N}

    return loop


def window(width: int) -> Loop:
    def loop(x: Tensors, chunk: int) -> Tensors:
        ks = torch.cat([x["kp"], x["k"]])
        vs = torch.cat([x["vp"], x["v"]])
        rates = torch.cat([x["ep"], x["eta"]])
        S, y, anchor = x["S"], [], x["S"]
        for t, q in enumerate(x["q"]):
            if t % chunk == 0:
                anchor = S
            S = x["alpha"][t] * S
            for i in range(t + chunk - width + 1, t + chunk + 1):
                S = S - rates[i] * outer(torch.tanh(anchor @ ks[i] - vs[i]), ks[i])
            y.append(S @ q)
        past = {"kp": ks[-chunk:], "vp": vs[-chunk:], "ep": rates[-chunk:]}
        return {"y": stack(y), "S": S, **past}

    return loop


def soft_threshold(x: Tensors, chunk: int) -> Tensors:
    S, y, last = x["S"], [], len(x["q"]) - 1
    for t, (q, k, v) in enumerate(zip(x["q"], x["k"], x["v"], strict=True)):
        S = x["alpha"][t] * S - x["eta"][t] * outer(S @ k - v, k)
        y.append(S @ q)
        if t % chunk == chunk - 1 or t == last:
            S = S.sign() * torch.relu(S.abs() - x["gamma"])
    return {"y": stack(y), "S": S}


def softmax_link(x: Tensors, chunk: int) -> Tensors:
    S, y, start = x["S"], [], x["S"]
    for t, (q, k, v) in enumerate(zip(x["q"], x["k"], x["v"], strict=True)):
        if t % chunk == 0:
            start = S
        W = torch.softmax(start, 1)
        S = x["alpha"][t] * S - x["eta"][t] * outer(torch.tanh(W @ k - v), k)
        y.append((W + S - start) @ q)
    return {"y": stack(y), "S": S}


def norm_link(x: Tensors, chunk: int) -> Tensors:
    S, y, W = x["S"], [], x["S"]
    for t, (q, k, v) in enumerate(zip(x["q"], x["k"], x["v"], strict=True)):
        if t % chunk == 0:
            W = S / S.norm()
        S = x["alpha"][t] * S - x["eta"][t] * outer(W @ k - v, k)
        y.append(W @ q)
    return {"y": stack(y), "S": S}


def _online(x: Tensors, chunk: int, names: list[str], answer, loss) -> Tensors:
    """Networks learn by autograd at the block's first weights: no gradient is written by hand."""
    W, anchor, y = [x[n] for n in names], [x[n] for n in names], []
    for t, (q, k, v) in enumerate(zip(x["q"], x["k"], x["v"], strict=True)):
        if t % chunk == 0:
            anchor = W
        grads = _descent(anchor, k, v, answer, loss)
        W = [x["alpha"][t] * w - x["eta"][t] * g for w, g in zip(W, grads, strict=True)]
        y.append(answer(W, q))
    return {"y": stack(y), **dict(zip(names, W, strict=True))}


def _descent(W: list[Tensor], k: Tensor, v: Tensor, answer, loss) -> tuple[Tensor, ...]:
    W = [w if w.requires_grad else w.clone().requires_grad_() for w in W]
    return torch.autograd.grad(loss(answer(W, k) - v), W, create_graph=True)


def mlp(x: Tensors, chunk: int) -> Tensors:
    def answer(W: list[Tensor], k: Tensor) -> Tensor:
        z = W[0] @ gelu(W[1] @ k)
        z = torch.nn.functional.layer_norm(z, z.shape, x["gain"], x["shift"], eps=0.01)
        return k + z

    return _online(x, chunk, ["W1", "W2"], answer, lambda r: r.cosh().log().sum())


def glu(x: Tensors, chunk: int) -> Tensors:
    def answer(W: list[Tensor], k: Tensor) -> Tensor:
        return W[0] @ (silu(W[1] @ k) * (W[2] @ k))

    return _online(x, chunk, ["W1", "W2", "W3"], answer, lambda r: (r * r).sum() / 2)


def sweeps(count: int) -> Loop:
    def answer(W: list[Tensor], k: Tensor) -> Tensor:
        return W[0] @ gelu(W[1] @ k) + k

    def loop(x: Tensors, chunk: int) -> Tensors:
        paths = [[x["W1"], x["W2"], x["N1"], x["N2"]]] * count
        y, anchor = [], paths[-1]
        for t, (q, k, v) in enumerate(zip(x["q"], x["k"], x["v"], strict=True)):
            if t % chunk == 0:
                anchor = paths[-1]
                paths = [anchor] * count
            before, paths = [anchor, *paths[:-1]], list(paths)
            for n, teacher in enumerate(before):
                grads = _descent(teacher[:2], k, v, answer, _clipped)
                W, N = paths[n][:2], paths[n][2:]
                N = [x["mu"][t] * s - x["eta"][t] * g for s, g in zip(N, grads, strict=True)]
                W = [x["alpha"][t] * w + s for w, s in zip(W, N, strict=True)]
                paths[n] = W + N
            y.append(answer(paths[-1][:2], q))
        return {"y": stack(y), **dict(zip(("W1", "W2", "N1", "N2"), paths[-1], strict=True))}

    return loop


def _clipped(r: Tensor) -> Tensor:
    return torch.nn.functional.huber_loss(r, torch.zeros_like(r), reduction="sum", delta=0.7)
