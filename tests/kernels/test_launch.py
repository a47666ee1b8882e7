"""What the launcher decides, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from miras_dsl.runtime import recurrent
from miras_dsl.runtime.feeds import Call, checked
from miras_dsl.runtime.interpreter import interpreting
from miras_dsl.runtime.kernels import kernels_of, tables
from miras_dsl.runtime.launch import PAST, Recurrence, group_of, launch_of, scratch_bytes
from tests.kernels.interpret import memory_named
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


def call_of(name: str) -> tuple[Call, Recurrence]:
    """Two tokens of zeros for a shipped memory with one matrix, and its kernels."""
    _, memory, kernels = tables(memory_named(name))
    feeds = {f.name: torch.zeros(1, 2, 1, *[4] * len(f.axes)) for f in memory.feeds}
    return checked(memory, feeds, {"W": torch.zeros(1, 1, 4, 4)}, None), kernels


def test_tensors_on_a_cpu_are_refused_with_a_way_out() -> None:
    assert not interpreting()
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET=1"):
        recurrent.recurrent(*call_of("deltanet"))


def test_kernels_take_single_precision_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, _ = call_of("deltanet")
    gpu = replace(cpu, device=torch.device("cuda"))
    assert recurrent.wanted(gpu)
    assert not recurrent.wanted(cpu)
    assert not recurrent.wanted(replace(gpu, dtype=torch.float64))
    monkeypatch.setenv("MIRAS_KERNELS", "off")
    assert not recurrent.wanted(gpu)


@pytest.mark.parametrize("where", ["a feed", "the state"])
def test_one_tensor_in_double_precision_is_enough(where: str) -> None:
    call, _ = call_of("deltanet")
    feeds, state = dict(call.feeds), dict(call.state)
    some = feeds if where == "a feed" else state
    some[max(some)] = some[max(some)].double()
    assert checked(call.memory, feeds, state, None).dtype == torch.float64


GIB = 1 << 30
STEPS, HEADS = 32768, 16
INPUTS = 8 * 4 * STEPS * HEADS * 128
"""Query, key, value, answer and their gradients in float32: 2 GiB."""


@pytest.mark.parametrize("sequences", [1, 8, 64, 512, 4096])
@pytest.mark.parametrize("name", ["gated_deltanet", "rwkv7"])
def test_scratch_of_packed_sequences_stays_below_a_budget(name: str, sequences: int) -> None:
    """What is beyond `PAST` is at most a few times what goes in and comes out."""
    kernels = kernels_of(rule_of(name))
    launch = launch_of(kernels, {"value": 128, "key": 128}, STEPS // sequences)
    # The first and the last state of each sequence, and their gradients.
    states = 4 * 4 * sequences * HEADS * 128 * 128
    assert scratch_bytes(kernels, launch, HEADS, STEPS, sequences) <= 2 * (INPUTS + states)
    if sequences == 512:
        assert scratch_bytes(kernels, launch, HEADS, STEPS, sequences) <= 3.5 * GIB


def test_sequences_that_do_not_fit_the_scratch_take_turns() -> None:
    kernels = kernels_of(rule_of("gated_deltanet"))
    launch = launch_of(kernels, {"value": 128, "key": 128}, 64)
    assert group_of(kernels, launch, HEADS, 512) == PAST // (launch.segment << 20)
    assert group_of(kernels, launch, HEADS, 3) == 3
    # One sequence may be larger than all there is: it goes alone.
    assert group_of(kernels, launch, 10**6, 512) == 1
