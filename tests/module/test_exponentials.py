"""Biases of bounded slope written with exponentials: right numbers at residuals where they overflow."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import miras_dsl as miras
from miras_dsl.check import read, warnings
from miras_dsl.runtime.judge.cases import Case
from miras_dsl.runtime.judge.certificate import certify
from miras_dsl.runtime.load.loader import implementation
from miras_dsl.source import Source
from tests.module.test_norms import memory, ran

STABLE = (
    "log(sum(exp(r)))", "log(sum(cosh(r)))", "log(1 + sum(exp(r)))", "log(mean(exp(r)))",
    "log(mean(cosh(2 * r)))", "log(sum(exp(r)) + sum(exp(-r)))", "log(dot(exp(r), exp(r)))",
    "2 * log(sum(exp(r / 2)))", "log(sum(exp(2 * abs(r))))", "log(sum(exp(value) * cosh(r)))",
    "sum(log(exp(r) + exp(-r)))", "sum(log(1 + exp(r)))", "sum(log(exp(r) + 1))",
    "sum(log(2 * cosh(r)))", "sum(log(exp(2 * r) + exp(-r) + 3))", "sum(log(exp(r) + exp(r / 2)))",
    "sum(log(1 + exp(-abs(r))))", "sum(log(exp(r) / (1 + exp(r))))", "-dot(value, log(softmax(r)))",
    "sum(r * exp(r) / (1 + exp(r)))", "sum(r / (1 + exp(-r)))", "sum(r / (exp(r) + 1))",
    "sum(r * (exp(r) - exp(-r)) / (exp(r) + exp(-r)))", "sum(r * sinh(r) / cosh(r))",
    "sum(r * (1 - exp(-2 * r)) / (1 + exp(-2 * r)))", "sum(r * exp(r) / sum(exp(r)))",
    "sum(1 / cosh(r))", "sum(1 / (1 + exp(r))^2)", "sum((1 + exp(-r))^(-2))",
    "log(sum(exp(r))) * 2 - sum(log(1 + exp(-2 * r)))", "sum(log(cosh(r)))", "sum(sqrt(r^2 + 1))",
    "sum(r^2 / (1 + abs(r)))", "sum(r * tanh(r))",
)  # fmt: skip
UNREAD = (
    "sum(log(1 + r^2 + exp(r)))", "sum(tanh(exp(r)))", "sum(r / (1 + r^2 + exp(r)))",
    "sum((r^2 + cosh(r))^(-1))", "sum(log(1 + abs(sinh(r))))",
)  # fmt: skip


@pytest.mark.parametrize("bias", STABLE)
def test_large_residuals(bias: str) -> None:
    spec = memory(bias)
    for size in (0.0, 0.01, 1.0, 5.0, 100.0, 1000.0):
        exact = ran(spec, torch.float64, size, 3)
        for name, found in ran(spec, torch.float32, size, 3).items():
            assert exact[name].isfinite().all() and found.isfinite().all(), f"{name} at {size}"
            error = (found.double() - exact[name]).abs().max()
            rounding = 1e-7 * max(size, 10)
            assert error <= 2e-3 * exact[name].abs().max() + rounding, f"{name} at {size}"


@pytest.mark.parametrize("bias", STABLE)
def test_a_stable_form_is_the_formula(bias: str) -> None:
    """At small residuals, where nothing overflows, the judge evaluates the formula as it is written."""
    spec = memory(bias)
    cases = (Case("five", (5,), (3, 2), keys=0.5, warm=True),)
    proof = certify(spec, partial(implementation, spec), dtype=torch.float64, cases=cases)
    assert proof.green, str(proof)


@pytest.mark.parametrize("bias", STABLE)
def test_no_warning_of_a_stable_form(bias: str) -> None:
    assert not {"M0803", "M0805"} & codes(bias)


@pytest.mark.parametrize("bias", UNREAD)
def test_a_warning_of_what_cannot_be_read(bias: str) -> None:
    assert "M0805" in codes(bias)


def codes(bias: str) -> set[str]:
    text = (
        f"memory U(dk, dv) {{\n architecture W: matrix[value, key]\n bias {bias}\n retention none\n"
        " algorithm gd(eta), exact\n order predict, write, read\n gates { eta = sigmoid(linear(x)) }\n}\n"
    )
    return {found.code for found in warnings(read(Source("u.mem", text)))}


@pytest.mark.parametrize(
    "gate", ["exp(z) / (1 + exp(z))", "1 / (1 + exp(-z))", "log(1 + exp(z)) / 1000"]
)
def test_gates_written_with_exponentials(gate: str) -> None:
    text = f"""memory U(d) {{
  architecture W: matrix[value, key]
  bias         l2
  retention    none
  algorithm    gd(eta), exact
  order        predict, write, read
  gates        {{ z = 300 * tanh(linear(x))   eta = {gate} }}
}}
"""
    torch.manual_seed(0)
    layer = miras.load(text).U(width=8, heads=2)
    x = 30 * torch.randn(1, 9, 8)
    y, _ = layer(x)
    y.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in layer.parameters())
