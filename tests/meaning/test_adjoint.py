"""The derived adjoint of a program equals autograd of its token loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from miras_dsl.codegen.passes.autodiff import adjoint
from miras_dsl.ir import Role
from tests.meaning.cases import CASES, Case, values_of
from tests.meaning.run_program import run_adjoint, run_program


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_adjoint_equals_autograd(case: Case) -> None:
    values = values_of(case, seed=2)
    rng = np.random.default_rng(3)
    leaves = {n: torch.tensor(x, requires_grad=True) for n, x in values.items()}
    results = case.loop(leaves, case.chunk)
    d = {n: rng.standard_normal(x.shape) for n, x in results.items()}
    loss = sum((x * torch.tensor(d[n])).sum() for n, x in results.items())
    wanted = torch.autograd.grad(loss, list(leaves.values()))

    entries = run_program(case.program, values, case.chunk).entries
    found = run_adjoint(adjoint(case.program), values, entries, d, case.chunk)
    assert found.keys() == leaves.keys()
    for (name, x), gradient in zip(leaves.items(), wanted, strict=True):
        assert found[name].shape == x.shape
        np.testing.assert_allclose(
            found[name], gradient.numpy(), rtol=1e-8, atol=1e-8, err_msg=f"gradient of {name}"
        )
        assert gradient.abs().max() > 1e-3, f"{name} is not tested"


def test_an_adjoint_carries_cotangents_and_reads_saved_states() -> None:
    program = next(case.program for case in CASES if case.name == "momentum, l2, exact")
    back = adjoint(program)
    assert back.reverse and not program.reverse
    assert [x.name for x, _ in back.carried] == ["d_S", "d_N"]
    carried = {x for x, _ in back.carried}
    assert [x.name for x in back.inputs if x.role is Role.STATE and x not in carried] == ["S", "N"]
    assert [name for name, _ in back] == [f"d_{x.name}" for x in program.inputs]
