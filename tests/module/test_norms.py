"""Norms and roots of residuals of any size: answers and gradients in float32 against float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from miras_dsl.check import read
from miras_dsl.codegen.pipeline import compile_memory
from miras_dsl.runtime.load.loader import implementation
from miras_dsl.source import Source
from miras_dsl.spec import MemorySpec

BIASES = (
    "huber_norm(0.5)", "norm(r)", "norm(r, 3)", "norm(r, 1.5)", "norm(r, 4)^2", "norm(r)^1.5",
    "norm(r) * norm(r, 3)", "log(1 + norm(r))", "sqrt(sum(r^2))", "sum(r^2)^0.5", "sqrt(dot(r, r))",
    "sqrt(mean(r^2))", "sum(abs(r)^3)^(1/3)", "sum(r^4)^0.25", "sqrt(1 + sum(r^2))",
    "sqrt(2 + dot(r, r))", "sum(sqrt(r^2))", "sum(sqrt(r^2 + 1))", "sum(sqrt(2 + (2 * r)^2))",
    "sum(abs(r)^1.5)", "sum((r^2)^0.75)",
)  # fmt: skip
SIZES = (0.0, 1e-30, 1e-20, 1e-14, 1e-8, 1.0, 1e8, 1e20, 1e30)
LARGEST = float(torch.finfo(torch.float32).max)


def memory(bias: str) -> MemorySpec:
    text = f"""memory U(dk, dv) {{
  architecture W: matrix[value, key]
  bias         {bias}
  retention    none
  algorithm    gd(eta), exact
  order        predict, write, read
  gates        {{ eta = sigmoid(linear(x)) }}
}}
"""
    return read(Source("u.mem", text)).memories["U"]


def ran(spec: MemorySpec, dtype: torch.dtype, size: float, tokens: int) -> dict[str, Tensor]:
    """The answers and all gradients, for values of a size; the first residual is minus the value."""
    run = implementation(spec, {"dk": 3, "dv": 3})
    random = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, tokens, 1, 3, generator=random, dtype=torch.float64) for _ in range(3)
    )
    key = key / key.norm(dim=-1, keepdim=True)
    eta = torch.full((1, tokens, 1), 0.3, dtype=torch.float64)
    given = {"query": query, "key": key, "value": value * size, "eta": eta}
    leaves = {n: x.float().to(dtype).requires_grad_() for n, x in given.items()}
    y, _ = run(leaves, None, None)
    total = (y * torch.linspace(-1, 1, y.numel(), dtype=dtype).view_as(y)).sum()
    slopes = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    found = dict(zip(leaves, slopes, strict=True))
    return {"y": y.detach()} | {n: x for n, x in found.items() if x is not None}


@pytest.mark.parametrize("bias", BIASES)
def test_norms_of_any_size(bias: str) -> None:
    spec = memory(bias)
    for size in SIZES:
        # Steps of a bias with a slope of 1 would leave a tiny residual at once.
        tokens = 1 if size < 1e-7 else 4
        exact = ran(spec, torch.float64, size, tokens)
        for name, found in ran(spec, torch.float32, size, tokens).items():
            largest = float(exact[name].abs().max())
            if largest < LARGEST:
                assert found.isfinite().all(), f"{name} at {size}"
                error = float((found.double() - exact[name]).abs().max())
                assert error <= 1e-3 * largest + 1e-36, f"{name} at {size}: {error} of {largest}"


def test_a_norm_that_is_only_compared_has_no_scale() -> None:
    compared = compile_memory(memory("where(norm(r) <= 1, sum(r^2) / 2, sum(abs(r)))")).text
    assert "ops.fixed" not in compared
    assert "ops.fixed" in compile_memory(memory("norm(r)")).text
