"""The scripts that a newcomer copies from run as they are, in an empty directory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

SHOWN = {
    "01_delta_rule_in_six_lines": ([], ["100 tokens at once: (2, 100, 32)", "one token at a time"]),
    "02_a_bias_of_your_own": ([], ["Quartile"]),
    "03_read_the_derivation": (
        [],
        ["DeltaNet: update", "DeltaNet: adjoint", "is of the class affine", "lines, digest"],
    ),
    "04_memory_in_a_small_model": ([], ["step   0  loss", "step  59  loss"]),
    "05_explore_from_a_script": (
        ["--seconds", "0.4", "--out", "found"],
        ["huber, decay, mlp", "ranking", "ranking.png"],
    ),
}


def test_every_script_is_listed():
    scripts = {p.stem for p in EXAMPLES.glob("[0-9]*.py")}
    assert scripts == set(SHOWN)
    assert len(scripts) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SHOWN))
def test_a_script_runs(name, tmp_path):
    """Its exit status is 0 and it prints what it promises."""
    arguments, shown = SHOWN[name]
    run = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    for words in shown:
        assert words in run.stdout
    assert "RED" not in run.stdout
