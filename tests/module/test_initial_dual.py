"""A weight that begins positive: its initial dual is carried, and the link returns the weight."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import miras_dsl as miras
from miras_dsl.check import read
from miras_dsl.codegen.pipeline import compile_file
from miras_dsl.diagnostics import SpecErrors
from miras_dsl.source import Source

MEMORY = """memory T(dk, dv) {{
  architecture W: matrix[value, key] = positive
  bias         l2
  retention    bregman {potential} at token
  algorithm    gd(eta), exact
  order        predict, write, read
  gates        {{ eta = sigmoid(linear(x)) / 16   c = 1 + sigmoid(linear(x)) }}
}}
"""
LINKS = {
    # potential: the weight that belongs to what is carried, and what a row of it sums to
    "w * log(w) - w": (torch.exp, 1.0),
    "cosh(w)": (torch.asinh, 1.0),
    "w * log(w) + (1 - w) * log(1 - w)": (torch.sigmoid, 0.5),
    "w * log(w / (1 - w)) + log(1 - w)": (torch.sigmoid, 0.5),
    "3 * w * log(w) on simplex(rows, total = 2)": (lambda a: 2 * torch.softmax(a / 3, -1), 2.0),
    "w * log(w) on simplex(rows, total = c)": (lambda a: torch.softmax(a, -1), 1.0),
}


@pytest.mark.parametrize("potential", LINKS)
def test_the_first_weight_is_the_declared_one(potential: str, tmp_path: Path) -> None:
    path = tmp_path / "t.mem"
    path.write_text(MEMORY.format(potential=potential))
    layer = miras.load(str(path)).T(8, 2)
    link, total = LINKS[potential]
    weight = link(layer.initial_state(1)["memory"]["W"][0])
    torch.testing.assert_close(weight, total * layer.W_start.softmax(-1))


def test_a_gate_in_the_slope_is_not_known_before_the_first_token() -> None:
    spec = read(Source("t.mem", MEMORY.format(potential="c * w^2")))
    with pytest.raises(SpecErrors, match="a gate before the first token"):
        compile_file(spec)
