"""Scalar functions to the last digits, for small and large numbers, in torch and in Triton."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import mpmath
import pytest
import sympy as sp
import torch
from torch.nn import functional

from miras_dsl.codegen.emit.scalar_printer import TORCH, TRITON, print_scalar
from miras_dsl.runtime.ops import tensor_ops
from miras_dsl.scalar.activations import ACTIVATIONS
from miras_dsl.scalar.functions import FUNCTIONS
from tests.kernels.scalar_cases import CASES, POSITIVE, X, points, worst
from tests.kernels.test_interpreter import ROOT

UNITS = 8
"""Relative error in units of eps."""


def test_every_function_that_can_be_printed_is_tried() -> None:
    tried = {part.func for formula, _ in CASES.values() for part in sp.preorder_traversal(formula)}
    assert {*TORCH, *TRITON, *FUNCTIONS, *ACTIVATIONS} <= tried


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_torch_text(name: str, dtype: torch.dtype) -> None:
    x = points(dtype, name in POSITIVE)
    code = print_scalar(CASES[name][0], {X: "x"}, TORCH)
    found = eval(code, {"torch": torch, "ops": tensor_ops, "F": functional, "x": x})
    assert worst(name, x, found) < (UNITS, 0.0), code


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("function", "slope"), [("logcosh", "tanh"), ("softplus", "sigmoid")])
def test_slopes_by_autograd(function: str, slope: str, dtype: torch.dtype) -> None:
    x = points(dtype).requires_grad_()
    (found,) = torch.autograd.grad(getattr(tensor_ops, function)(x).sum(), x)
    assert worst(slope, x.detach(), found) < (UNITS, 0.0)
    nothing = torch.zeros(1, dtype=dtype, requires_grad=True)
    (at_zero,) = torch.autograd.grad(getattr(tensor_ops, function)(nothing).sum(), nothing)
    assert at_zero.item() == float(CASES[slope][1](mpmath.mpf(0)))


def test_triton_text(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.kernels.run_scalars", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert [row["name"] for row in rows] == list(CASES)
    assert [row for row in rows if not row["error"] < UNITS] == []
