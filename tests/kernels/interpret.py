"""Judges the kernels of one memory in Triton's interpreter; prints one JSON line per comparison.

Run as a module with TRITON_INTERPRET=1: a process that interprets kernels cannot also compile them.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from importlib.resources import files

import torch

from miras_dsl.check import read
from miras_dsl.codegen import pipeline
from miras_dsl.codegen.recurrent_text import recurrent_text
from miras_dsl.codegen.update import UpdateRule
from miras_dsl.runtime import build, kernels, launch
from miras_dsl.runtime.cases import Case
from miras_dsl.runtime.certificate import certify
from miras_dsl.runtime.interpreter import interpreting
from miras_dsl.source import Source
from miras_dsl.spec import MemorySpec
from tests.kernels.extra import EXTRA

# Segments have 16 tokens: none of one, a part, one and a part.
CASES = (
    Case("a segment and one", (17,), (5, 9), keys=0.5, strided=True),
    Case("packed", (0, 1, 17), (8, 6), packed=True, warm=True, keys=0.5),
    Case("a batch, warm", (5, 5), (3, 16), warm=True, keys=0.95),
    Case("size one", (2,), (1, 1), warm=True, keys=1.0),
    Case("zero keys", (2,), (16, 13), keys=None, gates=1.0),
)


def memory_named(name: str) -> MemorySpec:
    """The first memory of a shipped spec, or one of `extra`."""
    text = EXTRA.get(name) or (files("miras_dsl.specs") / f"{name}.mem").read_text()
    return next(iter(read(Source(f"{name}.mem", text)).memories.values()))


def plant(old: str, new: str) -> None:
    """Generate kernels with a mistake from now on."""

    def mistaken(rule: UpdateRule) -> str:
        text = recurrent_text(rule)
        assert old in text, f"nothing to break: {old!r}"
        return text.replace(old, new)

    pipeline.recurrent_text = mistaken
    build.compiled.cache_clear()


def judge(spec: MemorySpec, values: int | None, cases: tuple[Case, ...], fault: int | None) -> None:
    """Print every comparison of some cases."""
    certificate = certify(
        spec, kernels.implementation(spec, values=values), cases=cases, chunk=1
    )
    for row in certificate.rows:
        found = {"fault": fault, "check": row.check, "case": row.case, **asdict(row.result)}
        print(json.dumps(found))
    assert not certificate.missing


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("memory")
    parser.add_argument("--values", type=int, default=None)
    parser.add_argument("--past", type=int, default=launch.PAST)
    parser.add_argument("--fault", nargs=2, action="append", default=[])
    arguments = parser.parse_args()
    assert interpreting(), "set TRITON_INTERPRET=1"
    # What torch.empty gives is NaN, so that what a kernel fails to write is seen.
    torch.use_deterministic_algorithms(True)
    assert torch.empty(1).isnan().all()
    launch.PAST = arguments.past
    spec = memory_named(arguments.memory)
    if not arguments.fault:
        judge(spec, arguments.values, CASES, None)
    for number, mistake in enumerate(arguments.fault):
        plant(*mistake)
        judge(spec, arguments.values, CASES[:1], number)


if __name__ == "__main__":
    main()
