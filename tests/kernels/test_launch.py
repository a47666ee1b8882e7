"""Launch configurations: tiles, segments and groups, and calls that are refused."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from miras_dsl.runtime.execute.call import MemoryCall, validate
from miras_dsl.runtime.kernels import launch_config, recurrent
from miras_dsl.runtime.kernels.launch_config import (
    RECOMPUTE_BYTES,
    LaunchConfig,
    Recurrence,
    configure_launch,
    scratch_bytes,
)
from miras_dsl.runtime.kernels.triton_interpreter import interpreting
from miras_dsl.runtime.load.kernel_modules import kernels_of, tables
from miras_dsl.runtime.operator.memory_op import MemoryOp
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
    made = configure_launch(kernels, {"value": size, "key": size}, 1000)
    held = made.tile["value"] * made.tile["key"]
    assert made.tile["key"] >= size and made.tile["value"] * made.blocks >= size
    assert all(t & (t - 1) == 0 for t in made.tile.values())
    assert held <= 4096 and 1 <= made.warps <= 16
    assert made.segment**2 >= 1000


def test_a_coupled_rule_is_not_split() -> None:
    kernels = kernels_of(rule_of("huber"))
    made = configure_launch(kernels, {"value": 100, "key": 60}, 10)
    assert (made.tile, made.blocks) == ({"value": 128, "key": 64}, 1)


def call_of(name: str) -> tuple[MemoryCall, Recurrence]:
    """Two tokens of zeros for a shipped memory with one matrix, and its kernels."""
    _, memory, kernels = tables(memory_named(name))
    feeds = {f.name: torch.zeros(1, 2, 1, *[4] * len(f.axes)) for f in memory.inputs}
    return validate(memory, feeds, {"W": torch.zeros(1, 1, 4, 4)}, None), kernels


def test_tensors_on_a_cpu_are_refused_with_a_way_out() -> None:
    assert not interpreting()
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET=1"):
        call, kernels = call_of("deltanet")
        recurrent.KernelForm(kernels).compute(call, False)


def test_kernels_take_single_precision_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    _, memory, kernels = tables(memory_named("deltanet"))
    op, gpu = MemoryOp(memory, kernels), torch.device("cuda")
    assert op.form_on(gpu, wide=False) == "kernel"
    assert op.form_on(torch.device("cpu"), wide=False) == "chunk"
    assert op.form_on(gpu, wide=True) == "chunk"
    monkeypatch.setenv("MIRAS_KERNELS", "off")
    assert op.form_on(gpu, wide=False) == "chunk"


@pytest.mark.parametrize("where", ["a feed", "the state"])
def test_one_tensor_in_double_precision_is_enough(where: str) -> None:
    call, _ = call_of("deltanet")
    feeds, state = dict(call.inputs), dict(call.state)
    some = feeds if where == "a feed" else state
    some[max(some)] = some[max(some)].double()
    assert validate(call.memory, feeds, state, None).dtype == torch.float64


GIB = 1 << 30
STEPS, HEADS = 32768, 16
INPUTS = 8 * 4 * STEPS * HEADS * 128
"""Query, key, value, answer and their gradients in float32: 2 GiB."""


@pytest.mark.parametrize("sequences", [1, 8, 64, 512, 4096])
@pytest.mark.parametrize("name", ["gated_deltanet", "rwkv7"])
def test_scratch_of_packed_sequences_stays_below_a_budget(name: str, sequences: int) -> None:
    """At most twice what goes in and comes out; 3.5 GiB for 512 sequences of 64 tokens."""
    made = launched(name, STEPS // sequences, sequences)
    scratch = scratch_bytes(kernels_of(rule_of(name)), made, HEADS, STEPS, sequences)
    # The first and the last state of each sequence, and their gradients.
    states = 4 * 4 * sequences * HEADS * 128 * 128
    assert scratch <= 2 * (INPUTS + states)
    if sequences == 512:
        assert scratch <= 3.5 * GIB


def launched(name: str, longest: int, sequences: int) -> LaunchConfig:
    """A launch for heads of 128 by 128."""
    sizes = {"value": 128, "key": 128}
    return configure_launch(kernels_of(rule_of(name)), sizes, longest, HEADS, sequences)


def test_sequences_that_do_not_fit_the_scratch_take_turns() -> None:
    # A state of 16 heads is 1 MiB.
    assert launched("gated_deltanet", 64, 512).group == (RECOMPUTE_BYTES >> 20) // 16
    assert launched("gated_deltanet", 64, 3).group == 3
    # Where few would run at once segments are shorter, and more sequences fit.
    many, few = launched("gated_deltanet", 32768, 8), launched("gated_deltanet", 32768, 1)
    assert (few.segment, few.group) == (256, 1)
    assert (many.segment, many.group) == (128, 8)


def test_a_sequence_that_does_not_fit_goes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_config, "RECOMPUTE_BYTES", 1)
    made = launched("gated_deltanet", 32768, 512)
    assert (made.segment, made.group) == (16, 1)
