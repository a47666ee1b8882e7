"""Formulas of tokens and gates: generated expressions give the numbers that they mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import sympy as sp
import torch
from torch import Tensor
from torch.nn import functional as F

from miras_dsl import spec
from miras_dsl.codegen.emit.layer.modules import emit_module
from miras_dsl.codegen.model.build_module import build_module
from miras_dsl.codegen.model.types import InitialValue, MemoryInput, StateKind, StateTensor
from miras_dsl.ir import axes_of
from miras_dsl.runtime.layers.conv_state import ConvState
from miras_dsl.scalar.monotone_inverse import UNKNOWN
from tests.module import rules
from tests.module.formula_layers import Layer, build, fed, x
from tests.module.generated_file import write
from tests.module.rules import X, gate, linear, memory, number, op, param

K, V = ("key",), ("value",)
A = spec.Ref("a", "gate", K)
KEY, VALUE = spec.Ref("key", "token", K), spec.Ref("value", "token", V)


def shifted() -> spec.Apply:
    return op("shift", X, axes=("width",))


def test_tokens_of_their_own(tmp_path: Path) -> None:
    scaled = op("mul", KEY, param(K), axes=K)
    grown = op("mul", op("sub", A, number(1), axes=K), param(K), axes=K)
    inner = linear(("f6",), shifted(), size=6)
    tokens = (
        spec.Token("query", K, linear(K, shifted()), rules.span(3)),
        spec.Token("key", K, linear(K, shifted()), rules.span(3)),
        spec.Token("value", V, linear(V, X), rules.span(4)),
        spec.Token("removal", K, op("normalize", scaled, axes=K, over=K), rules.span(5)),
        spec.Token("insert", K, op("mul", KEY, op("add", number(1), grown, axes=K), axes=K)),
    )
    gates = (
        gate("a", op("sigmoid", linear(K, op("tanh", inner, axes=("f6",))), axes=K), K),
        gate("b", op("sigmoid", op("contract", KEY, VALUE_AS_KEY, over=K)), ()),
    )
    names = ("query", "key", "value", "removal", "insert")
    feeds = tuple(MemoryInput(n, n, "token", V if n == "value" else K) for n in names)
    feeds += (MemoryInput("a", "a", "gate", K), MemoryInput("b", "b", "gate", ()))
    layer = build(tmp_path, memory("M", tokens=tokens, gates=gates), feeds, dk=3, dv=3)
    values = fed(layer, x)
    before = torch.cat([torch.zeros(2, 1, 8, dtype=x.dtype), x[:, :-1]], 1)
    key = F.normalize(layer.key_linear(before), dim=-1)
    a = layer.a_linear_2(layer.a_linear(before).tanh()).sigmoid()
    value = layer.value_linear(x)
    torch.testing.assert_close(values["query"], F.normalize(layer.query_linear(before), dim=-1))
    torch.testing.assert_close(values["key"], key)
    torch.testing.assert_close(values["a"], a)
    torch.testing.assert_close(values["removal"], F.normalize(key * layer.removal_param, dim=-1))
    torch.testing.assert_close(values["insert"], key * (1 + (a - 1) * layer.insert_param))
    torch.testing.assert_close(values["b"], (key * value).sum(-1).sigmoid())
    assert sum(name.endswith("_shift") for name, _ in layer.named_children()) == 1


VALUE_AS_KEY = op("retag", VALUE, axes=K)
VALUE_AS_KEY = replace(VALUE_AS_KEY, options=(("axes", (("value", "key"),)),))


def entropy() -> spec.Expr:
    """w * log(w) - w"""
    w = spec.Ref("w", "dual")
    return op("sub", op("mul", w, op("log", w)), w)


def test_a_gate_per_row_has_a_map_for_every_weight(tmp_path: Path) -> None:
    d = sp.Symbol("d")
    made = replace(
        memory(
            "M",
            gates=(gate("g", op("sigmoid", linear(("row",), rank=2), axes=("row",)), ("row",)),),
        ),
        params=(("d", None),),
        sizes=(("key", d), ("value", d), ("h1", 4 * d)),
        states=(
            spec.State("A", ("h1", "key"), "learned"),
            spec.State("B", ("value", "h1"), "positive"),
            spec.State("C", ("key", "h1"), "learned"),
        ),
        retention=spec.Retention(simplex=number(2), bregman=entropy(), at="chunk"),
        algorithm=spec.Algorithm((), anchored=spec.Anchored(16)),
    )
    feeds = (
        MemoryInput("log_g_A", "g", "gate", axes_of(("h1",)), weight="A", log=True),
        MemoryInput("g_B", "g", "gate", axes_of(("value",)), weight="B"),
    )
    rows = InitialValue(sp.Integer(2))
    logs = InitialValue(sp.Integer(2), sp.log(UNKNOWN))
    weights = (
        StateTensor("A", "A", axes_of(("h1", "key")), "learned"),
        StateTensor("B", "B", axes_of(("value", "h1")), "positive", StateKind.WEIGHT, rows),
        StateTensor("S.A", "A", axes_of(("h1", "key")), "zero", StateKind.CARRIED),
        StateTensor("B.anchor", "B", axes_of(("value", "h1")), "weight", StateKind.ANCHOR, rows),
        StateTensor("B.dual", "B", axes_of(("value", "h1")), "positive", StateKind.DUAL, logs),
        StateTensor("C", "C", axes_of(("key", "h1")), "learned"),
    )
    module = write(tmp_path / "m.py", "m", [emit_module(build_module(made), feeds, weights)])
    layer = module.M(width=8, heads=2)
    values, state = fed(layer, x.float()), layer.initial_state(3)["memory"]
    torch.testing.assert_close(values["log_g_A"].exp(), layer.g_A_linear(x.float()).sigmoid())
    torch.testing.assert_close(values["g_B"], layer.g_B_linear(x.float()).sigmoid())
    assert values["log_g_A"].shape == (2, 5, 2, 16) and values["g_B"].shape == (2, 5, 2, 4)
    assert {n: tuple(v.shape[1:]) for n, v in state.items()} == {
        "A": (2, 16, 4), "S.A": (2, 16, 4), "C": (2, 16, 4),
        "B": (2, 4, 16), "B.anchor": (2, 4, 16), "B.dual": (2, 4, 16), "position": (),
    }  # fmt: skip
    torch.testing.assert_close(state["B"].sum(-1), torch.full((3, 2, 4), 2.0))
    torch.testing.assert_close(state["B.dual"].exp(), state["B"])
    torch.testing.assert_close(state["C"][0], layer.C_start.transpose(-1, -2))
    assert torch.equal(state["B.anchor"], state["B"]) and not state["S.A"].any()
    assert state["position"].dtype == torch.int64


def test_pairs_constants_positions_and_windows(tmp_path: Path) -> None:
    P = ("pair",)
    tokens = (
        spec.Token("query", K, None),
        spec.Token("key", (*P, *K), None),
        spec.Token("value", (*P, *V), None),
    )
    gates = (
        gate("eta", op("mul", number(2), op("sigmoid", linear(P), axes=P), axes=P), P),
        gate("rate", op("div", param(("position",), 0.5), spec.Ref("dk", "size")), ("position",)),
        gate("spread_out", op("sigmoid", linear()), K),
    )
    made = replace(
        memory("M", tokens=tokens, gates=gates),
        algorithm=spec.Algorithm((), pairs=3, anchored=spec.Anchored(4), window=(5, number(1))),
    )
    feeds = (
        MemoryInput("query", "query", "token", K),
        MemoryInput("key", "key", "token", (*P, *K)),
        MemoryInput("value", "value", "token", (*P, *V)),
        MemoryInput("eta", "eta", "gate", P),
        MemoryInput("rate", "rate", "position", ("position",)),
        MemoryInput("spread_out", "spread_out", "gate", K),
    )
    feeds = tuple(replace(feed, axes=axes_of(feed.axes)) for feed in feeds)
    text = emit_module(build_module(made), feeds, rules.WEIGHTS, tails=("key", "eta"))
    layer = write(tmp_path / "m.py", "m", [text]).M(width=8, heads=2, dk=3)
    values, state = fed(layer, x.float()), layer.initial_state(2)["memory"]
    shapes = {name: tuple(value.shape) for name, value in values.items()}
    assert shapes == {
        "query": (2, 5, 2, 3), "key": (2, 5, 2, 3, 3), "value": (2, 5, 2, 3, 4),
        "eta": (2, 5, 2, 3), "rate": (2, 4), "spread_out": (2, 5, 2, 3),
    }  # fmt: skip
    torch.testing.assert_close(values["key"].norm(dim=-1), torch.ones(2, 5, 2, 3))
    torch.testing.assert_close(values["rate"], torch.full((2, 4), 0.5 / 3))
    assert state["window.key"].shape == (2, 4, 2, 3, 3)
    assert state["window.eta"].shape == (2, 4, 2, 3)


ACROSS: dict[str, tuple[spec.Expr, Callable[[Tensor, Layer], Tensor]]] = {
    "where": (
        op("where", op("lt", KEY, number(0.1), axes=K), number(2), op("exp", KEY, axes=K), axes=K),
        lambda key, _: torch.where(key < 0.1, 2.0, key.exp()),
    ),
    "both": (
        op("and", op("gt", KEY, number(0), axes=K), op("le", KEY, number(0.5), axes=K), axes=K),
        lambda key, _: ((key > 0) & (key <= 0.5)).to(key.dtype),
    ),
    "clipped": (
        op("min", op("max", KEY, number(-0.1), axes=K), number(0.2), axes=K),
        lambda key, _: key.clamp(-0.1, 0.2),
    ),
    "norms": (
        op("div", KEY, op("add", number(1), op("norm", KEY, over=K, p=sp.Integer(3))), axes=K),
        lambda key, _: key / (1 + key.abs().pow(3).sum(-1, keepdim=True) ** (1 / 3)),
    ),
    "softmax": (op("softmax", KEY, axes=K, over=K), lambda key, _: key.softmax(-1)),
    "layernorm": (
        op("layernorm", KEY, param(K, 1.0), param(K), axes=K, over=K),
        lambda key, m: F.layer_norm(key, (4,), eps=1e-6) * m.g_param + m.g_param_2,
    ),
    "sums": (
        op("sub", op("sum", KEY, over=K), op("mul", op("mean", KEY, over=K), KEY, axes=K), axes=K),
        lambda key, _: key.sum(-1, keepdim=True) - key.mean(-1, keepdim=True) * key,
    ),
    "powers": (
        op("neg", op("pow", op("add", KEY, number(-1), axes=K), number(2), axes=K), axes=K),
        lambda key, _: -((key - 1) ** 2),
    ),
    "differences": (
        op(
            "sub",
            KEY,
            op("sub", KEY, op("div", KEY, op("mul", KEY, KEY, axes=K), axes=K), axes=K),
            axes=K,
        ),
        lambda key, _: 1 / key,
    ),
    "matrix": (
        op(
            "contract",
            op("outer", VALUE, KEY, axes=(*V, *K)),
            op("add", KEY, param(V), axes=(*K, *V)),
            axes=V,
            over=K,
        ),
        lambda key, m: None,
    ),
}


@pytest.mark.parametrize("case", ACROSS)
def test_operations(case: str, tmp_path: Path) -> None:
    expr, wanted = ACROSS[case]
    axes = V if case == "matrix" else K
    feeds = (
        MemoryInput("key", "key", "token", K), MemoryInput("value", "value", "token", V),
        MemoryInput("g", "g", "gate", axes),
    )  # fmt: skip
    layer = build(tmp_path, memory("M", gates=(gate("g", expr, axes),)), feeds)
    values = fed(layer, x)
    key, value = values["key"], values["value"]
    result = wanted(key, layer)
    if case == "matrix":
        shifts = key[..., None, :] + layer.g_param[:, :, None]
        result = torch.einsum("bthv,bthk,bthvk->bthv", value, key, shifts)
    torch.testing.assert_close(values["g"], result)


def test_features_without_heads(tmp_path: Path) -> None:
    """x + param[width] * (shift(x) - x), a convolution of it, its norm; then back to heads."""
    W = ("width",)
    mixed = op("add", X, op("mul", param(W), op("sub", shifted(), X, axes=W), axes=W), axes=W)
    smooth = op("conv", op("silu", mixed, axes=W), axes=W, width=3)
    gates = (
        gate("g", op("sigmoid", op("mul", linear(K, smooth), param(K), axes=K), axes=K), K),
        gate("n", op("norm", X, over=W), ()),
    )
    tokens = (
        spec.Token("query", K, op("normalize", X, axes=W, over=W)),
        spec.Token("key", K, op("conv", linear(K), axes=K, width=2)),
    )
    feeds = (
        MemoryInput("query", "query", "token", K), MemoryInput("key", "key", "token", K),
        MemoryInput("g", "g", "gate", K), MemoryInput("n", "n", "gate", ()),
    )  # fmt: skip
    layer = build(tmp_path, memory("M", tokens=tokens, gates=gates), feeds)
    values = fed(layer, x)

    def back(u: Tensor, lag: int) -> Tensor:
        return torch.cat([torch.zeros_like(u[:, :lag]), u[:, : u.shape[1] - lag]], 1)

    mix = F.silu(x + layer.g_param * (back(x, 1) - x))
    kernel = layer.g_conv.weight
    smoothed = sum(kernel[lag] * back(mix, lag) for lag in range(3))
    wanted = (layer.g_linear(smoothed) * layer.g_param_2).sigmoid()
    torch.testing.assert_close(values["g"], wanted)
    torch.testing.assert_close(values["n"], x.norm(dim=-1)[..., None].expand(2, 5, 2))
    line, kernel = layer.key_linear(x), layer.key_conv.weight
    key = F.normalize(kernel[0] * line + kernel[1] * back(line, 1), dim=-1)
    torch.testing.assert_close(values["key"], key)
    split = F.normalize(F.normalize(x, dim=-1).unflatten(-1, (2, 4)), dim=-1)
    torch.testing.assert_close(values["query"], split)
    whole, _ = fed(layer, x), None
    past = ConvState(layer.initial_state(2))
    first = layer.feeds(x[:, :2], past)
    second = layer.feeds(x[:, 2:], ConvState(past.tails))
    for name in ("g", "key"):
        torch.testing.assert_close(torch.cat([first[name], second[name]], 1), whole[name])


def test_names_that_python_needs(tmp_path: Path) -> None:
    tokens = (spec.Token("query", K, None), spec.Token("torch", K, op("neg", KEY, axes=K)))
    tokens += (spec.Token("key", K, None),)
    gates = (
        gate("state", op("sigmoid", linear())),
        gate("F", op("tanh", spec.Ref("state", "gate"))),
    )
    feeds = (
        MemoryInput("torch", "torch", "token", K), MemoryInput("state", "state", "gate", ()),
        MemoryInput("F", "F", "gate", ()),
    )  # fmt: skip
    layer = build(tmp_path, memory("M", tokens=tokens, gates=gates), feeds)
    values = fed(layer, x)
    torch.testing.assert_close(values["F"], values["state"].tanh())
    assert set(values) == {"torch", "state", "F"}
