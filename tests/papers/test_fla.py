"""The token loops here against the naive functions of flash-linear-attention, where it is installed.

Those compute in float32, with queries divided by the root of their size.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import pytest
import torch
from torch import Tensor

from tests.papers.loops import additive, delta

pytest.importorskip("fla", reason="flash-linear-attention is not installed")
Inputs = dict[str, Tensor]
TIME, KEY, VALUE = 37, 6, 5


def inputs() -> Inputs:
    """One head of one sequence: tokens, gates of a token, of a key channel and of a value channel."""
    torch.manual_seed(0)
    drawn = {n: torch.randn(TIME, KEY, dtype=torch.float64) for n in ("q", "k")}
    drawn["k"] = drawn["k"] / drawn["k"].norm(dim=-1, keepdim=True)
    drawn["v"] = torch.randn(TIME, VALUE, dtype=torch.float64)
    for name in ("alpha", "mu", "eta", "beta"):
        drawn[name] = torch.rand(TIME, dtype=torch.float64) * 0.8 + 0.2
    drawn["decay"] = torch.rand(TIME, KEY, dtype=torch.float64) * 0.8 + 0.2
    drawn["erase"] = torch.rand(TIME, KEY, dtype=torch.float64)
    drawn["store"] = torch.rand(TIME, VALUE, dtype=torch.float64)
    drawn["p"] = 0.7 * drawn["k"]
    drawn["bonus"] = torch.randn(KEY, dtype=torch.float64)
    return drawn


def one(x: Tensor) -> Tensor:
    """[time, …] as [1, time, 1, …]: a batch of one and one head."""
    return x[None, :, None]


def mine(loop: Callable[..., Tensor], names: str) -> Callable[[Inputs], Tensor]:
    return lambda x: loop(*(x[name] for name in names.split()))


def with_bonus(x: Inputs) -> Tensor:
    bonus = (x["q"] * x["bonus"] * x["k"]).sum(-1, keepdim=True) * x["v"]
    return additive.rwkv6(x["q"], x["k"], x["v"], x["decay"], bonus)


def momentum(x: Inputs) -> Tensor:
    """The key that is asked with is given to the other function; here it is alpha k."""
    return delta.mdn(*(x[n] for n in ("q", "k", "v", "alpha", "mu", "eta", "beta")))


def theirs(module: str, function: str, **names: str) -> Callable[[Inputs], Tensor]:
    """A naive function, asked with inputs by name; `log name` is the logarithm of one."""

    def call(x: Inputs) -> Tensor:
        whole = {n: (x[m[4:]].log() if m.startswith("log ") else x[m]) for n, m in names.items()}
        naive = getattr(import_module(f"fla.ops.{module}.naive"), function)
        found = naive(x["q"][None, :, None], **{n: one(u) for n, u in whole.items()}, scale=1.0)
        return (found[0] if isinstance(found, tuple) else found)[0, :, 0]

    return call


def their_rwkv6(x: Inputs) -> Tensor:
    """It has heads before time, and a bonus for each head."""
    naive = import_module("fla.ops.rwkv6.recurrent_naive").naive_recurrent_rwkv6
    given = [x[n][None, None] for n in ("q", "k", "v")]
    y, _ = naive(*given, x["decay"].log()[None, None], x["bonus"][None], scale=1.0)
    return y[0, 0]


def their_momentum(x: Inputs) -> Tensor:
    asked = x | {"p": x["alpha"][:, None] * x["k"]}
    names = {"k": "k", "v": "v", "log_alpha": "log alpha", "log_mu": "log mu", "p": "p"}
    function = "recurrent_momentum_delta_rule_ref"
    return theirs("momentum_delta_rule", function, **names, beta="beta", eta="eta")(asked)


KV = {"k": "k", "v": "v"}
RULES: dict[str, tuple[Callable[[Inputs], Tensor], Callable[[Inputs], Tensor]]] = {
    "GatedDeltaNet": (
        mine(delta.gated_deltanet, "q k v alpha beta"),
        theirs("gated_delta_rule", "naive_recurrent_gated_delta_rule", **KV, beta="beta",
               g="log alpha"),
    ),
    "KDA": (
        mine(delta.kda, "q k v decay beta"),
        theirs("kda", "naive_recurrent_kda", **KV, g="log decay", beta="beta"),
    ),
    "GatedDeltaNet2": (
        mine(delta.gdn2, "q k v decay erase store"),
        theirs("gdn2", "naive_recurrent_gdn2", **KV, g="log decay", b="erase", w="store"),
    ),
    # The chunk function: the one that goes token by token lets the state decay before it is asked.
    "Comba": (
        mine(delta.comba, "q k v alpha beta p"),
        theirs("comba", "naive_chunk_comba", **KV, p="p", g="log alpha", beta="beta"),
    ),
    "MomentumDeltaNet": (momentum, their_momentum),
    "RWKV6": (with_bonus, their_rwkv6),
}  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_a_loop_is_the_naive_function(name: str) -> None:
    ours, other = (function(inputs()) for function in RULES[name])
    assert float(ours.std()) > 1e-2
    torch.testing.assert_close(ours, other.double(), rtol=1e-4, atol=1e-4)
