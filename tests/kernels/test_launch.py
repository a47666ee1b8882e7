"""What the launcher decides, and what it refuses."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from miras_dsl.codegen.recurrent_text import recurrent_module
from miras_dsl.runtime.interpreter import interpreting
from miras_dsl.runtime.kernels import kernels_of
from miras_dsl.runtime.launch import launch_of
from miras_dsl.runtime.recurrent import recurrent
from tests.kernels.test_text import rule_of


@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.sampled_from([2, 16]))
def test_checkpoints_of_packed_sequences_do_not_meet(lengths: list[int], segment: int) -> None:
    # The kernels put a sequence's checkpoints at start // segment + its number.
    ends = [sum(lengths[:n]) for n in range(len(lengths) + 1)]
    used = [
        start // segment + n + s
        for n, (start, end) in enumerate(pairwise(ends))
        for s in range(-(-(end - start) // segment))
    ]
    assert len(used) == len(set(used))
    assert all(u < ends[-1] // segment + len(lengths) for u in used)


@pytest.mark.parametrize("size", [1, 5, 64, 100, 128, 256])
def test_a_program_holds_no_more_than_its_registers(size: int) -> None:
    kernels = kernels_of(rule_of("gla"))
    launch = launch_of(kernels, {"value": size, "key": size}, 1000)
    held = launch.tile["value"] * launch.tile["key"]
    assert launch.tile["key"] >= size and launch.tile["value"] * launch.blocks >= size
    assert all(t & (t - 1) == 0 for t in launch.tile.values())
    assert held <= 4096 and 1 <= launch.warps <= 16
    assert launch.segment**2 >= 1000


def test_a_coupled_rule_is_held_whole() -> None:
    kernels = kernels_of(rule_of("huber"))
    launch = launch_of(kernels, {"value": 100, "key": 60}, 10)
    assert (launch.tile, launch.blocks) == ({"value": 128, "key": 64}, 1)


def test_tensors_on_a_cpu_are_refused_with_a_way_out() -> None:
    assert not interpreting()
    kernels = kernels_of(rule_of("deltanet"))
    x = torch.zeros(1, 2, 1, 4)
    inputs = {"query": x, "key": x, "value": x, "eta": x[..., 0]}
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET=1"):
        recurrent(kernels, inputs, {"W": torch.zeros(1, 1, 4, 4)})


def test_sizes_that_disagree_are_named() -> None:
    rule = rule_of("deltanet")
    assert "DeltaNet" in recurrent_module(rule)
    x = torch.zeros(1, 2, 1, 4)
    inputs = {"query": x, "key": x[..., :3], "value": x, "eta": x[..., 0]}
    with pytest.raises(ValueError, match="DeltaNet: key has 3 along key, others 4"):
        recurrent(kernels_of(rule), inputs, {"W": torch.zeros(1, 1, 4, 4)})
