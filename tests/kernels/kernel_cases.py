"""The cases of the kernels' tests: small ones for every memory, large ones each for a few.

A sequence of 130 tokens takes the interpreter seconds, so the long cases are dealt to the memories
in turn: every length is seen by some kernel, every size and every cosine by each.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from miras_dsl.check import read
from miras_dsl.runtime.judge.cases import Case, parameters
from miras_dsl.runtime.judge.oracle.run import axis_sizes
from miras_dsl.source import Source
from miras_dsl.spec import MemorySpec
from tests.kernels.more_rules import EXTRA

SHIPPED = (
    "linear_attention", "gla", "deltanet", "gated_deltanet", "rwkv7", "delta_product", "hgrn",
    "logcosh_momentum",
)  # fmt: skip
SEVERAL = ("mlstm", "mamba3", "preconditioned_gdn", "lru", "dfw", "normalised_attention")
"""Shipped memories with several weights, complex ones, or decays of rows and columns."""
NAMES = (*SHIPPED, *EXTRA, *SEVERAL)

# Segments have 16 tokens: none of one, a part, one and a part.
CASES = (
    Case("a segment and one", (17,), (5, 9), keys=0.5, strided=True),
    Case("packed", (0, 1, 17), (8, 6), packed=True, warm=True, keys=0.5),
    Case("a batch, warm", (5, 5), (3, 16), warm=True, keys=0.95),
    Case("size one", (2,), (1, 1), warm=True, keys=1.0),
    Case("zero keys", (2,), (16, 13), keys=None, gates=1.0),
)

NOTHING = Case("no token", (0, 0), (4, 7), warm=True)
LARGE = (
    Case("D 33 and 60", (3,), (33, 60), warm=True, keys=0.0),
    Case("D 60 and 100", (2,), (60, 100), warm=True, keys=0.0, gates=1.0),
    Case("D 64 and 33", (3,), (64, 33), keys=0.0, strided=True),
    Case("D 100 and 128", (1,), (100, 128), warm=True, keys=0.0),
    Case("D 128 and 64", (2,), (128, 64), warm=True, keys=0.0),
)
LONG = (
    Case("T 63", (63,), (6, 7), keys=0.95),
    Case("T 64", (64,), (7, 5), warm=True, keys=0.0),
    Case("T 65", (65,), (5, 4), warm=True, keys=0.5),
    Case("T 130", (130,), (3, 2), keys=1.0),
    Case("packed, up to 65", (65, 0, 16), (4, 3), packed=True, warm=True, keys=0.0),
)
"""Each is given to two memories: it takes seconds."""
WANTED: Mapping[str, frozenset[object]] = {
    "size of keys": frozenset({1, 16, 33, 60, 64, 100, 128}),
    "size of values": frozenset({1, 16, 33, 60, 64, 100, 128}),
    "length": frozenset({0, 1, 2, 16, 17, 63, 64, 65, 130}),
    "cosine": frozenset({0.0, 0.5, 0.95, 1.0, None}),
    "gates at their ends": frozenset({0.2, 1.0}),
}


@cache
def _server() -> subprocess.Popen[str]:
    """A process that interprets kernels, one for all tests of this process; it ends with its stdin."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.kernels.interpreter_server"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(server.communicate)
    return server


def interpreted(module: str, *arguments: str) -> list[dict[str, Any]]:
    """What a module of `tests.kernels` prints, a JSON object a line, in a process that interprets."""
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(json.dumps([module, *arguments]) + "\n")
    server.stdin.flush()
    run = json.loads(server.stdout.readline())
    assert run["status"] == 0, run["stderr"][-4000:]
    return [json.loads(line) for line in run["stdout"].splitlines()]


def memory_named(name: str) -> MemorySpec:
    """The first memory of a shipped spec, or one of `extra`."""
    text = EXTRA.get(name) or (files("miras_dsl.specs") / f"{name}.mem").read_text()
    return next(iter(read(Source(f"{name}.mem", text)).memories.values()))


def dealt(name: str) -> tuple[Case, ...]:
    """The other cases of a memory, in which one call is judged."""
    number = NAMES.index(name)
    long = (LONG[number % len(LONG)],) if number < 2 * len(LONG) else ()
    return (NOTHING, *LARGE, *long)


def covered(name: str) -> Counter[tuple[str, object]]:
    """How often the cases of a memory have each value."""
    spec, found = memory_named(name), Counter[tuple[str, object]]()
    for case in (*CASES, *dealt(name)):
        sizes = axis_sizes(spec, parameters(spec, case))
        found.update(("length", length) for length in set(case.lengths))
        held = [axis for axis in ("key", "value") if axis in sizes]
        found.update((f"size of {axis}s", sizes[axis]) for axis in held)
        found.update([("cosine", case.keys), ("gates at their ends", case.gates)])
    return found
