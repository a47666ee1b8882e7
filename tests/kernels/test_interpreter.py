"""The kernels of every vector and matrix rule against the oracle, in Triton's interpreter.

Each memory has a process of its own: one that interprets kernels cannot compile any.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.kernels.extra import EXTRA

SHIPPED = (
    "linear_attention", "gla", "deltanet", "gated_deltanet", "rwkv7", "delta_product", "hgrn",
    "logcosh_momentum",
)  # fmt: skip
ROOT = Path(__file__).parents[2]


def judged(*arguments: str) -> list[dict[str, Any]]:
    """The comparisons of one memory."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.kernels.interpret", *arguments],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SHIPPED, *EXTRA])
def test_every_quantity_agrees_with_the_oracle(name: str) -> None:
    rows = judged(name, "--values", "8")
    assert [r for r in rows if r["verdict"] != "green"] == []
    assert {r["check"] for r in rows} == {"whole", "split", "steps", "causal"}
    whole = {r["name"] for r in rows if r["check"] == "whole"}
    assert {"y", "d value"} <= whole
    assert any(n.startswith("state ") for n in whole)
    assert any(n.startswith("d state ") for n in whole)


@pytest.mark.slow
def test_sequences_may_take_turns_in_the_backward_pass() -> None:
    """With programs that share the values out, whose shares of a gradient are summed."""
    rows = judged("pairs", "--values", "8", "--past", "1")
    assert [r for r in rows if r["verdict"] != "green"] == []


FAULTS = {
    "a gradient is not written": ("tl.store(d_key_ptr", "tl.store(d_query_ptr"),
    "checkpoints come one token late": ("if t % SEGMENT == 0:", "if t % SEGMENT == 1:"),
    "a segment's first token is skipped": ("for b in range(first,", "for b in range(first + 1,"),
    "the final state's cotangent is lost": ("d_W = tl.load(", "d_W = 0.0 * tl.load("),
    "heads share a row": ("row = (start + t) * H + i_h", "row = (start + t) * H"),
}  # fmt: skip


def caught(name: str, faults: Iterable[tuple[str, str]]) -> list[set[str]]:
    """For each mistake, what the judge found wrong."""
    faults = list(faults)
    rows = judged(name, "--values", "8", *(w for fault in faults for w in ("--fault", *fault)))
    return [
        {r["name"] for r in rows if r["fault"] == n and r["verdict"] == "red"}
        for n in range(len(faults))
    ]


@pytest.mark.slow
def test_mistakes_in_a_kernel_are_seen() -> None:
    found = dict(zip(FAULTS, caught("deltanet", FAULTS.values()), strict=True))
    assert all(found.values()), found
    assert "d key" in found["a gradient is not written"]
    assert "y" not in found["checkpoints come one token late"]
    assert "y" in found["heads share a row"]


@pytest.mark.slow
def test_lanes_that_are_not_zero_must_be_masked() -> None:
    # The softmax of an empty lane is not 0: left in, it is part of the sum.
    (found,) = caught("simplex", [("tl.sum(tl.where(m_k, w1, 0.0),", "tl.sum(w1,")])
    assert "y" in found
