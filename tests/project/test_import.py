"""Importing the package is light: other people's programs import it too."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import miras_dsl

HEAVY = ("torch", "triton", "sympy", "jinja2", "lark", "numpy", "typer", "rich", "matplotlib")


def seconds(code: str) -> float:
    """The fastest of several fresh interpreters: the others measured the machine."""
    runs = []
    for _ in range(7):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        runs.append(time.perf_counter() - start)
    return min(runs)


def test_import_takes_a_moment():
    """At most 0.30 s above an interpreter that imports nothing."""
    assert seconds("import miras_dsl") - seconds("pass") <= 0.30


def test_import_brings_nothing_heavy():
    """Neither torch nor sympy before the first use."""
    code = "import sys, miras_dsl; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(run.stdout.split())
    assert "miras_dsl" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_the_compiler_side_needs_no_torch():
    """Text to generated module on a machine without torch: any attempt to import it fails here."""
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['triton'] = None\n"
        "import miras_dsl, pathlib\n"
        "print(len(miras_dsl.compile(pathlib.Path(sys.argv[1])).text))"
    )
    spec = os.path.join(os.path.dirname(__file__), "..", "..", "specs", "deltanet.mem")
    run = subprocess.run([sys.executable, "-c", code, spec], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 1000


def test_the_facade_hides_no_module():
    """A function named like a module of ours would be replaced by it at that module's import."""
    root = Path(__file__).resolve().parents[2] / "miras_dsl"
    modules = {p.stem for p in root.iterdir()}
    assert modules.isdisjoint(miras_dsl.__all__)
