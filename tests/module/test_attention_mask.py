"""A padded batch with a mask is the same as its sequences one by one: answers, states, gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import miras_dsl as miras

LAYERS = {
    "gated_deltanet": "GatedDeltaNetLayer",
    "rwkv7": "RWKV7Layer",
    "yaad": "YaadLayer",
    "delta_product": "DeltaProductLayer",
}
MASKS = {
    "left": [[0, 0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1, 1]],
    "right": [[1, 1, 1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1]],
    "holes": [[1, 0, 1, 1, 0, 0, 1, 1], [0, 1, 0, 1, 0, 1, 0, 1], [0, 0, 0, 0, 0, 0, 0, 0]],
}


def leaves(state: object) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    assert isinstance(state, dict)
    return [x for inner in state.values() for x in leaves(inner)]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("kind", MASKS)
def test_a_masked_batch(name: str, kind: str) -> None:
    torch.manual_seed(0)
    layer = miras.load(miras.shipped(name))[LAYERS[name]](width=16, heads=2).double()
    mask = torch.tensor(MASKS[kind])
    x = torch.randn(3, 8, 16, dtype=torch.float64)
    x[mask == 0] = 1e6  # whatever stands there
    weight = torch.randn(3, 8, 16, dtype=torch.float64)
    together = x.clone().requires_grad_()
    y, state = layer(together, attention_mask=mask)
    assert not y[mask == 0].any()
    (y * weight).sum().backward()
    gradients = {n: p.grad.clone() for n, p in layer.named_parameters() if p.grad is not None}
    layer.zero_grad()
    alone = x.clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for row in range(3):
        there = mask[row] != 0
        mine, after = layer(alone[row : row + 1, there])
        torch.testing.assert_close(y[row, there], mine[0], rtol=1e-10, atol=1e-10)
        for one, all_rows in zip(leaves(after), leaves(state), strict=True):
            torch.testing.assert_close(all_rows[row], one[0], rtol=1e-10, atol=1e-10)
        total = total + (mine[0] * weight[row, there]).sum()
    total.backward()
    torch.testing.assert_close(together.grad, alone.grad, rtol=1e-9, atol=1e-9)
    for n, p in layer.named_parameters():
        torch.testing.assert_close(gradients[n], p.grad, rtol=1e-8, atol=1e-9)


def test_a_model_and_what_is_refused() -> None:
    text = miras.shipped("gated_deltanet")
    text += "\nmodel T(width = 16, vocab = 7) = repeat 2 { GatedDeltaNetLayer ; swiglu }\n"
    model = miras.load(text).T()
    ids = torch.randint(7, (2, 5))
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]).bool()
    logits, state = model(ids, attention_mask=mask)
    alone, _ = model(ids[:1, 2:])
    torch.testing.assert_close(logits[:1, 2:], alone)
    more, _ = model(ids, state, attention_mask=mask)
    again, _ = model(torch.cat([ids[:1, 2:]] * 2, 1))
    torch.testing.assert_close(more[:1, 2:], again[:, 3:])
    with pytest.raises(ValueError, match=r"attention_mask is torch.bool \[2, 4\], not \[B, T\]"):
        model(ids, attention_mask=mask[:, :4])
    with pytest.raises(ValueError, match="give one"):
        model(ids[:1], cu_seqlens=[0, 2, 5], attention_mask=mask[:1])
