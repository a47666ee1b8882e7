"""The numbers of a card against independent figures: real states, counted flops, simulated decay."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import cache
from math import isclose
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import miras_dsl as miras
from miras_dsl.codegen.card.card import card_of
from miras_dsl.codegen.card.decays import FADED, half_life, tokens_until
from miras_dsl.codegen.card.json_form import CARD_SCHEMA, card_json
from miras_dsl.codegen.card.text import card_text
from miras_dsl.codegen.card.types import Card
from miras_dsl.runtime.execute.call import validate
from miras_dsl.runtime.run import MemoryOp
from tests.meaning.derived import compiled, of_text, shipped_names

SIZE = 64


@cache
def card(name: str) -> Card:
    return card_of(compiled(name))


@pytest.mark.parametrize("name", shipped_names())
def test_a_card_is_short(name: str) -> None:
    lines = card_text(card(name)).splitlines()
    assert 8 <= len(lines) <= 20 and max(map(len, lines)) <= 100


# ------------------------------------------------------------ state and work


FILES = {"GatedDeltaNet": "gated_deltanet", "RWKV7": "rwkv7", "HGRN": "hgrn", "Titans": "titans",
         "YaadSweeps": "yaad", "Yaad": "yaad", "Memora": "memora"}  # fmt: skip
HEADS = 2


@cache
def layer_of(name: str) -> Any:
    """A layer with two heads of the card's size."""
    return getattr(miras.load(FILES[name]), name)(width=HEADS * SIZE, heads=HEADS)


WINDOW = """
memory M(d) {
  architecture matrix
  bias l2   retention decay alpha   algorithm gd(eta), window(3, 0.5), exact
  order decay, predict, write, read
  gates { alpha = sigmoid(linear(x) + 8)   eta[key] = sigmoid(linear(x)) / 64 }
}"""


@pytest.mark.parametrize("name", ["GatedDeltaNet", "HGRN", "YaadSweeps", "Memora", "window"])
def test_state_bytes_are_those_of_an_actual_state(name: str) -> None:
    if name == "window":
        told = card_of(of_text(WINDOW))
        layer = miras.load(miras.Source("m.mem", WINDOW)).M(width=HEADS * SIZE, heads=HEADS)
    else:
        told, layer = card(name), layer_of(name)
    _, state = layer(torch.randn(1, 5, HEADS * SIZE))
    state["memory"].pop("position", None)  # one number for all heads
    shapes = {row.name: row.shape for row in told.state}
    assert set(state["memory"]) == set(shapes)
    held = [x.numel() * x.element_size() for x in state["memory"].values()]
    assert sum(held) == HEADS * told.state_bytes
    for n, x in state["memory"].items():
        assert sorted(x.shape[2:]) == sorted(shapes[n])


@pytest.mark.parametrize("name, least", [("GatedDeltaNet", 0.75), ("Titans", 0.9), ("RWKV7", 0.6)])
def test_flops_are_those_of_the_products_that_torch_counts(name: str, least: float) -> None:
    """torch counts products of matrices only; what is elementwise is the rest."""
    layer, tokens = layer_of(name), 1024
    given = {**layer.feeds(torch.randn(1, tokens, HEADS * SIZE), _past(layer)), **layer.constants()}
    module = vars(sys.modules[type(layer).__module__]).values()
    op = next(x for x in module if isinstance(x, MemoryOp) and x.table.name == name)
    call = validate(op.table, given, layer.initial_state(1)["memory"], None)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        op.forms["chunk"].compute(call, False)
    share = counter.get_total_flops() / (HEADS * tokens * card(name).training.flops)
    assert least < share < 1


def _past(layer: Any) -> Any:
    from miras_dsl.runtime.layers.conv_state import ConvState

    return ConvState(layer.initial_state(1), None)


def test_a_step_of_the_delta_rule_costs_what_one_counts_by_hand() -> None:
    """Two products with W cost 2 d^2 each; the write is an outer product, times a rate, and a sum."""
    told = card("DeltaNet").decoding
    assert told.formula.startswith("7 * dk * dv") or told.formula.startswith("6 * dk * dv")
    assert 4 * SIZE**2 < told.flops < 8 * SIZE**2


# ------------------------------------------------------------ gates


@pytest.mark.parametrize("name, weight", [("GatedDeltaNet", "W"), ("Yaad", "W1"), ("Titans", "W2")])
def test_half_lives_are_those_of_a_layer_that_reads_nothing(name: str, weight: str) -> None:
    """Of zeros a new layer makes keys and values of 0 and gates at their start: nothing is written."""
    layer, told = layer_of(name), card(name)
    (decay,) = (d for d in told.decays if weight in d.states)
    tokens = round(half_life(decay.start.low))
    assert left(layer, weight, tokens) == pytest.approx(0.5, rel=0.05)
    if decay.fades is not None:
        assert left(layer, weight, decay.fades) < FADED <= left(layer, weight, decay.fades - 1)


def left(layer: Any, weight: str, tokens: int) -> float:
    """The share of a weight that is left after so many tokens of zeros."""
    state = layer.initial_state(1)
    state["memory"] = {
        name: torch.randn_like(x) if weight == "W" else x for name, x in state["memory"].items()
    }
    with torch.no_grad():
        _, after = layer(torch.zeros(1, tokens, HEADS * SIZE), state)
        return float(after["memory"][weight].norm() / state["memory"][weight].norm())


def test_what_fades_is_said_and_what_does_not_is_not() -> None:
    text = """
memory M(d) {
  architecture mlp(hidden = d)
  bias l2   retention decay alpha   algorithm gd(eta), anchored(16)
  order decay, predict, write, read
  gates { alpha = sigmoid(linear(x) + 8)   eta = sigmoid(linear(x)) / 64 }
}"""
    fast = card_of(of_text(text.replace("+ 8", "+ 2")))
    (decay,) = fast.decays
    assert decay.fades == np.ceil(tokens_until(0.01, 1 / (1 + np.exp(-2)))) == 37
    assert "fades below 1% within 37 tokens" in card_text(fast)
    assert not card_of(of_text(text)).warnings
    zero = (
        text.replace("mlp(hidden = d)", "matrix")
        .replace("anchored(16)", "exact")
        .replace("+ 8", "")
    )
    assert not card_of(of_text(zero)).warnings, "what starts at zero has nothing to lose"


def test_a_drawn_start_is_a_range() -> None:
    text = """
memory M(d) {
  architecture matrix
  bias l2   retention decay alpha   algorithm gd(eta), exact
  order decay, predict, write, read
  gates { alpha = exp(-exp(param) * softplus(linear(x) + param))   eta = sigmoid(linear(x)) }
}"""
    start = card_of(of_text(text)).decays[0].start
    assert isclose(start.high, np.exp(-0.001), rel_tol=1e-9)
    assert isclose(start.low, np.exp(-1.6), rel_tol=1e-9)


@pytest.mark.parametrize("factor, tokens", [(0.5, 1), (-0.5, 1), (0.25, 0.5), (0.0, 0.0)])
def test_half_life(factor: float, tokens: float) -> None:
    assert half_life(factor) == tokens and half_life(1.0) == float("inf")


# ------------------------------------------------------------ JSON


@pytest.mark.parametrize("name", shipped_names())
def test_the_json_of_a_card_follows_its_schema(name: str) -> None:
    told = json.loads(json.dumps(card_json(card(name)), allow_nan=False))
    assert not list(faults(told, CARD_SCHEMA))


def test_the_schema_refuses_what_is_wrong() -> None:
    told = card_json(card("DeltaNet"))
    assert list(faults({**told, "state_bytes": -1}, CARD_SCHEMA)) == ["state_bytes"]
    assert list(faults({**told, "more": 1}, CARD_SCHEMA)) == ["more"]
    assert list(faults({k: v for k, v in told.items() if k != "cpu"}, CARD_SCHEMA)) == ["cpu"]


KINDS = {"string": str, "integer": int, "number": (int, float), "null": type(None),
         "array": list, "object": dict}  # fmt: skip


def faults(value: Any, schema: Any, place: str = "") -> Iterator[str]:
    """Places where a value does not follow a schema, for the words that the card's schema uses."""
    if "const" in schema:
        yield from [place] if value != schema["const"] else []
        return
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    wrong = not any(isinstance(value, KINDS[kind]) for kind in kinds)
    if wrong or (isinstance(value, int) and value < schema.get("minimum", value)):
        yield place
    elif isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            yield place
        for each in value:
            yield from faults(each, schema["items"], place)
    elif isinstance(value, dict):
        known = schema.get("properties", {})
        yield from (name for name in schema.get("required", ()) if name not in value)
        for name, each in value.items():
            if name in known:
                yield from faults(each, known[name], name)
            elif schema.get("additionalProperties") is False:
                yield name
            else:
                yield from faults(each, schema["additionalProperties"], name)
