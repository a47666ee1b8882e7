"""Shipped layers, compiled, against whole layers written from the papers: features to features.

What a certificate takes as given (projections, convolutions, norms, formulas of tokens and gates,
logarithms of decays, the way out) is part of these.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import resources

import pytest
import torch
from torch import Tensor

import miras_dsl as miras
from tests.papers import layers

LAYERS: dict[tuple[str, str], Callable[..., Tensor]] = {
    ("linear_attention", "LinearAttentionLayer"): layers.linear_attention,
    ("gla", "GLALayer"): layers.gla,
    ("retnet", "RetNetLayer"): layers.retnet,
    ("lightning", "LightningLayer"): layers.lightning,
    ("hgrn", "HGRNLayer"): layers.hgrn,
    ("deltanet", "DeltaNetLayer"): layers.deltanet,
    ("gated_deltanet", "GatedDeltaNetLayer"): layers.gated_deltanet,
    ("delta_product", "DeltaProductLayer"): layers.delta_product,
    ("rwkv7", "RWKV7Layer"): layers.rwkv7,
    ("logcosh_momentum", "LogCoshMomentumLayer"): layers.logcosh_momentum,
    ("ttt_mlp", "TTTMLPLayer"): layers.ttt_mlp,
    ("titans", "TitansLayer"): layers.titans,
    ("yaad", "YaadLayer"): layers.yaad,
    ("yaad", "YaadSweepsLayer"): partial(layers.yaad, sweeps=3),
    ("memora", "MemoraLayer"): layers.memora,
}
HEADS = 2


@pytest.mark.parametrize(("file", "name"), LAYERS)
def test_a_shipped_layer_is_its_paper(file: str, name: str) -> None:
    """Past a block's end, with parameters away from where they start; gradients too."""
    torch.manual_seed(1)
    layer = miras.load(file)[name](width=8, heads=HEADS).double()
    for parameter in layer.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    given = {name.partition(".")[2]: p for name, p in layer.named_parameters()}
    x = torch.randn(2, 67, 8, dtype=torch.float64)
    y, _ = layer(x)
    expected = torch.stack([LAYERS[file, name](one, given, HEADS) for one in x])
    assert float(expected.detach().std()) > 1e-2
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
    cotangent = torch.randn_like(y)
    found = torch.autograd.grad((y * cotangent).sum(), list(given.values()))
    meant = torch.autograd.grad((expected * cotangent).sum(), list(given.values()))
    for key, ours, theirs in zip(given, found, meant, strict=True):
        assert float(theirs.abs().max()) > 0, key
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8, msg=key)


def test_every_shipped_layer_has_its_paper() -> None:
    folder = resources.files("miras_dsl.specs")
    shipped = {p.name.removesuffix(".mem") for p in folder.iterdir() if p.name.endswith(".mem")}
    found = {(file, name) for file in shipped for name in miras.load(file).spec.layers}
    assert found == set(LAYERS)
