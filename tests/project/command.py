"""What the tests of the command line share: specs, and ways to run and to look."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
Ended = subprocess.CompletedProcess[str]

GOOD = """
memory Delta(d) {
  architecture W: matrix[value, key]
  bias         l2
  retention    none
  algorithm    gd(eta), exact
  order        predict, write, read
  gates        { eta = sigmoid(linear(x)) }
}
"""
WRONG = GOOD.replace("eta = sigmoid", "beta = sigmoid").replace(
    "bias         l2", "bias         l22"
)
WARNED = GOOD.replace("}\n}", "  mu = sigmoid(linear(x)) }\n}")
"""A gate that nobody uses: M0801."""


def files(folder: Path) -> list[str]:
    """The names in a folder."""
    return sorted(p.name for p in folder.iterdir())


def process(*words: object, shell: str = '"$@"', path: str = "", **options: Any) -> Ended:
    """The command as a process of its own; ``shell`` is what bash does with it, "$@".

    path  a folder whose modules come before all others
    """
    command = ["bash", "-c", shell, "bash", sys.executable, "-m", "miras_dsl", *map(str, words)]
    folders = [path, str(ROOT), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "NO_COLOR": "1", "COLUMNS": "120"}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, folders))
    return subprocess.run(command, capture_output=True, text=True, env=env, **options)
