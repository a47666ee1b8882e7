"""Formulas that mix what has heads, what has features and what is a number: they run, in every type,
token by token too, and give the numbers that they mean."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import miras_dsl as miras
from miras_dsl.runtime.layers.conv_state import ConvState

TEXT = """memory M(d) {{
  architecture W: matrix[value, key]
  bias l2   retention none   algorithm gd(eta), exact   order predict, write, read
  gates {{ a = sigmoid(linear(x))
          eta = sigmoid({form}) }}
}}"""
HEADS, WIDTH = 2, 8
SIZE = WIDTH // HEADS


def back(u: Tensor) -> Tensor:
    """Each token's value one token before; 0 before the first."""
    return torch.cat([torch.zeros_like(u[:, :1]), u[:, :-1]], 1)


def mean(x: Tensor) -> Tensor:
    return x.mean(-1, keepdim=True)


def per_head(m: nn.Module, x: Tensor) -> Tensor:
    return m.a_linear(x).sigmoid()


MEANT: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "linear(1)": lambda m, x: m.eta_linear.weight[:, 0],
    "linear(mean(x))": lambda m, x: m.eta_linear(mean(x)),
    "linear(param)": lambda m, x: m.eta_linear(m.eta_param),
    "linear(linear(x, size = 8) * mean(x))": (
        lambda m, x: m.eta_linear_2(m.eta_linear(x) * mean(x))
    ),
    "linear(linear(x, size = 8) * param)": lambda m, x: m.eta_linear_2(
        m.eta_linear(x) * m.eta_param
    ),
    "linear(a * linear(x, size = 8))": lambda m, x: m.eta_linear_2(
        (per_head(m, x)[..., None] * m.eta_linear(x)[..., None, :]).flatten(2)
    ),
    "linear(a)": lambda m, x: m.eta_linear(per_head(m, x)),
    "mean(x) * a": lambda m, x: mean(x) * per_head(m, x),
    "shift(mean(x))": lambda m, x: back(mean(x)),
    "conv(mean(x), width = 2)": lambda m, x: (
        m.eta_conv.weight[0] * mean(x) + m.eta_conv.weight[1] * back(mean(x))
    ),
    "conv(param, width = 2)": lambda m, x: (
        m.eta_conv.weight[0] * m.eta_param
        + m.eta_conv.weight[1] * back(m.eta_param.expand(*x.shape[:2], HEADS))
    ),
    "shift(param)": lambda m, x: back(m.eta_param.expand(*x.shape[:2], HEADS)),
    "linear(d)": lambda m, x: m.eta_linear.weight[:, 0] * SIZE,
    "exp(-d) * linear(x)": lambda m, x: torch.exp(torch.tensor(-1.0 * SIZE)) * m.eta_linear(x),
    "1 / d": lambda m, x: torch.tensor(1 / SIZE),
    "max(0.1, min(linear(x), 0.3))": lambda m, x: m.eta_linear(x).clamp(0.1, 0.3),
    "linear(0 * x)": lambda m, x: torch.tensor(0.0),
    "linear(softmax(linear(x, size = 8)))": (
        lambda m, x: m.eta_linear_2(m.eta_linear(x).softmax(-1))
    ),
    "linear(layernorm(x))": lambda m, x: m.eta_linear(F.layer_norm(x, (WIDTH,), eps=1e-6)),
    "gelu_tanh(linear(x)) + silu(linear(x)) * relu(linear(x))": lambda m, x: (
        F.gelu(m.eta_linear(x), approximate="tanh")
        + F.silu(m.eta_linear_2(x)) * F.relu(m.eta_linear_3(x))
    ),
    "-1": lambda m, x: torch.tensor(-1.0),
}


@pytest.mark.parametrize("form", MEANT)
def test_a_mixed_formula(form: str) -> None:
    torch.manual_seed(4)
    layer = miras.load(TEXT.format(form=form)).M(width=WIDTH, heads=HEADS)
    for parameter in layer.parameters():  # away from zeros
        parameter.data += 0.3 * torch.randn_like(parameter)
    for kind, near in ((torch.float64, 1e-12), (torch.float32, 1e-4), (torch.bfloat16, 0.2)):
        layer = layer.to(kind)
        x = torch.randn(2, 5, WIDTH, dtype=kind, requires_grad=True)
        if kind is torch.float64:
            eta = layer.feeds(x, ConvState(layer.initial_state(2)))["eta"]
            wanted = MEANT[form](layer, x).to(kind).sigmoid().expand(2, 5, HEADS)
            torch.testing.assert_close(eta, wanted)
        y, _ = layer(x)
        y.sum().backward()
        state, answers = None, []
        for t in range(5):
            answer, state = layer.step(x[:, t], state)
            answers.append(answer)
        torch.testing.assert_close(torch.stack(answers, 1), y, atol=near, rtol=near)
