"""Gates: the numbers of a formula and of its logarithm, and where learned constants start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from miras_dsl import spec
from miras_dsl.codegen.emit.layer.modules import emit_module
from miras_dsl.codegen.model.build_module import build_module
from miras_dsl.codegen.model.types import MemoryInput
from miras_dsl.runtime.ops.tensor_ops import LOG_ZERO
from tests.module import rules
from tests.module.formula_layers import Layer, build, fed, x
from tests.module.generated_file import write
from tests.module.rules import decay, gate, linear, memory, number, op, param

GATES: dict[str, tuple[spec.Expr, Callable[[Layer], Tensor]]] = {
    "decay": (
        decay(),
        lambda m: torch.exp(
            -m.g_param.exp() * F.softplus(m.g_linear(x) + m.g_param_2),
        ),
    ),
    "sigmoid": (op("sigmoid", linear()), lambda m: m.g_linear(x).sigmoid()),
    "complement": (
        op("sub", number(1), op("sigmoid", linear())),
        lambda m: 1 - m.g_linear(x).sigmoid(),
    ),
    "root": (
        op("pow", op("sigmoid", linear(rank=3)), number(0.0625)),
        lambda m: m.g_linear(x).sigmoid() ** 0.0625,
    ),
    "product": (
        op("mul", number(0.5), op("mul", op("sigmoid", linear()), op("softplus", param()))),
        lambda m: 0.5 * m.g_linear(x).sigmoid() * F.softplus(m.g_param),
    ),
    "quotient": (
        op("div", op("exp", linear()), op("add", number(1), op("exp", linear()))),
        lambda m: m.g_linear(x).exp() / (1 + m.g_linear_2(x).exp()),
    ),
    "squared": (op("sqrt", op("sigmoid", linear())), lambda m: m.g_linear(x).sigmoid().sqrt()),
    "affine": (
        op("add", number(0.9), op("mul", number(0.1), op("sigmoid", linear(rank=2)))),
        lambda m: 0.9 + 0.1 * m.g_linear(x).sigmoid(),
    ),
    "learned": (op("sigmoid", param()), lambda m: m.g_param.sigmoid().expand(2, 5, 2)),
    "nothing": (number(0), lambda m: torch.zeros(2, 5, 2, dtype=torch.float64)),
    "number": (number(0.25), lambda m: torch.full((2, 5, 2), 0.25, dtype=torch.float64)),
}


@pytest.mark.parametrize("case", GATES)
def test_a_gate_and_its_logarithm(case: str, tmp_path: Path) -> None:
    expr, wanted = GATES[case]
    feeds = (MemoryInput("g", "g", "gate", ()), MemoryInput("log_g", "g", "gate", (), log=True))
    layer = build(tmp_path, memory("M", gates=(gate("g", expr),)), feeds)
    values = fed(layer, x)
    torch.testing.assert_close(values["g"], wanted(layer))
    zero = torch.tensor(LOG_ZERO, dtype=torch.float64)
    logarithm = zero if case == "nothing" else wanted(layer).log()
    torch.testing.assert_close(values["log_g"], logarithm.expand(2, 5, 2))
    parts = {name.split(".")[0] for name, _ in layer.named_parameters() if name.startswith("g_")}
    features = [
        n for n in spec.iter_nodes(expr) if isinstance(n, spec.Apply) and n.op in spec.FEATURE
    ]
    assert len(parts) == len(features), "a gate and its logarithm have the same parameters"


def test_the_logarithm_keeps_its_digits(tmp_path: Path) -> None:
    expr = op("sigmoid", linear())
    layer = build(
        tmp_path,
        memory("M", gates=(gate("g", expr),)),
        (MemoryInput("log_g", "g", "gate", (), log=True),),
    ).float()
    with torch.no_grad():
        layer.g_linear.weight.fill_(1)
    far = torch.zeros(1, 2, 8)
    far[0, 0, 0], far[0, 1, 0] = -200, 20
    log_g = fed(layer, far)["log_g"][0, :, 0]
    torch.testing.assert_close(log_g, torch.tensor([-200.0, -2.0611536e-9]), rtol=1e-5, atol=0)


def test_where_constants_start(tmp_path: Path) -> None:
    gates = (gate("g", decay()), gate("h", op("mul", op("exp", param()), op("sigmoid", linear()))))
    feeds = (MemoryInput("log_g", "g", "gate", (), log=True), MemoryInput("h", "h", "gate", ()))
    module = write(
        tmp_path / "m.py",
        "m",
        [emit_module(build_module(memory("M", gates=gates)), feeds, rules.WEIGHTS)],
    )
    layer = module.M(width=64, heads=64)
    rate, step = layer.g_param.exp(), F.softplus(layer.g_param_2)
    assert 1 <= rate.min() < 4 and 12 < rate.max() <= 16.001
    assert 0.9e-3 < step.min() < 3e-3 and 3e-2 < step.max() < 1.01e-1
    assert not layer.h_param.any(), "only the rate of a decay has a start of its own"
