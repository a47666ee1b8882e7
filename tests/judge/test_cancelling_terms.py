"""The tolerance of a state's gradient where it is a small difference of large sums."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from miras_dsl.check import read
from miras_dsl.runtime.judge.cases import covering
from miras_dsl.runtime.judge.certificate import certify
from miras_dsl.runtime.judge.tolerance import Kind, judge
from miras_dsl.runtime.load.loader import implementation
from miras_dsl.source import Source

HAIR = {
    "a decay of 1": ("decay alpha", "gd(eta), exact", "predict, decay, write, read", "alpha = 1"),
    "rates above 1": ("none", "gd(cosh(eta)), steps(2), exact", "predict, write, read", ""),
}


@pytest.mark.parametrize("name", HAIR)
def test_what_the_writes_erase_is_measured_against_its_terms(name: str) -> None:
    """A state of one number: its gradient is a difference of two sums over 63 tokens."""
    retention, algorithm, order, gate = HAIR[name]
    text = f"""memory M(dk, dv) {{
  architecture W: matrix[value, key]
  bias         l2
  retention    {retention}
  algorithm    {algorithm}
  order        {order}
  gates        {{ eta = sigmoid(linear(x)) {gate} }}
}}
"""
    spec = read(Source("m.mem", text)).memories["M"]
    (case,) = (c for c in covering(64) if c.name == "size one")
    proof = certify(spec, partial(implementation, spec), dtype=torch.float32, cases=(case,))
    assert proof.green, str(proof)


def test_the_terms_of_a_gradient_of_the_state() -> None:
    """eps * sqrt(tokens) of terms of size sqrt(tokens), three times; not more, and for no other kind."""
    exact = torch.tensor([[0.1, -0.2]], dtype=torch.float64)

    def verdict(kind: Kind, off: float) -> str:
        return judge("d", kind, exact + off, exact, [exact], torch.float32, tokens=64).verdict

    allowed = 3 * 64 * torch.finfo(torch.float32).eps
    assert verdict("state gradient", 0.9 * allowed) == "green"
    assert verdict("state gradient", 1.1 * allowed) == "red"
    assert verdict("token gradient", 0.9 * allowed) == "red"
