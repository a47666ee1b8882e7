"""A memory token by token over a long sequence: stretches computed again, and the same gradients."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from miras_dsl.runtime.execute import token_loop
from miras_dsl.runtime.execute.token_loop import TokenForm
from miras_dsl.runtime.load.loader import load

SPEC = """
memory M(d) {{
  architecture {network}
  bias         l2
  retention    {retention}
  algorithm    {algorithm}
  order        decay, predict, write, read
  gates        {{ alpha = sigmoid(linear(x) + 4)   eta{pair} = sigmoid(linear(x) - 2) / 8
                 mu = sigmoid(linear(x))   gam = sigmoid(linear(x)) }}
}}
"""
pytestmark = pytest.mark.filterwarnings("ignore::miras_dsl.exceptions.SpecWarning")
ROOT = Path(__file__).resolve().parents[2]
RULES = {
    "link at token": ("W: matrix[value, key]", "soft(alpha, 0.02) at token", "gd(eta), exact"),
    "orthogonal, window, blocks": (
        "mlp(hidden = 2 * d, residual)",
        "l2(alpha)",
        "muon(eta, mu), window(3, gam), anchored(4)",
    ),
    "steps of a token": (
        "W: matrix[value, key]",
        "soft(alpha, 0.02) at token",
        "gd(eta), exact, steps(2)",
    ),
    "pairs": ("W: matrix[value, key]", "soft(alpha, 0.02) at token", "gd(eta), exact, pairs(2)"),
    "starts again": (
        "W: matrix[value, key]",
        "soft(alpha, 0.02) at token",
        "gd(eta), exact, reset(7)",
    ),
    "learned start": (
        "W: matrix[value, key] = learned",
        "soft(alpha, 0.02) at token",
        "momentum(eta, mu), exact",
    ),
}


def memory(name: str) -> torch.nn.Module:
    """A small layer in float64 whose memory has no chunk form."""
    network, retention, algorithm = RULES[name]
    pair = "[pair]" if "pairs" in algorithm else ""
    text = SPEC.format(network=network, retention=retention, algorithm=algorithm, pair=pair)
    torch.manual_seed(0)
    return load(text)["M"](width=8, heads=2).double()


def gradients(
    layer: torch.nn.Module, shortest: int, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> list[Tensor]:
    """Answers, states after, and the gradients of the input, every parameter and the first state."""
    monkeypatch.setattr(token_loop, "SHORTEST", shortest)
    torch.manual_seed(1)
    x = torch.randn(1 if packed else 2, 23, 8, dtype=torch.float64, requires_grad=True)
    bounds = torch.tensor([0, 9, 9, 10, 23]) if packed else None
    begin = layer(torch.randn(4 if packed else 2, 5, 8, dtype=torch.float64))[1]
    first = {
        k: v.detach().requires_grad_(v.is_floating_point()) for k, v in begin["memory"].items()
    }
    y, after = layer(x, {**begin, "memory": first}, bounds)
    last = [v for v in after["memory"].values() if v.is_floating_point()]
    loss = torch.stack([(v * torch.randn_like(v)).sum() for v in (y, *last)]).sum()
    wanted = [x, *layer.parameters(), *(v for v in first.values() if v.requires_grad)]
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    return [y, *last, *(torch.zeros(1) if g is None else g for g in found)]


@pytest.mark.parametrize("packed", [False, True], ids=["rows", "packed"])
@pytest.mark.parametrize("name", RULES)
def test_computing_again_changes_nothing(name, packed, monkeypatch):
    """Stretches of 4 and 5 tokens, whose ends fall into blocks and windows, and all at once."""
    layer = memory(name)
    plain = gradients(layer, 1000, monkeypatch, packed)
    assert max(g.abs().max() for g in plain[1:]) > 1e-3
    for shortest in (1, 5):
        for found, wanted in zip(
            gradients(layer, shortest, monkeypatch, packed), plain, strict=True
        ):
            torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", ["link at token", "learned start"])
def test_second_derivatives_are_those_of_the_plain_loop(name, monkeypatch):
    """A gradient that is differentiated again, with respect to the input and every parameter."""
    layer = memory(name)

    def twice(shortest: int) -> list[Tensor]:
        monkeypatch.setattr(token_loop, "SHORTEST", shortest)
        torch.manual_seed(1)
        x = torch.randn(1, 12, 8, dtype=torch.float64, requires_grad=True)
        wanted = [x, *layer.parameters()]
        first = torch.autograd.grad(layer(x)[0].square().sum(), wanted, create_graph=True)
        return list(
            torch.autograd.grad(torch.stack([g.square().sum() for g in first]).sum(), wanted)
        )

    for found, wanted in zip(twice(3), twice(1000), strict=True):
        assert wanted.abs().max() > 0
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_nothing_is_computed_again_where_no_gradient_is_wanted(monkeypatch):
    monkeypatch.setattr(token_loop, "SHORTEST", 1)
    monkeypatch.setattr(TokenForm, "gradients", lambda *_: pytest.fail("it was computed again"))
    layer = memory("link at token")
    with torch.no_grad():
        layer(torch.randn(1, 30, 8, dtype=torch.float64))


ATLAS = """
memory Atlas(d) {
  architecture mlp(hidden = 2 * d, residual)
  bias         l2
  retention    l2(alpha)
  algorithm    muon(eta, mu), window(4, gam), anchored(16)
  order        decay, predict, write, read
  gates        { alpha = sigmoid(linear(x) + 4)  eta = sigmoid(linear(x) - 2) / 16
                 mu = sigmoid(linear(x))  gam = sigmoid(linear(x)) }
}
"""
PROGRAM = """
import resource, sys, torch
import miras_dsl as miras
layer = miras.load(sys.argv[1]).Atlas(width=64, heads=1)
x = torch.randn(1, int(sys.argv[2]), 64, requires_grad=True)
layer(x[:, :40])[0].sum().backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
layer(x)[0].sum().backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read in KiB")
def test_a_long_sequence_fits_into_memory():
    """512 tokens of a deep memory with Muon kept 1.5 GB; a stretch of them is some 100 MB."""
    command = [sys.executable, "-c", PROGRAM, ATLAS, "512"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 300
