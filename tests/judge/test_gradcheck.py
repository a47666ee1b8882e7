"""The oracle's gradients against finite differences, one number after the other.

Every shipped memory, and rules beyond them (networks with shifts, layer norm, gates, links, sweeps,
windows, momentum), at two or three channels and three tokens.  Learning along the way is second
order here: these are gradients through gradients.
"""

from __future__ import annotations

from importlib import resources

import pytest
import torch
from torch import Tensor

from miras_dsl.check import read
from miras_dsl.runtime.judge.case_data import data
from miras_dsl.runtime.judge.cases import Case, parameters
from miras_dsl.runtime.judge.oracle.run import run
from miras_dsl.source import Source
from miras_dsl.spec import MemorySpec
from tests.shipped_specs import spanning_case


def drawn_as(spec: MemorySpec) -> Case:
    """Three tokens after some; one where the oracle solves an equation for every number."""
    solved = spec.algorithm.implicit or (spec.retention.bregman and not spec.retention.simplex)
    return Case("tiny", (1 if solved else 3,), (2, 2), warm=True, keys=0.5, gates=0.0)


GATES = """alpha = 0.5 + 0.4 * sigmoid(linear(x))   eta = 0.1 + 0.2 * sigmoid(linear(x))
                 mu = sigmoid(linear(x)) / 2"""


def network(architecture: str, bias: str, retention: str, algorithm: str, order: str) -> str:
    return f"""
memory Net(d) {{
  architecture {architecture}
  bias         {bias}
  retention    {retention}
  algorithm    {algorithm}
  order        {order}
  gates        {{ {GATES} }}
}}
"""


LATE = "predict, decay, write, read"
FIRST = "decay, predict, write, read"
MADE = {
    "mlp, shifts, layer norm": network(
        "mlp(hidden = 2, activation = gelu, bias, residual, layernorm)", "l2", "l2(alpha)",
        "gd(eta), exact", LATE),
    "mlp of three": network(
        "mlp(hidden = 2, activation = tanh, depth = 3)", "logcosh", "l2(alpha)", "gd(eta), exact",
        FIRST),
    "mlp, sweeps, momentum": network(
        "mlp(hidden = 2, activation = silu, residual)", "logcosh", "l2(alpha)",
        "momentum(eta, mu), anchored(2, sweeps = 2)", LATE),
    "mlp, links at blocks": network(
        "mlp(hidden = 2, activation = gelu_tanh, residual)", "l2",
        "decay alpha  link a / (1 + a^2) at chunk", "gd(eta), anchored(2)", LATE),
    "glu": network("glu(2, act = silu)", "l2", "l2(alpha)", "gd(eta), exact", LATE),
    "glu, anchored": network("glu(2, act = gelu)", "logcosh", "none", "gd(eta), anchored(2)",
                             "predict, write, read"),
    "a choice": network(
        "W: matrix[value, key]", "huber(0.4)", "l2(alpha)", "gd(eta), exact", FIRST),
    "a choice by length": network(
        "W: matrix[value, key]", "huber_norm(0.4)", "l2(alpha)", "momentum(eta, mu), exact", FIRST),
    "a shifted value": network(
        "W: matrix[value, key]", "value_shift(0.3)", "l2(alpha)", "gd(eta), exact", FIRST),
    "a power": network("W: matrix[value, key]", "lp(3)", "l2(alpha)", "gd(eta), exact", LATE),
    "a given write": network(
        "W: matrix[value, key]", "lp_smooth(3)", "l2(alpha)", "gd(eta), exact", LATE),
    "a link of a norm": network(
        "W: matrix[value, key]", "l2", "lq(alpha, 4) at token", "gd(eta), exact", FIRST),
    "a bounded weight": network(
        "W: matrix[value, key]", "l2", "bounded(alpha, 2) at token", "gd(eta), exact", FIRST),
    "a potential without a formula": network(
        "W: matrix[value, key]", "l2", "decay alpha  bregman w^4 / 4 + w^2 / 2 at token",
        "gd(eta), exact", FIRST),
    "a window": network(
        "W: matrix[value, key]", "logcosh", "l2(alpha)", "gd(eta), window(2, mu), exact", LATE),
    "steps": network("W: matrix[value, key]", "logcosh", "l2(alpha)", "gd(eta), steps(2), exact",
                     FIRST),
    "an implicit step": network(
        "W: matrix[value, key]", "logcosh", "l2(alpha)", "gd(eta), implicit, exact", FIRST),
    "an orthogonal factor": network(
        "W: matrix[value, key]", "l2", "l2(alpha)", "muon(eta, mu), exact", LATE),
    "a vector": network("h: vector[d]", "logcosh", "l2(alpha)", "momentum(eta, mu), exact", FIRST),
}  # fmt: skip


def shipped() -> dict[str, MemorySpec]:
    """Every shipped memory; a hidden layer is two wide instead of `4 * d`, a block two tokens long
    and no more than two sweeps deep."""
    found: dict[str, MemorySpec] = {}
    folder = resources.files("miras_dsl.specs")
    for path in sorted(folder.iterdir(), key=lambda p: p.name):
        if path.name.endswith(".mem"):
            text = path.read_text(encoding="utf-8").replace("hidden = 4 * d", "hidden = 2")
            text = text.replace("anchored(64", "anchored(2").replace("anchored(16", "anchored(2")
            text = text.replace("sweeps = 3", "sweeps = 2")
            found |= read(Source(path.name, text)).memories
    return found


def made(name: str) -> MemorySpec:
    (spec,) = read(Source("made.mem", MADE[name])).memories.values()
    return spec


SPECS = shipped() | {name: made(name) for name in MADE}


@pytest.mark.parametrize("name", [*MADE, *(spanning_case(name, [name]) for name in shipped())])
def test_every_slope_is_the_limit_of_differences(name: str) -> None:
    spec = SPECS[name]
    drawn, sizes = (
        data(spec, drawn_as(spec), torch.float64, seed=1),
        parameters(spec, drawn_as(spec)),
    )
    given = {n: one_head(n, x, spec) for n, x in drawn.inputs.items()}
    state = {n: x if x.dim() == 1 else first_of(n, x) for n, x in (drawn.state or {}).items()}
    names = [*given, *(f"state {n}" for n, x in state.items() if x.is_floating_point())]
    points = [*given.values(), *(x for x in state.values() if x.is_floating_point())]
    fixed = {n: x for n, x in state.items() if not x.is_floating_point()}

    def call(*tensors: Tensor) -> tuple[Tensor, ...]:
        held = dict(zip(names, tensors, strict=True))
        weights = {n.removeprefix("state "): x for n, x in held.items() if n.startswith("state ")}
        leaves = {n: x for n, x in held.items() if not n.startswith("state ")}
        y, end = run(spec, sizes, leaves, weights | fixed)
        return (y, *(t for t in end.values() if t.is_floating_point()))

    points = [x.detach().clone().requires_grad_() for x in points]
    assert torch.autograd.gradcheck(
        call, points, eps=1e-6, atol=2e-6, rtol=1e-4, fast_mode=False, check_undefined_grad=False
    )


def first_of(name: str, x: Tensor) -> Tensor:
    """The first head of a state; a window has its tokens before its heads."""
    return x[:, :, :1] if name.startswith("window.") else x[:, :1]


def one_head(name: str, x: Tensor, spec: MemorySpec) -> Tensor:
    """The numbers of the first head."""
    lasting = {n for n, *_ in spec.network.params}
    lasting |= {gate.name for gate in spec.gates if "position" in gate.axes}
    return x[:1] if name in lasting else x[:, :, :1]
