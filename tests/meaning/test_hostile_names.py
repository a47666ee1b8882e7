"""Memories whose names are also names in generated code compile and give the right numbers."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from miras_dsl.check import read
from miras_dsl.codegen.stage_digests import stage_digests
from miras_dsl.runtime.judge.cases import Case
from miras_dsl.runtime.judge.certificate import certify
from miras_dsl.runtime.load.loader import implementation
from miras_dsl.source import Source
from miras_dsl.spec import MemorySpec
from tests.meaning.derived import of_text

TEXT = """
memory Rule(dk, dv) {{
  architecture W: matrix[value, key]
  bias         logcosh
  retention    l2({0})
  algorithm    momentum({1}, {2}), {3}
  order        predict, decay, write, read
  gates        {{ {0} = sigmoid(linear(x) + 2)   {1}, {2} = sigmoid(linear(x)) / 2 }}
}}
"""
SWEEPS = "anchored(4, sweeps = 2)"
NAMES = [
    ("valid", "state", "size", "exact"),
    ("log_eta", "eta", "log_log_eta", "exact"),
    ("d_y", "d_W", "S_W", "exact"),
    ("in_y", "y", "in_in_y", "exact"),
    ("torch", "ops", "runner", "exact"),
    ("written_past1", "key_past1", "zero", "exact"),
    ("W_anchor", "W_1", "S_W_1", SWEEPS),
    ("open_W", "cu_seqlens", "log_valid", SWEEPS),
]


def spec_of(names: tuple[str, ...]) -> MemorySpec:
    return read(Source("names.mem", TEXT.format(*names))).memories["Rule"]


@pytest.mark.parametrize("names", NAMES, ids=" ".join)
def test_a_hostile_name_is_a_name(names: tuple[str, ...]) -> None:
    spec = spec_of(names)
    cases = (Case("warm", (9,), (3, 4), warm=True),)
    certificate = certify(spec, partial(implementation, spec), dtype=torch.float64, cases=cases)
    assert certificate.green, str(certificate)
    plain = ("alpha", "beta", "gamma", names[-1])
    found = [stage_digests(of_text(TEXT.format(*chosen))) for chosen in (names, plain)]
    assert found[0] == found[1]
