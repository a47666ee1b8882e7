"""A token that is not finite: the answers before it stay what they are, those after it are NaN."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import miras_dsl as miras

TOKENS, BAD = 70, 41


def features(value: float) -> tuple[Tensor, Tensor]:
    """The same features without and with a bad number in one token of the second sequence."""
    torch.manual_seed(1)
    x = torch.randn(2, TOKENS, 16)
    wrong = x.clone()
    wrong[1, BAD, 3] = value
    return x, wrong


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("gated_deltanet", "GatedDeltaNetLayer"),
        ("gla", "GLALayer"),
        ("rwkv7", "RWKV7Layer"),
        ("titans", "TitansLayer"),
        ("yaad", "YaadLayer"),
        ("linear_attention", "LinearAttentionLayer"),
        ("logcosh_momentum", "LogcoshMomentumLayer"),
    ],
)
def test_answers_before_a_bad_token(file: str, name: str, value: float) -> None:
    module = miras.load(file)
    layer = module[name if name in module.classes else next(reversed(module.classes))]
    torch.manual_seed(0)
    made = layer(width=16, heads=2)
    good, bad = features(value)
    with torch.no_grad():
        y, _ = made(good)
        found, state = made(bad)
    torch.testing.assert_close(found[0], y[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1, :BAD], y[1, :BAD], rtol=1e-4, atol=1e-5)
    assert found[1, BAD:].isnan().all()
    weights = memories(state)
    assert weights and all(x[0].isfinite().all() and x[1].isnan().any() for x in weights)


def memories(state: object, inside: bool = False) -> list[Tensor]:
    """The weights of the memories in a layer's state, without the tails of its convolutions."""
    if isinstance(state, dict):
        parts = (memories(part, inside or name == "memory") for name, part in state.items())
        return [x for part in parts for x in part]
    wanted = inside and isinstance(state, Tensor) and state.is_floating_point()
    return [state] if wanted and isinstance(state, Tensor) else []


def test_a_bad_token_in_a_packed_row() -> None:
    torch.manual_seed(0)
    layer = miras.load("gated_deltanet").GatedDeltaNet(width=16, heads=2)
    x = torch.randn(1, 60, 16)
    wrong = x.clone()
    wrong[0, 25] = torch.nan
    bounds = [0, 20, 40, 40, 60]
    with torch.no_grad():
        y, _ = layer(x, cu_seqlens=bounds)
        found, state = layer(wrong, cu_seqlens=bounds)
    kept = [*range(25), *range(40, 60)]
    torch.testing.assert_close(found[0, kept], y[0, kept], rtol=1e-4, atol=1e-5)
    assert found[0, 25:40].isnan().all()
    spoiled = state["memory"]["W"].isnan().flatten(1).any(1)
    assert spoiled.tolist() == [False, True, False, False]


def test_gradients_through_a_bad_token_are_no_numbers() -> None:
    torch.manual_seed(0)
    layer = miras.load("gated_deltanet").GatedDeltaNet(width=16, heads=2)
    _, bad = features(float("nan"))
    y, _ = layer(bad)
    y.sum().backward()
    assert layer.value_linear.weight.grad is not None
    assert layer.value_linear.weight.grad.isnan().any()
