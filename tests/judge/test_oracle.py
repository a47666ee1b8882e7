"""The oracle against recurrences written out by hand, splits of a sequence, and gradcheck."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from miras_dsl.runtime.judge.oracle.run import run
from miras_dsl.spec import Algorithm, Anchored, Decay, MemorySpec, Ref, Retention, Write
from tests.judge.handwritten_specs import (
    GD,
    KEY,
    MOMENTUM,
    RESIDUAL,
    VALUE,
    at,
    g,
    gate,
    matrix,
    mlp,
    network,
    num,
    op,
)
from tests.judge.handwritten_specs import W as WEIGHT

F64 = torch.float64


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def inputs(
    batch: int, time: int, heads: int, dk: int, dv: int, **gates: Tensor
) -> dict[str, Tensor]:
    lead = (batch, time, heads)
    return {
        "query": functional.normalize(draw(*lead, dk, seed=1), dim=-1),
        "key": functional.normalize(draw(*lead, dk, seed=2), dim=-1),
        "value": draw(*lead, dv, seed=3),
        "alpha": 0.9 + 0.1 * torch.sigmoid(draw(*lead, seed=4)),
        "eta": torch.sigmoid(draw(*lead, seed=5)),
        "mu": 0.8 * torch.sigmoid(draw(*lead, seed=6)),
        **gates,
    }


def close(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> None:
    assert a.shape == b.shape
    assert torch.allclose(a, b, rtol=tolerance, atol=tolerance), float((a - b).abs().max())


@pytest.mark.parametrize(
    "words", ["decay predict write read", "predict decay write read", "read predict write decay"]
)
def test_delta_rule_in_every_order(words: str) -> None:
    order = tuple(words.split())
    spec, x = matrix(order=order), inputs(2, 7, 2, 4, 3)
    y, state = run(spec, {"dk": 4, "dv": 3}, x)
    s, outs = torch.zeros(2, 2, 3, 4, dtype=F64), []
    for t in range(7):
        q, k, v, a, e = (x[n][:, t] for n in ("query", "key", "value", "alpha", "eta"))
        decay = lambda m: a[..., None, None] * m  # noqa: E731, B023
        read = lambda m: torch.einsum("bhvk,bhk->bhv", m, q)  # noqa: E731, B023
        if order[0] == "read":
            outs.append(read(s))
        kept = decay(s) if order[-1] != "decay" else s
        seen = kept if order[0] == "decay" else s
        error = torch.einsum("bhvk,bhk->bhv", seen, k) - v
        s = kept - e[..., None, None] * error[..., None] * k[..., None, :]
        if order[-1] == "decay":
            s = decay(s)
        else:
            outs.append(read(s))
    close(y, torch.stack(outs, 1))
    close(state["W"], s)


def test_momentum_and_log_cosh() -> None:
    spec = matrix(
        loss=op("sum", op("log", op("cosh", RESIDUAL)), over=("value",)),
        gates=(gate("alpha"), gate("eta"), gate("mu")),
        algorithm=Algorithm(MOMENTUM, carry=("S",)),
    )
    x = inputs(1, 9, 2, 4, 3)
    y, state = run(spec, {"dk": 4, "dv": 3}, x)
    w = m = torch.zeros(1, 2, 3, 4, dtype=F64)
    outs = []
    for t in range(9):
        q, k, v, a, e, mu = (x[n][:, t] for n in ("query", "key", "value", "alpha", "eta", "mu"))
        w = a[..., None, None] * w
        error = torch.tanh(torch.einsum("bhvk,bhk->bhv", w, k) - v)
        m = mu[..., None, None] * m - e[..., None, None] * error[..., None] * k[..., None, :]
        w = w + m
        outs.append(torch.einsum("bhvk,bhk->bhv", w, q))
    close(y, torch.stack(outs, 1))
    close(state["S.W"], m)


def sweeps(x: Mapping[str, Tensor], w1: Tensor, w2: Tensor, block: int, count: int) -> Tensor:
    """The definition of DESIGN §2, for one batch entry and head; huber clip at 0.7; momentum."""

    def slopes(a: Tensor, b: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
        a, b = a.detach().requires_grad_(), b.detach().requires_grad_()
        r = a @ functional.gelu(b @ k) + k - v
        loss = torch.where(r.abs() <= 0.7, r * r / 2, 0.7 * (r.abs() - 0.35)).sum()
        return list(torch.autograd.grad(loss, (a, b)))

    zero = [torch.zeros_like(w1), torch.zeros_like(w2)]
    courses = [([w1, w2], zero) for _ in range(count)]
    outs = []
    for t in range(len(x["key"])):
        if t % block == 0:
            anchor = courses[-1][0]
            courses = [courses[-1]] * count
        bases = [anchor, *(weights for weights, _ in courses[:-1])]
        moved = []
        for (weights, speed), base in zip(courses, bases, strict=True):
            grads = slopes(*base, x["key"][t], x["value"][t])
            speed = [x["mu"][t] * s - x["eta"][t] * d for s, d in zip(speed, grads, strict=True)]
            moved.append(
                ([x["alpha"][t] * w + s for w, s in zip(weights, speed, strict=True)], speed)
            )
        courses = moved
        (a, b), q = courses[-1][0], x["query"][t]
        outs.append(a @ functional.gelu(b @ q) + q)
    return torch.stack(outs)


def deep(block: int, count: int) -> MemorySpec:
    r = op("sub", network(KEY), VALUE, axes=("value",))
    small = op("le", op("abs", r), 0.7)
    tail = op("mul", op("sub", op("abs", r), 0.35), 0.7)
    huber = op("sum", op("where", small, op("div", op("pow", r, 2), 2), tail), over=("value",))
    return mlp(
        loss=huber,
        gates=(gate("alpha"), gate("eta"), gate("mu")),
        algorithm=Algorithm(MOMENTUM, carry=("S",), anchored=Anchored(block, count)),
    )


@pytest.mark.parametrize("count", [1, 2, 4])
def test_sweeps(count: int) -> None:
    """Any number of sweeps follows its definition, and as many as the block is long are exact."""
    x = inputs(1, 10, 1, 6, 6)
    start = {"W1": 0.3 * draw(1, 1, 6, 12, seed=7), "W2": 0.3 * draw(1, 1, 12, 6, seed=8)}
    y, _ = run(deep(4, count), {"d": 6}, x, start)
    flat = {name: tensor[0, :, 0] for name, tensor in x.items()}
    expected = sweeps(flat, start["W1"][0, 0], start["W2"][0, 0], 4, count)
    close(y[0, :, 0], expected)
    online, _ = run(
        replace(deep(4, count), algorithm=Algorithm(MOMENTUM, carry=("S",))), {"d": 6}, x, start
    )
    apart = float((y - online).abs().max())
    assert apart < 1e-12 if count == 4 else apart > 1e-5


LOG_COSH = op("sum", op("log", op("cosh", RESIDUAL)), over=("value",))
W_DUAL, A_DUAL = Ref("w", "dual"), Ref("a", "dual")
ENTROPY = op("sub", op("mul", W_DUAL, op("log", W_DUAL)), W_DUAL)
SOFT = op("mul", op("exact_sign", A_DUAL), op("max", op("sub", op("abs", A_DUAL), 0.05), 0))
NET = op("add", op("abs", W_DUAL), op("div", op("pow", op("sub", W_DUAL, Ref("w0", "dual")), 2), 2))
SCALE = op("div", 1, Ref("position", "position"))

SPECS = {
    "delta": matrix(),
    "momentum": matrix(
        gates=(gate("alpha"), gate("eta"), gate("mu")),
        algorithm=Algorithm(MOMENTUM, carry=("S",)),
    ),
    "window": matrix(algorithm=Algorithm(GD, window=(3, num("9/10")))),
    "steps": matrix(algorithm=Algorithm(GD, steps=3)),
    "implicit": matrix(algorithm=Algorithm(GD, implicit=True), loss=LOG_COSH),
    "anchored": matrix(algorithm=Algorithm(GD, anchored=Anchored(4, 2))),
    "reads start": matrix(algorithm=Algorithm(GD, anchored=Anchored(4, 1, "start"))),
    "scaled": matrix(
        retention=Retention(),
        order=("predict", "write", "read"),
        algorithm=Algorithm(GD, anchored=Anchored(4, scale=SCALE)),
    ),
    "reset": matrix(algorithm=Algorithm(GD, reset=5)),
    "soft threshold": matrix(retention=Retention((Decay(g("alpha")),), link=SOFT, at="token")),
    "softmax at token": matrix(
        retention=Retention((Decay(g("alpha")),), bregman=ENTROPY, simplex=num(2), at="token")
    ),
    "potential": matrix(retention=Retention((Decay(g("alpha")),), bregman=ENTROPY, at="token")),
    "link at chunk": matrix(
        retention=Retention((Decay(g("alpha")),), bregman=ENTROPY, simplex=num(1), at="chunk"),
        algorithm=Algorithm(GD, anchored=Anchored(4, 2)),
    ),
    "penalty": matrix(
        retention=Retention(penalty=op("mul", NET, 0.1), at="token"),
        order=("predict", "write", "read"),
    ),
    "given write": matrix(
        terms=(Write("", op("mul", g("eta"), RESIDUAL), KEY, at(WEIGHT, KEY), num(1)),)
    ),
}


@pytest.mark.parametrize("name", SPECS)
def test_split_calls_equal_one_call(name: str) -> None:
    """A carried state says everything: every split gives the same numbers."""
    spec, x = SPECS[name], inputs(2, 11, 2, 3, 4)
    sizes = {"dk": 3, "dv": 4}
    y, end = run(spec, sizes, x)
    parts, state = [], None
    for low, high in ((0, 3), (3, 4), (4, 4), (4, 11)):
        part, state = run(spec, sizes, {n: t[:, low:high] for n, t in x.items()}, state)
        parts.append(part)
    assert state is not None
    close(y, torch.cat(parts, 1))
    assert float(y.abs().max()) > 1e-3
    for key, tensor in end.items():
        close(tensor, state[key])


@pytest.mark.parametrize("name", SPECS)
def test_gradcheck(name: str) -> None:
    spec, x = SPECS[name], inputs(1, 5, 1, 2, 2)
    names = [n for n in x if n != "mu" or spec.algorithm.carry]
    start = 0.5 * draw(1, 1, 2, 2, seed=9)

    def call(*tensors: Tensor) -> tuple[Tensor, ...]:
        *values, weight = tensors
        state = {"W": weight, "W.dual": weight} if spec.retention.at == "chunk" else {"W": weight}
        y, end = run(spec, {"dk": 2, "dv": 2}, dict(zip(names, values, strict=True)), state)
        return (y, *(t for t in end.values() if t.is_floating_point()))

    points = [x[n].clone().requires_grad_() for n in names] + [start.requires_grad_()]
    assert torch.autograd.gradcheck(call, points, eps=1e-6, atol=1e-6, rtol=1e-4, fast_mode=True)


def test_scaled_block_is_the_scheme_of_ttt() -> None:
    """W_t = W_0 - (1/t) sum_(i<=t) eta_i g_i inside a block, all gradients at W_0."""
    x = inputs(1, 4, 1, 3, 4)
    w = draw(1, 1, 4, 3, seed=9)
    y, state = run(SPECS["scaled"], {"dk": 3, "dv": 4}, x, {"W": w})
    k, v, e = x["key"][0, :, 0], x["value"][0, :, 0], x["eta"][0, :, 0]
    slopes = e[:, None, None] * (k @ w[0, 0].T - v)[:, :, None] * k[:, None, :]
    for t in range(4):
        now = w[0, 0] - slopes[: t + 1].sum(0) / (t + 1)
        close(y[0, t, 0], now @ x["query"][0, t, 0])
    close(state["W"][0, 0], now)


def test_implicit_l2_is_the_delta_rule_with_a_bounded_rate() -> None:
    x = inputs(2, 6, 1, 3, 4)
    x["key"] = 2 * x["key"]
    x["eta"][:, 2] = 0
    y, _ = run(matrix(algorithm=Algorithm(GD, implicit=True)), {"dk": 3, "dv": 4}, x)
    rate = x["eta"] / (1 + x["eta"] * (x["key"] ** 2).sum(-1))
    expected, _ = run(matrix(), {"dk": 3, "dv": 4}, {**x, "eta": rate})
    close(y, expected, 1e-11)


def test_potentials_and_penalties_have_their_known_solutions() -> None:
    x, sizes = inputs(2, 6, 1, 3, 4), {"dk": 3, "dv": 4}
    y, _ = run(SPECS["potential"], sizes, x)
    exponential = Retention((Decay(g("alpha")),), link=op("exp", A_DUAL), at="token")
    close(y, run(matrix(retention=exponential), sizes, x)[0])
    start = {"W": draw(2, 1, 4, 3, seed=9)}
    y, state = run(SPECS["penalty"], sizes, {n: t[:, :1] for n, t in x.items()}, start)
    k, v = (x[n][:, 0] for n in ("key", "value"))
    pull = (torch.einsum("bhvk,bhk->bhv", start["W"], k) - v)[..., None]
    moved = start["W"] - 10 * pull * k[..., None, :]
    close(state["W"], torch.sign(moved) * (moved.abs() - 1).clamp_min(0), 1e-9)


def test_steps_equal_a_longer_sequence() -> None:
    """Three steps on a token are three tokens, the last two without decay and without a read."""
    x, sizes = inputs(1, 4, 2, 3, 4), {"dk": 3, "dv": 4}
    y, _ = run(SPECS["steps"], sizes, x)
    long = {n: t.repeat_interleave(3, 1) for n, t in x.items()}
    first = torch.arange(12) % 3 == 0
    long["alpha"] = torch.where(first[None, :, None], long["alpha"], 1.0)
    close(y, run(matrix(), sizes, long)[0][:, 2::3])


def test_window_is_the_sum_over_recent_tokens() -> None:
    x, sizes = inputs(1, 6, 1, 3, 4), {"dk": 3, "dv": 4}
    y, _ = run(SPECS["window"], sizes, x)
    w, outs = torch.zeros(4, 3, dtype=F64), []
    q, k, v, a, e = (x[n][0, :, 0] for n in ("query", "key", "value", "alpha", "eta"))
    for t in range(6):
        w = a[t] * w
        recent = range(max(0, t - 2), t + 1)
        slope = sum(0.9 ** (t - i) * torch.outer(w @ k[i] - v[i], k[i]) for i in recent)
        w = w - e[t] * slope
        outs.append(w @ q[t])
    close(y[0, :, 0], torch.stack(outs))


def test_rounding_rounds_products_only() -> None:
    """In bfloat16 the error is that of rounded operands; in float32 there is no rounding at all."""
    x, sizes = inputs(1, 12, 1, 8, 8), {"dk": 8, "dv": 8}
    exact, _ = run(matrix(), sizes, x)
    single = {n: t.float() for n, t in x.items()}
    plain, _ = run(matrix(), sizes, single)
    same, _ = run(matrix(), sizes, single, rounding=torch.float32)
    low, state = run(matrix(), sizes, single, rounding=torch.bfloat16)
    assert torch.equal(plain, same) and state["W"].dtype == torch.float32
    scale = float(exact.abs().max())
    assert float((plain - exact).abs().max()) < 1e-6 * scale
    assert 1e-4 * scale < float((low - exact).abs().max()) < 2e-2 * scale


def test_what_is_missing_is_said() -> None:
    x = inputs(1, 3, 1, 4, 4)
    with pytest.raises(ValueError, match="learned initial values must be given: W1, W2"):
        run(deep(4, 1), {"d": 4}, x)
    del x["eta"]
    with pytest.raises(ValueError, match="no value for gate `eta`"):
        run(matrix(), {"dk": 4, "dv": 4}, x)


def test_no_token_changes_nothing() -> None:
    x = inputs(2, 0, 1, 3, 4)
    y, state = run(matrix(), {"dk": 3, "dv": 4}, x)
    assert y.shape == (2, 0, 1, 4) and not state["W"].any()


def test_an_implicit_step_ends_where_its_equation_holds() -> None:
    """log cosh with a large rate: a full Newton step would go to and fro for ever."""
    x = {**inputs(2, 1, 1, 3, 4), "alpha": torch.ones(2, 1, 1, dtype=F64)}
    x["eta"] = 200 * x["eta"]
    start = {"W": 5 * draw(2, 1, 4, 3, seed=9)}
    _, state = run(SPECS["implicit"], {"dk": 3, "dv": 4}, x, start)
    k, v, rate = (x[n][:, 0] for n in ("key", "value", "eta"))
    error = torch.tanh(torch.einsum("bhvk,bhk->bhv", state["W"], k) - v)
    close(state["W"], start["W"] - rate[..., None, None] * error[..., None] * k[..., None, :], 1e-9)


def test_an_implicit_step_starts_from_what_the_rule_keeps() -> None:
    rule = (
        (
            "W",
            op(
                "sub",
                op("mul", num("1/2"), Ref("W", "keep")),
                op("mul", g("eta"), Ref("W", "grad")),
            ),
        ),
    )
    x, sizes = inputs(1, 1, 1, 3, 4), {"dk": 3, "dv": 4}
    start = draw(1, 1, 4, 3, seed=9)
    halved, _ = run(matrix(algorithm=Algorithm(rule, implicit=True)), sizes, x, {"W": start})
    plain, _ = run(matrix(algorithm=Algorithm(GD, implicit=True)), sizes, x, {"W": start / 2})
    close(halved, plain, 1e-11)
