"""Chunk forms in the interpreter equal their token loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from miras_dsl.ir import Contract, I, is_token_axis
from tests.meaning import forms
from tests.meaning.cases import CASES, Case, values_of
from tests.meaning.run_program import run_program


def reference(case: Case, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    found = case.loop({n: torch.tensor(x) for n, x in values.items()}, case.chunk)
    return {n: x.detach().numpy() for n, x in found.items()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_chunks_equal_the_token_loop(case: Case) -> None:
    values = values_of(case)
    wanted = reference(case, values)
    found = run_program(case.program, values, case.chunk).results
    assert found.keys() == wanted.keys()
    for name, x in wanted.items():
        assert found[name].shape == x.shape
        np.testing.assert_allclose(found[name], x, rtol=1e-9, atol=1e-9, err_msg=name)
        assert np.abs(x).max() > 1e-3


EXACT_FORMS = [
    case
    for case in CASES
    if not any(word in case.name for word in ("window", "link", "mlp", "glu", "sweeps", "anchored"))
    and "chunk" not in case.name
]


@pytest.mark.parametrize("case", EXACT_FORMS, ids=lambda case: case.name)
def test_an_exact_form_does_not_see_the_chunk_length(case: Case) -> None:
    values = values_of(case, seed=1)
    first, second = (run_program(case.program, values, chunk).results for chunk in (3, 16))
    for name, x in first.items():
        np.testing.assert_allclose(second[name], x, rtol=1e-9, atol=1e-9)


def test_split_delta_leaves_only_the_state_in_the_loop() -> None:
    """E = T V - (T (c K)) S^T: of all nodes only the state's recurrence waits for the state."""
    parts = forms.delta(True, True).parts()
    loop = [node for node, part in parts.items() if part == "loop"]
    products = [node for node in loop if isinstance(node, Contract)]
    # S itself, W S^T, T V - W S^T, times the weights, (…)^T K, b_C S, their sum
    assert len(loop) == 7
    assert len(products) == 2
    assert not any({axis for axis in node.axes if is_token_axis(axis)} - {I} for node in loop)
    after = [node for node, part in parts.items() if part == "after"]
    assert sum(isinstance(node, Contract) for node in after) == 2
    before = [node for node, part in parts.items() if part == "before"]
    assert sum(isinstance(node, Contract) for node in before) == 4


def test_whole_delta_solves_in_the_loop() -> None:
    loop = [n for n, part in forms.delta(True, False).parts().items() if part == "loop"]
    assert sum(isinstance(node, Contract) for node in loop) == 3


def test_a_nonlinear_bias_keeps_the_substitution_in_the_loop() -> None:
    parts = forms.any_bias("logcosh", True).parts()
    where = {type(node).__name__: part for node, part in parts.items() if part != "before"}
    assert where["ForwardSubstitution"] == "loop"
