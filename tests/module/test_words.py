"""Words of tokens and gates, in whole layers: what they mean, in every type, saved, compiled."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import miras_dsl as miras
from miras_dsl.runtime.layers.conv_state import ConvState
from miras_dsl.runtime.layers.parts import largest_entries
from miras_dsl.runtime.load.loader import load
from tests.module.layer_certificate import wrong
from tests.module.word_memories import EVERYTHING, TEXTS, memory

pytestmark = pytest.mark.filterwarnings("ignore::miras_dsl.exceptions.SpecWarning")
WIDTH, HEADS = 12, 3
ALL = {**TEXTS, "everything": EVERYTHING}
ALIKE = ("a share of the heads", "more than there are", "two tokens before", "squares of keys")
NAMES = [pytest.param(n, marks=pytest.mark.thorough) if n in ALIKE else n for n in ALL]


def layer_of(text: str, dtype: torch.dtype = torch.float64, heads: int = HEADS) -> nn.Module:
    torch.manual_seed(0)
    return miras.load(text).Around(width=WIDTH, heads=heads).to(dtype)


def fed(layer: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    (inner,) = layer.children()
    return inner.feeds(x, ConvState(inner.initial_state(len(x))))


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_is_what_its_formulas_mean(name: str) -> None:
    """In one call, in several, packed and token by token; gradients too."""
    assert wrong(load(ALL[name]), "Around") == []


@pytest.mark.thorough
@pytest.mark.parametrize("name", ALL)
def test_a_certificate_is_green(name: str) -> None:
    (proof,) = miras.certify(ALL[name]).values()
    assert proof.green, proof.red


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_in_other_types(name: str) -> None:
    layer = layer_of(ALL[name])
    x = torch.randn(2, 9, WIDTH, dtype=torch.float64)
    y, _ = layer(x)
    single, state = layer.float()(x.float())
    torch.testing.assert_close(single, y.float(), rtol=1e-3, atol=1e-4)
    half = layer.bfloat16()
    y, state = half(x.bfloat16())
    y.float().square().sum().backward()
    after, _ = half.step(x[:, 0].bfloat16(), state)
    assert y.dtype == after.dtype == torch.bfloat16 and after.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in half.parameters())


@pytest.mark.parametrize("name", ["everything", "the token before"])
def test_saved_and_without_memory(name: str, tmp_path: Path) -> None:
    layer, x = layer_of(ALL[name]), torch.randn(2, 7, WIDTH, dtype=torch.float64)
    y, state = layer(x)
    torch.save(layer.state_dict(), tmp_path / "weights.pt")
    other = layer_of(ALL[name])
    other.reset_parameters()
    assert not torch.allclose(other(x)[0], y)
    other.load_state_dict(torch.load(tmp_path / "weights.pt"))
    torch.testing.assert_close(other(x), (y, state))
    ghost = layer.to("meta")
    shadow, after = ghost(torch.empty(2, 7, WIDTH, dtype=torch.float64, device="meta"))
    assert shadow.is_meta and shadow.shape == y.shape
    assert ghost.step(shadow[:, 0], after)[0].shape == (2, WIDTH)


@pytest.mark.parametrize(
    "backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.thorough)]
)
def test_one_graph(backend: str) -> None:
    """A layer with all of these words is one graph, packed and decoding too."""
    layer, x = layer_of(EVERYTHING), torch.randn(1, 9, WIDTH, dtype=torch.float64)
    fast = torch.compile(layer, fullgraph=True, backend=backend)
    bounds = torch.tensor([0, 4, 9])
    torch.testing.assert_close(fast(x, cu_seqlens=bounds), layer(x, cu_seqlens=bounds))
    if backend != "eager":
        torch.testing.assert_close(fast(x), layer(x))
        step = torch.compile(layer.step, fullgraph=True, backend=backend)
        torch.testing.assert_close(step(x[:, 0]), layer.step(x[:, 0]))


def test_a_gate_of_head_numbers_has_no_parameter_and_is_the_same_for_every_token() -> None:
    layer = layer_of(TEXTS["a rate of each head"], torch.float32)
    assert not [name for name, _ in layer.named_parameters() if "alpha" in name]
    log = fed(layer, torch.randn(2, 5, WIDTH))["log_alpha"]
    meant = torch.log1p(-(2.0 ** -torch.arange(5.0, 5.0 + HEADS, dtype=torch.float64)))
    torch.testing.assert_close(log.double(), meant.expand(2, 5, HEADS), rtol=1e-6, atol=0)


def test_what_explain_says_of_the_words() -> None:
    said = miras.explain("retnet", stage="layer")
    assert "alpha[heads] = 1 - 2^(-head - 4)" in said
    said = miras.explain(TEXTS["sparse slots"], stage="layer")
    assert "= topk[key](sigmoid(linear_" in said and ", n = 2)" in said
    said = miras.explain(TEXTS["the token before"], stage="layer")
    assert "[heads, key] = shift(key)" in said
    assert "starts at 0.969 to 0.996" in miras.explain("retnet")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_logarithm_of_a_decay_near_one_keeps_its_digits(dtype: torch.dtype) -> None:
    """A rate of 1 - 2^-34 is 1 in single precision, its logarithm is not 0."""
    text = memory(decay="alpha", gates="alpha = 1 - 2^(-4 - 10 * head)")
    log = fed(layer_of(text, dtype), torch.randn(1, 1, WIDTH, dtype=dtype))["log_alpha"][0, 0]
    meant = torch.log1p(-(2.0 ** torch.tensor([-14.0, -24.0, -34.0], dtype=torch.float64)))
    torch.testing.assert_close(log.double(), meant, rtol=1e-5, atol=0)


def test_the_token_before_is_the_token_as_the_memory_sees_it() -> None:
    """After its convolution, activation and norm; zero before the first; from the state later on."""
    layer = layer_of(TEXTS["the token before"])
    x = torch.randn(2, 6, WIDTH, dtype=torch.float64)
    given = fed(layer, x)
    torch.testing.assert_close(given["key"].norm(dim=-1), torch.ones(2, 6, HEADS).double())
    for name in ("key", "value"):
        torch.testing.assert_close(given[f"{name}_before"][:, 1:], given[name][:, :-1])
        assert not given[f"{name}_before"][:, 0].any()
    (inner,) = layer.children()
    _, state = inner(x[:, :4])
    later = inner.feeds(x[:, 4:], ConvState(state))
    torch.testing.assert_close(later["key_before"][:, 0], given["key"][:, 3])


def test_the_largest_entries() -> None:
    """Of equal entries the first stay; others are 0 and pass no gradient on."""
    x = torch.tensor(
        [[1.0, 3.0, 3.0, -2.0, 3.0], [-5.0, -1.0, -1.0, -4.0, -9.0]], requires_grad=True
    )
    kept = largest_entries(x, -1, 2)
    assert kept.tolist() == [[0, 3, 3, 0, 0], [0, -1, -1, 0, 0]]
    (gradient,) = torch.autograd.grad(kept.sum(), x)
    assert gradient.tolist() == [[0, 1, 1, 0, 0], [0, 1, 1, 0, 0]]
    assert largest_entries(x.T, 0, 2).tolist() == kept.T.tolist()
    assert largest_entries(x, -1, 9).tolist() == x.tolist()


def test_rates_of_terms_are_those_of_their_gradients() -> None:
    """`momentum(erase = a, store = b)` is momentum of rate 1 for the sum of a and b times the losses."""
    written = TEXTS["rates of terms"]
    summed = written.replace("erase: sum((W @ removal)^2) / 2, store: -dot(W @ key, value)",
                             "eta / 2 * sum((W @ removal)^2) / 2 - b * dot(W @ key, value)")  # fmt: skip
    summed = summed.replace("erase = eta / 2, store = b, mu = m", "1, m")
    assert summed.count("erase") == 0
    x = torch.randn(2, 9, WIDTH, dtype=torch.float64)
    ours, theirs = layer_of(written), layer_of(summed)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x), theirs(x))
