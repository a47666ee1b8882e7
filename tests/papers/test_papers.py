"""The shipped specs mean what the papers say: oracle against published loops, float64."""

from __future__ import annotations

import ast
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest
import torch
from torch import Tensor

from miras_dsl.check import read
from miras_dsl.runtime.judge.case_data import data
from miras_dsl.runtime.judge.cases import Case, parameters
from miras_dsl.runtime.judge.oracle import run as oracle
from miras_dsl.source import Source
from miras_dsl.spec import MemorySpec
from tests.papers.loops import additive, deep, delta, retained, robust, several_states

FOLDER = Path(__file__).parent
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
    return deep.ttt_mlp(x["query"], x["key"], x["value"], x["eta"], scale, weights(x), 16)


def titans(x: One) -> Tensor:
    given = [x[name] for name in ("query", "key", "value", "alpha", "eta", "mu")]
    return deep.titans(*given, weights(x), 64)


def yaad(sweeps: int) -> Callable[[One], Tensor]:
    def run(x: One) -> Tensor:
        given = [x[name] for name in ("query", "key", "value", "delta")]
        return deep.yaad(*given, pairs(x), weights(x), 64, sweeps)

    return run


def memora(x: One) -> Tensor:
    fixed = {name: x[name] for name in ("norm_weight", "norm_shift")}
    log = {name: x[f"{name}.dual"] for name in ("W1", "W2")}
    return deep.memora(x["query"], x["key"], x["value"], pairs(x), log, fixed, 64)


def moneta(printed: bool) -> Callable[[One], Tensor]:
    def run(x: One) -> Tensor:
        fixed = {name: x[name] for name in ("norm_weight", "norm_shift")}
        held = {name: x[f"{name}.dual"] for name in ("W1", "W2")}
        given = [x[name] for name in QKV]
        return deep.moneta(*given, pairs(x), held, fixed, 64, printed)

    return run


def ttt_linear(x: One) -> Tensor:
    scale = torch.clamp(1 / torch.arange(1, 17).to(x["_1"]) + x["_1"], min=0)
    given = [x[name] for name in (*QKV, "eta")]
    return deep.ttt_linear(*given, scale, weights(x), 16)


def atlas(x: One) -> Tensor:
    gates = tuple(x[name] for name in ("alpha", "eta", "mu", "gamma"))
    return deep.atlas(*(x[name] for name in QKV), gates, weights(x), 16)


def lru(x: One) -> Tensor:
    u, rate = torch.complex(x["value"], x["shadow"]), torch.polar(x["r"], x["angle"])
    c = torch.complex(x["_1"], x["_2"])
    return several_states.lru(u, rate, x["gain"], c, x["_3"])


def mamba3(x: One) -> Tensor:
    c = torch.complex(x["query"], x["query_im"])
    b = torch.complex(x["key"], -x["key_im"])
    rate = torch.polar(x["alpha"][:, None].expand(x["angle"].shape), x["angle"])
    return several_states.mamba3(c, b, x["value"], rate, x["dt"], x["share"], x["_1"])


QKV = ("query", "key", "value")
GATED = (*QKV, "alpha", "eta")
HUBER = (*GATED, "delta")
PAPERS: dict[tuple[str, str], Callable[[One], Tensor]] = {
    ("linear_attention", "LinearAttention"): matrix(additive.linear_attention, *QKV),
    ("gla", "GLA"): matrix(additive.gla, *QKV, "alpha"),
    ("retnet", "RetNet"): matrix(additive.retnet, *QKV, "alpha"),
    ("lightning", "Lightning"): matrix(additive.retnet, *QKV, "alpha"),
    ("hgrn", "HGRN"): matrix(additive.hgrn, "value", "alpha"),
    ("hgrn2", "HGRN2"): matrix(additive.hgrn2, "query", "value", "alpha"),
    ("mamba2", "Mamba2"): matrix(additive.mamba2, *QKV, "alpha", "dt", "_1"),
    ("rwkv6", "RWKV6"): matrix(additive.rwkv6, *QKV, "w", "_1"),
    ("min_gru", "MinGRU"): matrix(additive.min_gru, "value", "eta"),
    ("swla", "SWLA"): matrix(additive.swla, *GATED, "gamma"),
    ("deltanet", "DeltaNet"): matrix(delta.deltanet, *QKV, "eta"),
    ("gated_deltanet", "GatedDeltaNet"): matrix(delta.gated_deltanet, *GATED),
    ("delta_product", "DeltaProduct"): matrix(delta.delta_product, *GATED),
    ("rwkv7", "RWKV7"): matrix(delta.rwkv7, "query", "w", "insert", "value", "removal", "a", "_1"),
    ("kda", "KDA"): matrix(delta.kda, *GATED),
    ("comba", "Comba"): matrix(delta.comba, "_2", "key", "value", "alpha", "eta", "_1"),
    ("gdn2", "GatedDeltaNet2"): matrix(delta.gdn2, *QKV, "alpha", "erase", "store"),
    ("mdn", "MomentumDeltaNet"): matrix(
        delta.mdn, "_1", "key", "value", "alpha", "mu", "eta", "beta"
    ),
    ("q_delta", "QDelta"): matrix(delta.q_delta, *GATED, "share"),
    ("longhorn", "Longhorn"): matrix(delta.longhorn, *QKV, "eta"),
    ("omega_net", "OmegaNet"): matrix(delta.omega_net, *GATED, "gamma"),
    ("titans_linear", "TitansLinear"): matrix(delta.titans_linear, *GATED, "mu"),
    ("channel_momentum", "ChannelMomentum"): matrix(delta.channel_momentum, *GATED, "mu"),
    ("logcosh_momentum", "LogCoshMomentum"): matrix(robust.logcosh_momentum, *GATED, "mu"),
    ("value_shift", "ValueShift"): matrix(robust.value_shift, *HUBER),
    ("absolute_error", "AbsoluteError"): matrix(robust.absolute_error, *GATED),
    ("cubed_error", "CubedError"): matrix(robust.cubed_error, *GATED),
    ("huber_channels", "HuberChannels"): matrix(robust.huber_channels, *HUBER),
    ("huber_length", "HuberLength"): matrix(robust.huber_length, *HUBER),
    ("heavy_tails", "HeavyTails"): matrix(robust.heavy_tails, *HUBER, "trust"),
    ("erase_and_hold", "EraseAndHold"): matrix(robust.erase_and_hold, *QKV, "alpha", "b", "eta"),
    ("elastic_net", "ElasticNet"): matrix(retained.elastic_net, *QKV, "beta", "gamma", "eta"),
    ("soft_threshold", "SoftThreshold"): matrix(
        retained.soft_threshold, *QKV, "alpha", "gamma", "eta"
    ),
    ("bounded_memory", "BoundedMemory"): matrix(retained.bounded_memory, *GATED),
    ("dfw", "DFW"): matrix(several_states.decaying_fast_weights, *QKV, "beta", "alpha"),
    ("gsa", "GSA"): matrix(several_states.slots, *QKV, "alpha"),
    ("raven", "Raven"): matrix(several_states.slots, *QKV, "alpha"),
    ("mlstm", "MLSTM"): matrix(several_states.mlstm, *QKV, "input", "forget"),
    ("lru", "LRU"): lru,
    ("mamba3", "Mamba3"): mamba3,
    ("preconditioned_gdn", "PreconditionedGDN"): matrix(
        several_states.preconditioned_gdn, *QKV, "alpha", "fade", "eta", "rate", "usual"
    ),
    ("m2rnn", "M2RNN"): lambda x: several_states.m2rnn(
        *(x[name] for name in (*QKV, "forget")), x["U"].T, x["H"].T
    ),
    ("normalised_attention", "NormalisedAttention"): matrix(
        several_states.normalised_attention, *QKV
    ),
    ("ttt_linear", "TTTLinear"): ttt_linear,
    ("ttt_mlp", "TTTMLP"): ttt,
    ("titans", "Titans"): titans,
    ("atlas", "Atlas"): atlas,
    ("yaad", "Yaad"): yaad(1),
    ("yaad", "YaadSweeps"): yaad(3),
    ("moneta", "Moneta"): moneta(printed=False),
    ("moneta_printed", "MonetaPrinted"): moneta(printed=True),
    ("memora", "Memora"): memora,
}
TIED = {
    "HGRN": ("eta", "alpha"),
    "HGRN2": ("key", "alpha"),
    "MinGRU": ("alpha", "eta"),
    "GSA": ("slot", "alpha"),
    "Raven": ("slot", "alpha"),
}
"""What these specs define as 1 less a gate: the first by the second."""
LATE = {"Mamba3": {"last_key": "key", "last_im": "key_im", "last_value": "value"}}
"""What these specs define as another token's value one token ago."""


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
    if name in TIED:
        made, of = TIED[name]
        inputs[made] = 1 - inputs[of]
    for made, of in LATE.get(name, {}).items():
        inputs[made] = inputs[of].roll(1, 1)
        inputs[made][:, 0] = 0
    y, _ = oracle.run(spec, sizes, inputs, drawn.state)
    for head in range(y.shape[2]):
        lasting = {n for n, *_ in spec.network.params}
        lasting |= {gate.name for gate in spec.gates if "position" in gate.axes}
        one = {n: t[head] if n in lasting else t[0, :, head] for n, t in inputs.items()}
        one |= {n: t[0, head] for n, t in (drawn.state or {}).items() if t.dim() > 1}
        expected = PAPERS[file, name](one)
        assert torch.allclose(y[0, :, head], expected, rtol=1e-10, atol=1e-10)
        assert float(expected.std()) > 1e-3


@pytest.mark.parametrize(
    "path",
    [*FOLDER.glob("loops/*.py"), *FOLDER.glob("layers/*.py")],
    ids=lambda p: f"{p.parent.name}/{p.name}",
)
def test_loops_are_short_and_know_nothing_of_the_project(path: Path) -> None:
    for node in ast.walk(tree := ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= {"math", "torch"}
        if isinstance(node, ast.ImportFrom):
            outside = str(node.module).split(".")[0] in ("__future__", "collections", "torch")
            ours = str(node.module).startswith("tests.papers")
            assert not node.level and (outside or ours)
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
