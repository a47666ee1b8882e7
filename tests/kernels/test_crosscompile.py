"""The kernels, cross-compiled for sm_90: no spills, no floating-point atomics."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.kernel_cases import SHIPPED
from tests.kernels.test_interpreter import ROOT

SPILL = 32
"""Bytes of a thread that may go to memory."""


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 128])
def test_kernels_stay_in_registers(size: int, tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-m", "tests.kernels.compile_all", str(size), *SHIPPED, "huber"],
        cwd=ROOT,
        env={**env, "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert {(r["memory"], r["way"]) for r in rows} == {
        (name, way) for name in (*SHIPPED, "huber") for way in ("forward", "backward")
    }
    assert all(0 < r["registers"] <= 255 for r in rows)
    assert all(r["atomics"] == 0 for r in rows)
    # A rule that ties the values together holds a whole state: at 128 its backward step spills,
    # and its plan says why.
    free = [r for r in rows if not (r["why"] and size == 128)]
    assert [r for r in free if r["spilled"] > SPILL] == []
    assert {r["memory"] for r in rows} - {r["memory"] for r in free} <= {"huber"}
