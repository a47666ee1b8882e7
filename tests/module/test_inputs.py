"""Inputs that do not fit each other are refused before anything is computed, whatever would do it."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import miras_dsl as miras
from miras_dsl.runtime import run as runner
from miras_dsl.runtime.execute.packed import parse_cu_seqlens
from miras_dsl.runtime.execute.program_table import MemoryTable
from miras_dsl.runtime.kernels import recurrent
from miras_dsl.runtime.kernels.launch_config import Recurrence
from miras_dsl.runtime.load.loader import compiled, load
from miras_dsl.runtime.operator import memory_op

SOFT = """
memory Soft(dk, dv) {
  architecture W: matrix[value, key]
  bias         l2
  retention    RETENTION
  algorithm    gd(eta), exact
  order        decay, predict, write, read
  gates        { alpha, eta = sigmoid(linear(x)) }
}
"""
RETENTIONS = {
    "chunk form": "l2(alpha)",
    "token by token": "soft(alpha, 0.02) at token",
    "kernels": "l2(alpha)",
}
HEADS, SIZE = 2, 4

Inputs = tuple[dict[str, Tensor], dict[str, Tensor]]


@pytest.fixture(params=RETENTIONS)
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A memory by each of the three ways; the kernels are never reached."""
    text = SOFT.replace("RETENTION", RETENTIONS[request.param])
    spec = miras.parse(text).memories["Soft"]
    made, module = compiled(spec, kernels=request.param == "kernels")
    assert (made.form is None) == (request.param == "token by token")
    tables = list(vars(module).values())
    memory = next(x for x in tables if isinstance(x, MemoryTable))
    kernels = next((x for x in tables if isinstance(x, Recurrence)), None)
    assert (kernels is None) == (request.param != "kernels")
    if kernels is not None:
        monkeypatch.setattr(memory_op, "supported", lambda *place: True)
        monkeypatch.setattr(recurrent, "_launch", lambda *rest: pytest.fail("it was launched"))
    op = runner.MemoryOp(memory, kernels)

    def call(inputs: Inputs, cu_seqlens: Tensor | None = None) -> Any:
        return runner.run(op, *inputs, cu_seqlens)

    return call


def inputs(batch: int, tokens: int, sequences: int) -> Inputs:
    """Feeds and a state that fit."""
    tall = {n: torch.rand(batch, tokens, HEADS, SIZE) for n in ("query", "key", "value")}
    flat = {n: -torch.rand(batch, tokens, HEADS) for n in ("log_alpha", "eta")}
    return tall | flat, {"W": torch.zeros(sequences, HEADS, SIZE, SIZE)}


@pytest.mark.parametrize(
    "bounds",
    [[0, 9], [0, 3], [1, 6], [0, 4, 2, 6], [-1, 6], [6], [], [[0, 6]], [0.0, 6.0]],
    ids=str,
)
def test_bounds_that_do_not_fit_the_tokens(run: Callable[..., Any], bounds: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"must rise from 0 to 6, the number of tokens.*\[0, 2, 5"):
        run(inputs(1, 6, max(1, len(bounds) - 1)), torch.tensor(bounds))


def test_packed_sequences_in_several_rows(run: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"lie in one row; here it is \[0, 3, 6\] for 2 rows"):
        run(inputs(2, 6, 2), torch.tensor([0, 3, 6]))


def test_a_state_for_other_sequences(run: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"state W is \[1, 2, 4, 4\], not \[3, 2, value, key\]"):
        run(inputs(3, 6, 1))
    with pytest.raises(ValueError, match="a row for each sequence"):
        run(inputs(1, 6, 1), torch.tensor([0, 3, 6]))


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("eta", lambda x: x[:, :4], "eta is [1, 4, 2], not [1, 6, 2]"),
        ("eta", lambda x: x[..., None], "eta is [1, 6, 2, 1], not [1, 6, 2]"),
        ("key", lambda x: x[..., :3], "key has 3 along key, others 4"),
        ("value", lambda x: x[..., :1], "state W has 4 along value, others 1"),
        ("key", lambda x: x.long(), "key is torch.int64, not floating point"),
        ("key", lambda x: x.to("meta"), "key is on meta, query on cpu"),
    ],
)
def test_an_input_that_does_not_fit_is_named(
    run: Callable[..., Any], name: str, change: Callable[[Tensor], Tensor], said: str
) -> None:
    feeds, state = inputs(1, 6, 1)
    with pytest.raises(ValueError, match=f"Soft: {re.escape(said)}"):
        run(({**feeds, name: change(feeds[name])}, state))


def test_what_is_missing_is_named(run: Callable[..., Any]) -> None:
    feeds, state = inputs(1, 6, 1)
    with pytest.raises(ValueError, match="Soft: the state has no W"):
        run((feeds, {}))
    with pytest.raises((ValueError, TypeError), match="beta"):
        run(({**feeds, "beta": feeds["eta"]}, state))
    feeds.pop("key")
    with pytest.raises(ValueError, match="Soft: the input key is missing"):
        run((feeds, state))


@pytest.mark.parametrize(("batch", "tokens"), [(0, 6), (2, 0), (0, 0)])
def test_no_tokens_have_an_empty_answer(run: Callable[..., Any], batch: int, tokens: int) -> None:
    feeds, state = inputs(batch, tokens, batch)
    y, after = run((feeds, state))
    assert y.shape == (batch, tokens, HEADS, SIZE)
    assert torch.equal(after["W"], state["W"])


def test_a_place_in_a_block_is_one_of_the_block() -> None:
    layer: Any = miras.load("titans").Titans(width=8, heads=2)
    x = torch.randn(1, 5, 8)
    state = layer.initial_state(1)
    for wrong in (torch.tensor([10**6]), torch.tensor([-1]), torch.tensor([0.5]), torch.zeros(2)):
        state["memory"]["position"] = wrong
        with pytest.raises(ValueError, match="Titans: state position must be 1 whole numbers from"):
            layer(x, state)


LAYERS = ("gated_deltanet", "GatedDeltaNetLayer"), ("rwkv7", "RWKV7Layer"), ("gla", "GLA")


@pytest.mark.parametrize(("name", "layer"), LAYERS)
def test_a_layer_says_the_same(name: str, layer: str) -> None:
    """Convolutions and shifts come before the memory."""
    made: Any = load(miras.find(name))[layer](width=8, heads=2)
    x = torch.randn(1, 6, 8)
    for bounds in ([0, 9], [0, 3], [1, 6], [0, 4, 2, 6]):
        with pytest.raises(ValueError, match="cu_seqlens must rise from 0 to 6, the number of tok"):
            made(x, cu_seqlens=torch.tensor(bounds))
    with pytest.raises(ValueError, match="a state has a row for each sequence"):
        made(x, made.initial_state(1), cu_seqlens=torch.tensor([0, 2, 6]))
    y, _ = made(x[:0], made.initial_state(0))
    assert y.shape == (0, 6, 8)


def test_bounds_are_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU is asked for them once, by the outermost layer."""
    asked, given = [], torch.tensor([0, 2, 6], dtype=torch.int32)
    tolist = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda x: asked.append(x is given) or tolist(x))
    made = load(miras.find("gated_deltanet")).GatedDeltaNetLayer(width=8, heads=2)
    made(torch.randn(1, 6, 8), cu_seqlens=given)
    assert asked.count(True) == 1
    known = parse_cu_seqlens(torch.zeros(1, 6), torch.tensor([0, 2, 6]))
    again = parse_cu_seqlens(torch.zeros(1, 6, 3), known)
    assert again is not None and again.ends == (0, 2, 6)
    with pytest.raises(ValueError, match="rise from 0 to 7"):
        parse_cu_seqlens(torch.zeros(1, 7), known)


@pytest.mark.parametrize("retention", ["l2(alpha)", "soft(alpha, 0.02) at chunk"])
def test_after_backward_nothing_of_the_graph_is_kept(retention: str) -> None:
    algorithm = "gd(eta), exact" if retention == "l2(alpha)" else "gd(eta), anchored(4)"
    text = SOFT.replace("RETENTION", retention).replace("gd(eta), exact", algorithm)
    layer = miras.load(text).Soft(width=8, heads=2)

    def made() -> set[int]:
        gc.collect()
        return {id(x) for x in gc.get_objects() if type(x) is Tensor and x.grad_fn is not None}

    before = made()
    y = layer(torch.randn(1, 6, 8), cu_seqlens=torch.tensor([0, 2, 6]))[0]
    y.sum().backward()
    # y is a view of what the last product made.
    assert made() - before <= {id(y), id(y._base)}


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64], ids=str)
@pytest.mark.parametrize("name", ["GatedDeltaNet", "GatedDeltaNetLayer"])
def test_a_layer_takes_features_in_floating_point(name: str, dtype: torch.dtype) -> None:
    layer = miras.load("gated_deltanet")[name](width=8, heads=2)
    x = torch.ones(1, 3, 8).to(dtype)
    for call in (lambda: layer(x), lambda: layer.step(x[:, 0])):
        with pytest.raises(ValueError, match=f"x is {dtype}, not floating point; convert it"):
            call()
