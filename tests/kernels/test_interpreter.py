"""The kernels of every vector and matrix rule against the oracle, in Triton's interpreter.

Each memory has a process of its own: one that interprets kernels cannot compile any.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.kernels.kernel_cases import CASES, NAMES, WANTED, covered, dealt, interpreted

CONTAINED = (
    "linear_attention", "deltanet", "bounded", "twice", "early", "scaled", "window", "mamba3", "dfw",
    "normalised_attention", "preconditioned_gdn",
)  # fmt: skip
"""Whose kernels have little that others do not have."""
EVERY = {"whole", "split", "steps", "causal"}
ROOT = Path(__file__).parents[2]


def judged(*arguments: str) -> list[dict[str, Any]]:
    """The comparisons of one memory."""
    return interpreted("interpret", *arguments)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.thorough) if n in CONTAINED else n for n in NAMES],
)
def test_every_quantity_agrees_with_the_oracle(name: str) -> None:
    rows = judged(name, "--values", "8")
    assert [r for r in rows if r["verdict"] != "green"] == []
    assert {r["check"] for r in rows} == EVERY
    assert {r["case"] for r in rows} == {case.name for case in (*CASES, *dealt(name))}
    whole = {r["name"] for r in rows if r["check"] == "whole"}
    assert {"y", "d value"} <= whole
    assert any(n.startswith("state ") for n in whole)
    assert any(n.startswith("d state ") for n in whole)


@pytest.mark.slow
@pytest.mark.thorough
def test_sequences_may_take_turns_in_the_backward_pass() -> None:
    """With programs that share the values out, whose shares of a gradient are summed."""
    rows = judged("pairs", "--values", "8", "--past", "1")
    assert [r for r in rows if r["verdict"] != "green"] == []


def test_the_cases_cover_what_they_should(capsys: pytest.CaptureFixture[str]) -> None:
    """Every length somewhere, every size and cosine for each memory."""
    seen: Counter[tuple[str, object]] = Counter()
    for name in NAMES:
        own = covered(name)
        seen += own
        everywhere = [axis for axis in WANTED if axis != "length"]
        for axis in everywhere:
            wanted = {(axis, value) for value in WANTED[axis]}
            assert wanted <= set(own) or (name in ("hgrn", "lru") and axis == "size of keys")
    with capsys.disabled():
        print("\nkernels in the interpreter:")
        for axis, values in WANTED.items():
            counts = [(str(value), seen[axis, value]) for value in values]
            print(f"  {axis}: " + ", ".join(f"{value} {count}" for value, count in sorted(counts)))
    assert not {(axis, v) for axis, values in WANTED.items() for v in values} - set(seen)


@pytest.mark.slow
def test_tiles_and_segments_change_nothing() -> None:
    """Values in a program: sums over blocks in another order.  Tokens in a segment: not a bit."""
    rows = judged("deltanet", "logcosh_momentum", "window", "--tiles")
    assert {r["name"] for r in rows} >= {"y", "state W", "d key", "d state W", "d eta", "d mu"}
    for row in rows:
        _, segment = row["tile"]
        assert row["apart"] <= (2e-6 if segment == 16 else 0.0), row


FAULTS = {
    "a gradient is not written": ("tl.store(d_key_ptr", "tl.store(d_query_ptr"),
    "checkpoints come one token late": ("if t % SEGMENT == 0:", "if t % SEGMENT == 1:"),
    "a segment's first token is skipped": (
        "for step in range(first,", "for step in range(first + 1,"),
    "the final state's cotangent is lost": ("d_W = tl.load(", "d_W = 0.0 * tl.load("),
    "heads share a row": ("row = (start + t) * H + i_h", "row = (start + t) * H"),
    "the first state's gradient is dropped": (
        "tl.store(d_W_ptr + i_nh * (V * K) + o_w, d_W", "tl.store(d_W_ptr + o_w, 0.0 * d_W"),
    "blocks of values write one share": (
        "share = (i_v.to(tl.int64) * T + start + t) * H + i_h", "share = (start + t) * H + i_h"),
    "the first block of values has the only share": (
        "share * K + o_k, d_key,", "share * K + o_k, tl.where(i_v == 0, d_key, 0.0),"),
    "every block of values is the first": ("(i_v * BV + tl.arange(0, BV))", "(tl.arange(0, BV))"),
    "the last values are not masked": ("m_v = o_v < V", "m_v = o_v < V - 1"),
    "a sequence reads its neighbour's first state": (
        "tl.load(W_ptr + i_nh * (V * K)", "tl.load(W_ptr + i_h * (V * K)"),
}  # fmt: skip


OTHERS = {
    "gated_deltanet": [
        ("tl.sum(W_exp_log_alpha * key", "tl.sum(W * key"),  # the decay comes after the prediction
        ("* key + W_exp_log_alpha", "* key + W"),  # nothing decays
    ],
    "window": [
        ("tl.load(key_past2_ptr", "tl.load(key_past1_ptr"),  # the window is one token short
        ("(mu * mu)", "mu"),  # the oldest token is discounted once
    ],
    "pairs": [
        ("decay_at=2", "decay_at=0"),  # the decay acts in the first of three steps
        ("read_at=2", "read_at=1"),  # the answer is taken before the last step
    ],
    "early": [("read_at=0", "read_at=1")],  # the answer is taken after the first step
    "sweeps": [
        ("(place + t) % 4", "t % 4"),  # blocks count from the start of the call
        ("(place + t) % 4", "(place + t) % 5"),  # a block has five tokens
    ],
    "reset": [("(place + t) % 5", "(place + t) % 6")],  # the memory begins anew one token late
    "scaled": [("% 4) + 1).to", "% 4)).to")],  # positions count from 0
}
"""Faults in other kernels, by memory."""


def caught(name: str, faults: Iterable[tuple[str, str]]) -> list[set[str]]:
    """For each mistake, what the judge found wrong."""
    faults = list(faults)
    rows = judged(name, "--values", "8", *(w for fault in faults for w in ("--fault", *fault)))
    return [
        {r["name"] for r in rows if r["fault"] == n and r["verdict"] == "red"}
        for n in range(len(faults))
    ]


@pytest.mark.slow
def test_mistakes_in_a_kernel_are_found() -> None:
    found = dict(zip(FAULTS, caught("deltanet", FAULTS.values()), strict=True))
    assert all(found.values()), found
    assert "d key" in found["a gradient is not written"]
    assert "y" not in found["checkpoints come one token late"]
    assert "y" in found["heads share a row"]
    assert found["the first state's gradient is dropped"] == {"d state W"}
    assert found["the first block of values has the only share"] == {"d key"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.thorough) if n in ("pairs", "window") else n
        for n in OTHERS
    ],
)
def test_mistakes_in_other_kernels_are_seen(name: str) -> None:
    assert all(caught(name, OTHERS[name]))


@pytest.mark.slow
def test_lanes_that_are_not_zero_must_be_masked() -> None:
    # The softmax of an empty lane is not 0: left in, it is part of the sum.
    exponential = "W_dual_max_W_dual"
    fault = f"tl.sum(tl.where(m_k, {exponential}, 0.0),", f"tl.sum({exponential},"
    (found,) = caught("simplex", [fault])
    assert "y" in found
