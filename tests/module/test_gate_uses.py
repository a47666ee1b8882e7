"""Small forms of every clause that takes a gate: the gate's formula, what is made of it, and where it is
used.  Each runs as a layer, forwards and backwards, in three types, whole and token by token."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
import torch
from torch import Tensor

import miras_dsl as miras

FORMULAS = (
    "sigmoid(linear(x))",
    "exp(-exp(param(1)) * softplus(linear(x) + param(-2)))",
    "clip(linear(x), 0, 1)",
    "0.9",
    "sigmoid(param)",
    "0.9 + 0.1 * sigmoid(linear(x))",
    "tanh(linear(x))",
    "1 - sigmoid(linear(x))",
)
MADE = (
    "a", "0.9 * a", "a / 2", "a^2", "sqrt(abs(a))", "a * b", "1 - a", "(a + b) / 2", "0.5 * a + 0.25",
    "exp(-a^2)", "a * b / 2",
)  # fmt: skip
USES = {
    "decay": ("decay {}", "gd(eta), exact", "decay, predict, write, read"),
    "rate": ("none", "gd({} / 8), exact", "predict, write, read"),
    "momentum": ("none", "momentum(eta, {}), exact", "predict, write, read"),
    "both": ("decay {0}", "momentum(eta, {0}), exact", "predict, decay, write, read"),
    "rule": (
        "none",
        "{{ carry S   S = ({0}) * S - eta * grad   W = ({0}) * keep(W) + S }}, exact",
        "predict, write, read",
    ),
    "steps": ("decay {}", "gd(eta), steps(2), exact", "decay, predict, write, read"),
    "anchored": ("decay {0}", "momentum(eta, {0}), anchored(8)", "predict, decay, write, read"),
}
"""A use of a number made of gates: retention, algorithm and order."""
AXES = ("", "[key]", "[value]", "")
TOKENS, STEPS = 67, 3
"""More than one chunk of 64, and how many tokens are decoded one by one."""
CLOSE = {torch.float64: 1e-11, torch.float32: 1e-4, torch.bfloat16: 0.05}


def forms() -> Iterator[tuple[str, str, str, str]]:
    """Every use of everything that is made of a gate, formulas and axes taking turns."""
    number = count()
    for use in USES:
        for made in MADE:
            turn = next(number)
            formula = FORMULAS[turn % len(FORMULAS)]
            axes = AXES[turn // len(MADE) % len(AXES)] if use in ("decay", "rate", "steps") else ""
            yield use, made, formula, axes


def written(use: str, made: str, formula: str, axes: str) -> str:
    retention, algorithm, order = (part.format(made) for part in USES[use])
    named = [n for n in "ab" if any(c == n for c in made.replace("abs", ""))]
    gates = " ".join(f"{n}{axes} = {formula}" for n in named)
    gates += " eta = sigmoid(linear(x)) / 4" if "eta" in algorithm else ""
    return f"""memory M(d) {{
  architecture W: matrix[value, key]
  bias         l2
  retention    {retention}
  algorithm    {algorithm}
  order        {order}
  gates        {{ {gates} }}
}}
"""


def ran(text: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The answers, the last of them token by token, and all gradients as one vector."""
    torch.manual_seed(0)
    layer = miras.load(text).M(width=8, heads=2).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    layer = layer.to(dtype)
    x = torch.randn(1, TOKENS, 8, dtype=torch.float64).to(dtype).requires_grad_()
    y, _ = layer(x)
    (y.double() * torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y)).sum().backward()
    slopes = [t.grad for t in (x, *layer.parameters()) if t.grad is not None]
    assert y.dtype == dtype and all(slope.dtype == dtype for slope in slopes)
    with torch.no_grad():
        _, state = layer(x[:, :-STEPS])
        answers = []
        for t in range(TOKENS - STEPS, TOKENS):
            answer, state = layer.step(x[:, t], state)
            answers.append(answer)
    return y.detach(), torch.stack(answers, 1), torch.cat([s.double().flatten() for s in slopes])


@pytest.mark.filterwarnings("ignore::miras_dsl.SpecWarning")
@pytest.mark.parametrize(("use", "made", "formula", "axes"), list(forms()))
def test_a_use_of_a_gate(use: str, made: str, formula: str, axes: str) -> None:
    text = written(use, made, formula, axes)
    found = {dtype: ran(text, dtype) for dtype in CLOSE}
    exact, _, slopes = found[torch.float64]
    for dtype, (y, stepped, slope) in found.items():
        assert slope.isfinite().all()
        apart = (stepped - y[:, -STEPS:]).abs().max() / y.abs().max()
        assert apart <= CLOSE[dtype], f"token by token in {dtype}: {apart:.1e}"
    y, _, slope = found[torch.float32]
    assert (y - exact).abs().max() <= 1e-4 * exact.abs().max()
    assert (slope - slopes).norm() <= 1e-3 * slopes.norm()


@pytest.mark.parametrize("mu", ["mu / 2", "0.9 * mu"])
def test_a_number_times_the_gate_of_a_momentum_is_certified(mu: str) -> None:
    text = written("momentum", mu.replace("mu", "a"), "sigmoid(linear(x))", "")
    proofs = miras.certify(text, dtype="float32")
    assert proofs["M"].green
