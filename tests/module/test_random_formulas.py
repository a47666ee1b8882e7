"""Random formulas of tokens and gates: generated layers against what the formulas mean."""

from __future__ import annotations

from random import Random

import pytest
import torch
from torch import Tensor

from miras_dsl.runtime.layers.conv_state import ConvState
from miras_dsl.runtime.load.loader import LoadedModule, load
from tests.module.layer_certificate import HEADS, WIDTH, built, meaning_of, wrong
from tests.module.random_formulas import (
    BINARY,
    DECAYS,
    FEATURES,
    NUMBERS_OF,
    TAKEN,
    UNARY,
    VECTORS,
    memory,
)

FIRST, COUNT, ALWAYS = 422, 36, 24
NUMBERS = range(FIRST, FIRST + COUNT)
DRAWN = [pytest.param(n, marks=pytest.mark.thorough) if n >= FIRST + ALWAYS else n for n in NUMBERS]
DERIVED = [
    pytest.param(n, marks=pytest.mark.thorough) if n >= FIRST + ALWAYS else n
    for n in NUMBERS
    if n % 3
]


def drawn(number: int) -> tuple[str, LoadedModule]:
    """A random memory; two of three have a decay whose logarithm is derived."""
    text = memory(Random(number), number % 3 > 0)
    return text, load(text)


@pytest.mark.parametrize("number", DRAWN)
def test_a_layer_of_random_formulas(number: int) -> None:
    text, library = drawn(number)
    assert wrong(library, "Around") == [], text


@pytest.mark.parametrize("number", DERIVED)
def test_a_derived_logarithm_keeps_its_digits(number: int) -> None:
    """In single precision, near 0 and near 1, where the decay itself has lost them."""
    text, library = drawn(number)
    layer = built(library, "Around")
    for key, parameter in layer.named_parameters():
        if "alpha" in key:
            parameter.data *= 4
    x = 3 * torch.randn(8, 5, WIDTH, dtype=torch.float64)
    meant = meaning_of(library, "Around", layer, x).feed("alpha").data
    (inner,) = layer.float().children()
    log = inner.feeds(x.float(), ConvState(inner.initial_state(len(x))))["log_alpha"]
    least = 1e-12 if "alpha = 1 -" in text or "] = 1 -" in text else 1e-300
    told = (meant > least) & (1 - meant > 1e-12)  # where double precision knows the logarithm
    assert told.any() and torch.isfinite(log).all()
    exact = meant.log()[told]
    error = ((log.double()[told] - exact).abs() / exact.abs()).detach()
    assert float(error.max()) < 1e-2, text
    assert float(error.median()) < 1e-5, text


def test_every_kind_of_formula_is_drawn() -> None:
    texts = "".join(memory(Random(n), n % 3 > 0) for n in NUMBERS)
    tables = (UNARY, BINARY, VECTORS, NUMBERS_OF, FEATURES, DECAYS, TAKEN)
    for template in (t for table in tables for t in table):
        start = max(template.split("{}"), key=len)
        assert start in texts, template


def test_the_heads_share_nothing() -> None:
    """A parameter of one head changes that head's decay and no other's."""
    _, library = drawn(1)
    layer = built(library, "Around")
    x = torch.randn(1, 4, WIDTH, dtype=torch.float64)
    (inner,) = layer.children()

    def fed() -> Tensor:
        return inner.feeds(x, ConvState(inner.initial_state(1)))["eta"].detach().clone()

    before = fed()
    inner.eta_linear.weight.data[0] += 1
    assert HEADS == 2 and not torch.equal(fed()[:, :, 0], before[:, :, 0])
    assert torch.equal(fed()[:, :, 1], before[:, :, 1])
