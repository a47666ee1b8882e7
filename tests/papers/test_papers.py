"""The shipped specs mean what the papers say: oracle against published loops, float64."""

from __future__ import annotations

import ast
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from miras_dsl.check import read
from miras_dsl.runtime.judge.case_data import data
from miras_dsl.runtime.judge.cases import Case, parameters
from miras_dsl.runtime.judge.oracle import run as oracle
from miras_dsl.source import Source
from miras_dsl.spec import MemorySpec
from tests.papers import layers, loops

One = dict[str, Tensor]
"""The inputs of one sequence and head, and its initial weights."""


def matrix(loop: Callable[..., Tensor], *names: str) -> Callable[[One], Tensor]:
    return lambda x: loop(*(x[name] for name in names))


def weights(x: One) -> One:
    names = ("W1", "b1", "W2", "b2", "norm_weight", "norm_shift")
    return {name: x[name] for name in names if name in x}


def pairs(x: One) -> dict[str, tuple[Tensor, Tensor]]:
    return {w: (x[f"alpha.{w}"], x[f"eta.{w}"]) for w in ("W1", "W2")}


def ttt(x: One) -> Tensor:
    scale = torch.clamp(1 / torch.arange(1, 17).to(x["_1"]) + x["_1"], min=0)
    return loops.ttt_mlp(x["query"], x["key"], x["value"], x["eta"], scale, weights(x), 16)


def titans(x: One) -> Tensor:
    given = [x[name] for name in ("query", "key", "value", "alpha", "eta", "mu")]
    return loops.titans(*given, weights(x), 64)


def yaad(sweeps: int) -> Callable[[One], Tensor]:
    def run(x: One) -> Tensor:
        given = [x[name] for name in ("query", "key", "value", "delta")]
        return loops.yaad(*given, pairs(x), weights(x), 64, sweeps)

    return run


def memora(x: One) -> Tensor:
    fixed = {name: x[name] for name in ("norm_weight", "norm_shift")}
    log = {name: x[f"{name}.dual"] for name in ("W1", "W2")}
    return loops.memora(x["query"], x["key"], x["value"], pairs(x), log, fixed, 64)


QKV = ("query", "key", "value")
PAPERS: dict[tuple[str, str], Callable[[One], Tensor]] = {
    ("linear_attention", "LinearAttention"): matrix(loops.linear_attention, *QKV),
    ("gla", "GLA"): matrix(loops.gla, *QKV, "alpha"),
    ("retnet", "RetNet"): matrix(loops.retnet, *QKV, "alpha"),
    ("lightning", "Lightning"): matrix(loops.retnet, *QKV, "alpha"),
    ("deltanet", "DeltaNet"): matrix(loops.deltanet, *QKV, "eta"),
    ("gated_deltanet", "GatedDeltaNet"): matrix(loops.gated_deltanet, *QKV, "alpha", "eta"),
    ("rwkv7", "RWKV7"): matrix(loops.rwkv7, "query", "w", "insert", "value", "removal", "a", "_1"),
    ("delta_product", "DeltaProduct"): matrix(loops.delta_product, *QKV, "alpha", "eta"),
    ("hgrn", "HGRN"): matrix(loops.hgrn, "value", "alpha"),
    ("logcosh_momentum", "LogCoshMomentum"): matrix(
        loops.logcosh_momentum, *QKV, "alpha", "eta", "mu"
    ),
    ("ttt_mlp", "TTTMLP"): ttt,
    ("titans", "Titans"): titans,
    ("yaad", "Yaad"): yaad(1),
    ("yaad", "YaadSweeps"): yaad(3),
    ("memora", "Memora"): memora,
}


def shipped(file: str, name: str) -> MemorySpec:
    text = (resources.files("miras_dsl.specs") / f"{file}.mem").read_text(encoding="utf-8")
    return read(Source(f"{file}.mem", text)).memories[name]


@pytest.mark.parametrize(("file", "name"), PAPERS)
def test_a_shipped_spec_is_its_paper(file: str, name: str) -> None:
    """Over a block boundary, from an initial state where the weights are learned."""
    spec = shipped(file, name)
    case = Case("paper", (70,), (6, 5), keys=0.5)
    drawn, sizes = data(spec, case, torch.float64), parameters(spec, case)
    inputs = dict(drawn.inputs)
    if name == "HGRN":
        inputs["eta"] = 1 - inputs["alpha"]
    y, _ = oracle.run(spec, sizes, inputs, drawn.state)
    for head in range(y.shape[2]):
        lasting = {n for n, *_ in spec.network.params}
        lasting |= {gate.name for gate in spec.gates if "position" in gate.axes}
        one = {n: t[head] if n in lasting else t[0, :, head] for n, t in inputs.items()}
        one |= {n: t[0, head] for n, t in (drawn.state or {}).items() if t.dim() > 1}
        expected = PAPERS[file, name](one)
        assert torch.allclose(y[0, :, head], expected, rtol=1e-10, atol=1e-10)
        assert float(expected.std()) > 1e-3


@pytest.mark.parametrize("module", [loops, layers], ids=["loops", "layers"])
def test_loops_are_short_and_know_nothing_of_the_project(module: ModuleType) -> None:
    path = Path(str(module.__file__))
    for node in ast.walk(tree := ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= {"math", "torch"}
        if isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            outside = str(node.module).split(".")[0] in ("__future__", "collections", "torch")
            assert not node.level and (outside or names == {"tests.papers.loops"})
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            body = node.body[0]
            assert isinstance(body, ast.Expr), f"{node.name} names no source"
            assert node.end_lineno is not None and body.end_lineno is not None
            assert node.end_lineno - body.end_lineno <= 25, node.name


def test_every_shipped_memory_has_its_paper() -> None:
    folder = resources.files("miras_dsl.specs")
    files = [entry.name for entry in folder.iterdir() if entry.name.endswith(".mem")]
    found = {
        (file.removesuffix(".mem"), name)
        for file in files
        for name in read(Source(file, (folder / file).read_text(encoding="utf-8"))).memories
    }
    assert found == set(PAPERS)
