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
from tests.papers.layers import deep, matrix, several_states
from tests.papers.layers.parts import gated, positive, squashed
from tests.papers.loops import additive, delta, retained, robust

ETA = squashed("eta")
LAYERS: dict[tuple[str, str], Callable[..., Tensor]] = {
    ("linear_attention", "LinearAttentionLayer"): gated(additive.linear_attention, decay=False),
    ("gla", "GLALayer"): matrix.gla,
    ("retnet", "RetNetLayer"): matrix.retnet,
    ("lightning", "LightningLayer"): matrix.lightning,
    ("hgrn", "HGRNLayer"): matrix.hgrn,
    ("hgrn2", "HGRN2Layer"): matrix.hgrn2,
    ("mamba2", "Mamba2Layer"): matrix.mamba2,
    ("rwkv6", "RWKV6Layer"): matrix.rwkv6,
    ("min_gru", "MinGRULayer"): matrix.min_gru,
    ("swla", "SWLALayer"): gated(additive.swla, ETA, squashed("gamma")),
    ("deltanet", "DeltaNetLayer"): gated(delta.deltanet, ETA, decay=False),
    ("gated_deltanet", "GatedDeltaNetLayer"): gated(delta.gated_deltanet, ETA),
    ("delta_product", "DeltaProductLayer"): matrix.delta_product,
    ("rwkv7", "RWKV7Layer"): matrix.rwkv7,
    ("kda", "KDALayer"): matrix.kda,
    ("comba", "CombaLayer"): matrix.comba,
    ("gdn2", "GatedDeltaNet2Layer"): matrix.gdn2,
    ("mdn", "MomentumDeltaNetLayer"): matrix.mdn,
    ("q_delta", "QDeltaLayer"): gated(delta.q_delta, ETA, squashed("share", 1, -0.9)),
    ("longhorn", "LonghornLayer"): matrix.longhorn,
    ("omega_net", "OmegaNetLayer"): gated(
        delta.omega_net, squashed("eta", 1 / 4), squashed("gamma")
    ),
    ("titans_linear", "TitansLinearLayer"): matrix.titans_linear,
    ("channel_momentum", "ChannelMomentumLayer"): matrix.channel_momentum,
    ("logcosh_momentum", "LogCoshMomentumLayer"): gated(
        robust.logcosh_momentum, squashed("eta", 1 / 2), squashed("mu", 0.8)
    ),
    ("value_shift", "ValueShiftLayer"): gated(
        robust.value_shift, squashed("eta", 1 / 2), squashed("delta", 1 / 4)
    ),
    ("absolute_error", "AbsoluteErrorLayer"): gated(robust.absolute_error, squashed("eta", 1 / 4)),
    ("cubed_error", "CubedErrorLayer"): gated(robust.cubed_error, squashed("eta", 1 / 16)),
    ("huber_channels", "HuberChannelsLayer"): gated(
        robust.huber_channels, ETA, positive("delta", -1)
    ),
    ("huber_length", "HuberLengthLayer"): gated(robust.huber_length, ETA, positive("delta")),
    ("heavy_tails", "HeavyTailsLayer"): matrix.heavy_tails,
    ("erase_and_hold", "EraseAndHoldLayer"): gated(
        robust.erase_and_hold, squashed("b", 1 / 2, -2), ETA
    ),
    ("elastic_net", "ElasticNetLayer"): matrix.elastic_net,
    ("soft_threshold", "SoftThresholdLayer"): gated(
        retained.soft_threshold, squashed("gamma", 0.02), ETA
    ),
    ("bounded_memory", "BoundedMemoryLayer"): gated(retained.bounded_memory, ETA),
    ("dfw", "DFWLayer"): several_states.decaying_fast_weights,
    ("gsa", "GSALayer"): several_states.gated_slots,
    ("raven", "RavenLayer"): several_states.raven,
    ("mlstm", "MLSTMLayer"): several_states.mlstm,
    ("lru", "LRULayer"): several_states.lru,
    ("mamba3", "Mamba3Layer"): several_states.mamba3,
    ("preconditioned_gdn", "PreconditionedGDNLayer"): several_states.preconditioned_gdn,
    ("m2rnn", "M2RNNLayer"): several_states.m2rnn,
    ("normalised_attention", "NormalisedAttentionLayer"): several_states.normalised_attention,
    ("ttt_linear", "TTTLinearLayer"): deep.ttt_linear,
    ("ttt_mlp", "TTTMLPLayer"): deep.ttt_mlp,
    ("titans", "TitansLayer"): deep.titans,
    ("atlas", "AtlasLayer"): deep.atlas,
    ("yaad", "YaadLayer"): deep.yaad,
    ("yaad", "YaadSweepsLayer"): partial(deep.yaad, sweeps=3),
    ("moneta", "MonetaLayer"): deep.moneta,
    ("moneta_printed", "MonetaPrintedLayer"): partial(deep.moneta, printed=True),
    ("memora", "MemoraLayer"): deep.memora,
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
