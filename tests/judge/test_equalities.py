"""Equalities between rules, on the generated chunk forms: outputs, last states and gradients.

Two memories that must agree are compiled apart and run on the same numbers, over the edge of a
chunk.  No oracle takes part, so this also says that the oracle's reading is not the only one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from miras_dsl.check import read
from miras_dsl.codegen.model.inputs import window_inputs
from miras_dsl.codegen.model.types import StateKind
from miras_dsl.runtime.load import loader
from miras_dsl.source import Source
from miras_dsl.spec import MemorySpec

B, T, H, K, V = 2, 69, 2, 4, 4
ALPHA = "alpha = 0.5 + 0.5 * sigmoid(linear(x))"
ETA = "eta = sigmoid(linear(x))"
Inputs = dict[str, Tensor]
Change = Callable[[Inputs], Inputs]


def matrix(
    bias: str = "l2",
    retention: str = "l2(alpha)",
    algorithm: str = "gd(eta), exact",
    order: str = "decay, predict, write, read",
    gates: str = f"{ALPHA}   {ETA}",
    tokens: str = "",
    start: str = "",
) -> str:
    """A matrix memory; the gated delta rule unless told otherwise."""
    return f"""
memory Rule(d) {{
  {tokens}
  architecture W: matrix[value, key]{start}
  bias         {bias}
  retention    {retention}
  algorithm    {algorithm}
  order        {order}
  gates        {{ {gates} }}
}}
"""


def momentum(algorithm: str = "momentum(eta, mu), exact", **given: str) -> str:
    gates = f"{ALPHA}   {ETA}   mu = 0.8 * sigmoid(linear(x))"
    return matrix(**({"bias": "logcosh", "algorithm": algorithm, "gates": gates} | given))


def network(meaning: str, order: str = "predict, decay, write, read") -> str:
    return f"""
memory Rule(d) {{
  architecture mlp(hidden = 3, activation = gelu, residual)
  bias         logcosh
  retention    l2(alpha)
  algorithm    gd(eta / 8), {meaning}
  order        {order}
  gates        {{ {ALPHA}   {ETA} }}
}}
"""


def spec_of(text: str) -> MemorySpec:
    (spec,) = read(Source("rule.mem", text)).memories.values()
    return spec


def draw(time: int = T) -> Inputs:
    """Numbers for everything that a rule of this file may ask for."""
    torch.manual_seed(0)
    lead = (B, time, H)
    unit = lambda *shape: F.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)  # noqa: E731
    gate = lambda *shape: torch.rand(*lead, *shape, dtype=torch.float64)  # noqa: E731
    return {
        "query": unit(*lead, K),
        "key": unit(*lead, K),
        "value": torch.randn(*lead, V, dtype=torch.float64),
        "alpha": 0.5 + 0.5 * gate(),
        "eta": 0.1 + 0.4 * gate(),
        "mu": 0.8 * gate(),
        "delta": 0.5 + gate(),
        "W": torch.randn(B, H, V, K, dtype=torch.float64) / 2,
        "W1": torch.randn(B, H, 3, K, dtype=torch.float64) / 2,
        "W2": torch.randn(B, H, V, 3, dtype=torch.float64) / 2,
    }


def outcome(
    text: str, given: Inputs, change: Change | None = None, seen: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Output, last weights, and gradients of what is given (``seen``: of these only)."""
    spec = spec_of(text)
    leaves = {name: x.clone().requires_grad_() for name, x in given.items()}
    held = change(dict(leaves)) if change else leaves
    for gate in spec.gates:
        if gate.axes:  # one number for all channels
            wide = held[gate.name][..., None]
            held = held | {gate.name: wide.expand(*wide.shape[:3], K)}
    names = {s.name for s in spec.states}
    batch, heads = held["query"].shape[0], held["query"].shape[2]
    rule = loader.compiled(spec)[0].rule
    state = {}
    for weight in rule.state_tensors:
        momentum = weight.kind is StateKind.CARRIED
        own = held[weight.of]
        state[weight.name] = torch.zeros_like(own) if momentum else own
    for name in window_inputs(spec):
        state[f"window.{name}"] = torch.zeros_like(held[name][:, : spec.algorithm.window[0] - 1])
    if rule.block:
        state["position"] = torch.zeros(batch, dtype=torch.int64)
    run = loader.implementation(spec, {"d": K})
    y, after = run({n: x for n, x in held.items() if n not in names}, state)
    assert y.shape == (*held["query"].shape[:2], heads, V)
    ends = {name: after[name] for name in names}
    cotangents = torch.Generator().manual_seed(1)
    loss = y.new_zeros(())
    for x in (y, *ends.values()):
        loss = loss + (x * torch.randn(x.shape, generator=cotangents, dtype=x.dtype)).sum()
    wanted = {n: x for n, x in leaves.items() if n in seen or not seen}
    found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    grads = {
        f"d {n}": torch.zeros_like(x) if g is None else g
        for (n, x), g in zip(wanted.items(), found, strict=True)
    }
    return {"y": y.detach(), **{f"state {n}": x.detach() for n, x in ends.items()}, **grads}


def agree(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 1e-9) -> None:
    """What both have is equal; they have outputs, states and the gradients of tokens."""
    shared = ours.keys() & theirs.keys()
    assert {"y", "d query", "d key", "d value"} <= shared
    assert any(name.startswith("state ") for name in shared)
    for name in sorted(shared):
        close = torch.allclose(ours[name], theirs[name], rtol=tolerance, atol=tolerance)
        assert close, f"{name}: {float((ours[name] - theirs[name]).abs().max())}"
    assert float(ours["y"].std()) > 1e-2


def fixed(**values: float) -> Change:
    """Some gates at one value."""
    return lambda x: x | {name: torch.full_like(x[name], value) for name, value in values.items()}


NEW = "predict, decay, write, read"
SAME: dict[str, tuple[str, str, Change | None]] = {
    "a decay of 1 is none": (
        matrix(), matrix(retention="none", order="predict, write, read"), fixed(alpha=1)),
    "a decay of 1 may come late": (matrix(), matrix(order=NEW), fixed(alpha=1)),
    "a momentum of 0 is gradient descent": (
        momentum(), matrix("logcosh"), fixed(mu=0)),
    "a momentum of 0 is gradient descent, squared error": (
        momentum(bias="l2"), matrix(), fixed(mu=0)),
    "equal channels are one decay": (
        matrix(gates=f"{ALPHA}   {ETA}".replace("alpha", "alpha[key]", 1)), matrix(), None),
    "equal rows are one decay": (
        matrix(gates=f"{ALPHA}   {ETA}".replace("alpha", "alpha[value]", 1)), matrix(), None),
    "equal rows have one rate": (
        matrix(gates=f"{ALPHA}   {ETA}".replace("eta", "eta[value]", 1)), matrix(), None),
    "additive, equal channels": (
        matrix("dot", gates=f"{ALPHA}   {ETA}".replace("alpha", "alpha[key]", 1),
               order="decay, write, read"),
        matrix("dot", order="decay, write, read"), None),
    "an endless window is l2: huber": (matrix("huber(1000000)"), matrix(), None),
    "an endless window is l2: huber of the length": (
        matrix("huber_norm(1000000)"), matrix(), None),
    "an endless window is l2: the mixture": (matrix("huber_mixture(1000000)"), matrix(), None),
    "a value shift of 0 is l2": (matrix("value_shift(0)"), matrix(), None),
    "a power of 2 is l2 twice": (matrix("lp(2)"), matrix("l2_full"), None),
    "l2 twice is l2 at twice the rate": (
        matrix("l2_full"), matrix(algorithm="gd(2 * eta), exact"), None),
    "pinball at its middle is half of l1": (
        matrix("pinball(1 / 2)"), matrix("sum(abs(r)) / 2"), None),
    "a step is one step": (matrix(algorithm="gd(eta), steps(1), exact"), matrix(), None),
    "a window of one token": (matrix(algorithm="gd(eta), window(1, 0.5), exact"), matrix(), None),
    "a window that forgets at once": (
        matrix(algorithm="gd(eta), window(3, mu), exact",
               gates=f"{ALPHA}   {ETA}   mu = 0.8 * sigmoid(linear(x))"), matrix(), fixed(mu=0)),
    "a reset after the end": (
        matrix("dot", algorithm="gd(1), exact, reset(100)", order="decay, write, read",
               gates=ALPHA),
        matrix("dot", algorithm="gd(1), exact", order="decay, write, read", gates=ALPHA),
        lambda x: x | {"W": torch.zeros_like(x["W"])}),
    "blocks of one token": (
        matrix("logcosh", algorithm="gd(eta), anchored(1)", order=NEW),
        matrix("logcosh", order=NEW), None),
    "blocks of one token, momentum": (
        momentum("momentum(eta, mu), anchored(1)", order=NEW), momentum(order=NEW), None),
    "blocks of one token, network": (
        network("anchored(1)"), network("exact"), None),
    "as many sweeps as tokens": (
        matrix("logcosh", algorithm="gd(eta), anchored(4, sweeps = 4)", order=NEW),
        matrix("logcosh", order=NEW), None),
    "as many sweeps as tokens, momentum": (
        momentum("momentum(eta, mu), anchored(3, sweeps = 3)", order=NEW), momentum(order=NEW),
        None),
    "as many sweeps as tokens, network": (
        network("anchored(3, sweeps = 3)"), network("exact"), None),
    "a scale of 1": (
        matrix(retention="none", algorithm="gd(eta), anchored(4, scale = 1)",
               order="predict, write, read"),
        matrix(retention="none", algorithm="gd(eta), anchored(4)",
               order="predict, write, read"), None),
    "a threshold of 0": (
        matrix(retention="soft(alpha, 0) at chunk", algorithm="gd(eta / 4), anchored(4)",
               order=NEW),
        matrix(algorithm="gd(eta / 4), anchored(4)", order=NEW), None),
    "half a square is no potential": (
        matrix(retention="decay alpha  bregman w^2 / 2 at token"), matrix(), None),
    "half a square is no potential, at blocks": (
        matrix(retention="decay alpha  bregman w^2 / 2 at chunk",
               algorithm="gd(eta / 4), anchored(4)", order=NEW),
        matrix(algorithm="gd(eta / 4), anchored(4)", order=NEW), None),
    "a penalty of the distance alone": (
        matrix(retention="penalty (w - w0)^2 / (2 * eta) at token", order="predict, write, read"),
        matrix(retention="none", order="predict, write, read"), None),
    "two losses of one key": (
        matrix("erase: sum((W @ key)^2) / 2, store: -dot(W @ key, value)",
               algorithm="gd(erase = eta, store = eta), exact"), matrix(), None),
    "a write of the error at the key": (matrix("write r at key"), matrix(), None),
    "a formula for its name": (matrix("sum(log(cosh(W @ key - value)))"), matrix("logcosh"), None),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_two_rules_are_one(name: str) -> None:
    ours, theirs, change = SAME[name]
    frozen = () if change is None else ("query", "key", "value", "W")
    agree(*(outcome(text, draw(), change, frozen) for text in (ours, theirs)))


def test_the_comparison_can_fail() -> None:
    with pytest.raises(AssertionError):
        agree(*(outcome(text, draw()) for text in (matrix(), matrix(order=NEW))))


def test_an_implicit_step_is_a_bounded_rate() -> None:
    """argmin |W k - v|^2 / 2 + |W - W'|^2 / (2 eta) is the delta rule at eta / (1 + eta |k|^2)."""

    def bounded(x: Inputs) -> Inputs:
        return x | {"eta": x["eta"] / (1 + x["eta"] * (x["key"] ** 2).sum(-1))}

    given = draw() | {"key": 1.5 * draw()["key"]}
    implicit = matrix(algorithm="gd(eta), implicit, exact")
    agree(outcome(implicit, given), outcome(matrix(), given, bounded))


def test_steps_are_a_longer_sequence() -> None:
    """Two steps on a token are two tokens, the second without a decay and the first not read."""
    short = draw(35)
    ours = outcome(matrix("logcosh", algorithm="gd(eta), steps(2), exact"), short)

    def longer(x: Inputs) -> Inputs:
        long = {n: u.repeat_interleave(2, 1) for n, u in x.items() if u.shape[:2] == (B, 35)}
        first = (torch.arange(70) % 2 == 0)[None, :, None]
        return x | long | {"alpha": torch.where(first, long["alpha"], 1.0)}

    spec = spec_of(matrix("logcosh"))
    leaves = {n: x.clone().requires_grad_() for n, x in short.items()}
    long = longer(leaves)
    y, after = loader.implementation(spec, {"d": K})(long, {"W": long["W"]})
    y = y[:, 1::2]
    torch.testing.assert_close(ours["y"], y.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours["state W"], after["W"].detach(), rtol=1e-9, atol=1e-9)
    cotangents = torch.Generator().manual_seed(1)
    loss = y.new_zeros(())
    for x in (y, after["W"]):
        loss = loss + (x * torch.randn(x.shape, generator=cotangents, dtype=x.dtype)).sum()
    for name in ("key", "value", "alpha", "eta", "W"):
        (slope,) = torch.autograd.grad(loss, leaves[name], retain_graph=True)
        torch.testing.assert_close(ours[f"d {name}"], slope, rtol=1e-9, atol=1e-9)


def test_pairs_are_a_longer_sequence() -> None:
    """A token's pairs are tokens, all but the first without a decay and all but the last unread."""
    text = matrix(
        algorithm="gd(eta), pairs(2), exact",
        tokens="tokens { query[d]  key[2, d]  value[2, d] }",
        gates=f"{ALPHA}   eta[pair] = sigmoid(linear(x))",
    )
    long = draw(70)
    first = (torch.arange(70) % 2 == 0)[None, :, None]
    paired = {n: long[n].unflatten(1, (35, 2)).movedim(2, 3) for n in ("key", "value", "eta")}
    paired |= {"query": long["query"][:, 1::2], "alpha": long["alpha"][:, ::2]}
    single = long | {"alpha": torch.where(first, long["alpha"], 1.0)}
    runs = [loader.implementation(spec_of(t), {"d": K}) for t in (text, matrix())]
    y, state = runs[0](paired, {"W": long["W"]})
    other, last = runs[1](single, {"W": long["W"]})
    torch.testing.assert_close(y, other[:, 1::2], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(state["W"], last["W"], rtol=1e-9, atol=1e-9)


def test_a_vector_is_a_matrix_of_one_key_channel() -> None:
    """Each channel of `h * key` is a memory of its own: a matrix of size one per head."""
    text = matrix().replace("W: matrix[value, key]", "h: vector[d]").replace("l2\n", "logcosh\n")
    given = draw()
    h = given["W"][..., 0]
    y, after = loader.implementation(spec_of(text), {"d": V})(given, {"h": h})
    channels = {n: given[n].flatten(2)[..., None] for n in ("query", "key", "value")}
    gates = {n: given[n].repeat_interleave(V, 2) for n in ("alpha", "eta")}
    run = loader.implementation(spec_of(matrix("logcosh")), {"d": 1})
    alone, last = run(channels | gates, {"W": h.flatten(1)[..., None, None]})
    read = alone[..., 0].unflatten(2, (H, V))
    torch.testing.assert_close(last["W"][..., 0, 0].unflatten(1, (H, V)), after["h"])
    torch.testing.assert_close(read, y * given["query"] if y.shape != read.shape else y)


def test_heads_are_apart() -> None:
    """One head alone gives what it gives among others."""
    spec, given = spec_of(momentum()), draw()
    run = loader.implementation(spec, {"d": K})
    state = {"W": given["W"], "S.W": given["W"] / 3}
    y, after = run(given, state)
    for head in range(H):
        own = {n: x[:, :, head : head + 1] for n, x in given.items() if x.shape[:2] == (B, T)}
        alone, last = run(own, {n: x[:, head : head + 1] for n, x in state.items()})
        torch.testing.assert_close(alone[:, :, 0], y[:, :, head], rtol=1e-12, atol=1e-12)
        for name, x in last.items():
            torch.testing.assert_close(x[:, 0], after[name][:, head], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "text",
    [
        matrix(),
        matrix("dot", order="decay, write, read"),
        momentum(),
        matrix("logcosh", gates=f"{ALPHA}   {ETA}".replace("alpha", "alpha[value]", 1)),
        matrix("dot", order="decay, write, read",
               gates=f"{ALPHA}   {ETA}".replace("alpha", "alpha[key]", 1)),
    ],
    ids=["affine", "additive", "momentum", "rows", "channels"],
)  # fmt: skip
def test_tokens_in_a_chunk_change_nothing(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(text)
    _, module = loader.compiled(spec)
    whole = outcome(text, draw())
    for chunk in (1, 4, 16, 128):
        table = replace(module._rule, chunk=chunk)
        with monkeypatch.context() as patch:
            patch.setattr(module, "_rule", table)
            patch.setattr(
                "miras_dsl.runtime.execute.chunk_form.chunk_for", lambda memory, steps: memory.chunk
            )
            agree(outcome(text, draw()), whole)


def test_the_error_of_a_plain_sum() -> None:
    """After n pairs with random unit keys a read at a key is off by (n - 1) / dk of |v|^2."""
    text = matrix("dot", "none", "gd(1), exact", "write, read", gates="").replace(
        "gates        {  }", ""
    )
    torch.manual_seed(2)
    n, dk, heads = 65, 32, 300
    key = F.normalize(torch.randn(1, n, heads, dk, dtype=torch.float64), dim=-1)
    value = torch.randn(1, n, heads, dk, dtype=torch.float64)
    last = torch.randint(0, n, (heads,))
    asked = key[:, last, torch.arange(heads)]
    query = torch.cat([key[:, :-1], asked[:, None]], 1)
    y, _ = loader.implementation(spec_of(text), {"d": dk})(
        {"query": query, "key": key, "value": value}, None
    )
    error = (y[:, -1] - value[:, last, torch.arange(heads)]).square().sum(-1).mean() / dk
    assert abs(float(error) / ((n - 1) / dk) - 1) < 0.05
