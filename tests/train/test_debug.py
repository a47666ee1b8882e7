"""Debug mode names the first tensor of a memory that is not finite, and its token."""

from __future__ import annotations

import pytest
import torch

import miras_dsl as miras
from miras_dsl.runtime.finite_checks import NotFinite, debugging
from miras_dsl.runtime.train.nonfinite import first_nonfinite

GROWS = """
memory Grows(d) {
  architecture W: matrix[value, key]
  bias         l2
  retention    decay alpha
  algorithm    gd(eta), exact
  order        decay, predict, write, read
  gates        { alpha = exp(-param)   eta = 1 }
}
"""


@pytest.fixture
def grows():
    """A memory whose decay the test sets to a growth of e^30 per token."""
    torch.manual_seed(0)
    layer = miras.load(GROWS).Grows(width=8, heads=2)
    (rate,) = (p for n, p in layer.named_parameters() if "alpha" in n)
    with torch.no_grad():
        rate.fill_(-30.0)
    return layer


def test_without_debug_mode_nothing_is_looked_at(grows):
    """It costs nothing where it is off."""
    y, _ = grows(torch.randn(2, 12, 8))
    assert not y.isfinite().all()


def test_the_first_state_and_its_token_are_named(grows):
    """e^30 per token leaves float32 at the fourth: 88.7 is the logarithm of its largest number."""
    with debugging(), pytest.raises(NotFinite, match=r"Grows: the state W is not finite after tok"):
        grows(torch.randn(2, 12, 8))


def test_the_environment_switches_it_on(grows, monkeypatch):
    """MIRAS_DEBUG=1, as one types it before a command."""
    monkeypatch.setenv("MIRAS_DEBUG", "1")
    with pytest.raises(NotFinite, match=r"after token [2-5] of sequence [01]"):
        grows(torch.randn(2, 12, 8))
    monkeypatch.setenv("MIRAS_DEBUG", "0")
    grows(torch.randn(2, 12, 8))


def test_an_input_is_named_with_its_token_and_sequence():
    """What comes in is looked at before what is made of it."""
    layer = miras.load("deltanet").DeltaNet(width=8, heads=2)
    x = torch.randn(2, 12, 8)
    x[1, 7, 3] = torch.nan
    with debugging(), pytest.raises(NotFinite, match=r"the input \w+ is not finite at token 7 of"):
        layer(x)
    packed = x.reshape(1, 24, 8)
    bounds = torch.tensor([0, 10, 24])
    with debugging(), pytest.raises(NotFinite, match="at token 9 of sequence 1"):
        layer(packed, cu_seqlens=bounds)


def test_a_state_that_comes_in_is_named():
    """Before the first token."""
    layer = miras.load("deltanet").DeltaNet(width=8, heads=2)
    with torch.no_grad():
        _, state = layer(torch.randn(1, 3, 8))
    state["memory"]["W"][0, 1, 0, 0] = torch.inf
    with debugging(), pytest.raises(NotFinite, match="the state W is not finite before the first"):
        layer.step(torch.randn(1, 8), state)


def test_training_says_the_same(grows):
    """What a training run prints when it stops."""
    assert "the state W is not finite after token" in first_nonfinite(grows, torch.randn(2, 12, 8))


def test_finite_numbers_pass():
    """A mode that always complains would prove nothing."""
    layer = miras.load("deltanet").DeltaNet(width=8, heads=2)
    with debugging():
        y, _ = layer(torch.randn(2, 12, 8))
    assert y.isfinite().all()
