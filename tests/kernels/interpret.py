"""Judges the kernels of one memory in Triton's interpreter; prints one JSON line per comparison.

Run with TRITON_INTERPRET=1: a process that interprets kernels cannot also compile them.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from importlib.resources import files

import torch

sys.path.insert(0, __file__.rsplit("/", 1)[0])
from extra import EXTRA  # noqa: E402

from miras_dsl.check import read  # noqa: E402
from miras_dsl.runtime.cases import Case  # noqa: E402
from miras_dsl.runtime.certificate import certify  # noqa: E402
from miras_dsl.runtime.interpreter import interpreting  # noqa: E402
from miras_dsl.runtime.kernels import implementation  # noqa: E402
from miras_dsl.source import Source  # noqa: E402
from miras_dsl.spec import MemorySpec  # noqa: E402

# Segments have 16 tokens: none of one, a part, one and a part.
CASES = (
    Case("a segment and three", (19,), (5, 9), keys=0.5, strided=True),
    Case("packed", (0, 1, 17, 2), (8, 6), packed=True, warm=True, keys=0.5),
    Case("a batch, warm", (5, 5), (3, 16), warm=True, keys=0.95),
    Case("size one", (2,), (1, 1), warm=True, keys=1.0),
    Case("zero keys", (2,), (16, 13), keys=None, gates=1.0),
)


def memory_named(name: str) -> MemorySpec:
    """The first memory of a shipped spec, or one of `extra`."""
    text = EXTRA.get(name) or (files("miras_dsl.specs") / f"{name}.mem").read_text()
    return next(iter(read(Source(f"{name}.mem", text)).memories.values()))


def main(name: str, values: int | None) -> None:
    assert interpreting(), "set TRITON_INTERPRET=1"
    # What torch.empty gives is NaN, so that what a kernel fails to write is seen.
    torch.use_deterministic_algorithms(True)
    assert torch.empty(1).isnan().all()
    spec = memory_named(name)
    certificate = certify(spec, implementation(spec, values=values), cases=CASES)
    for row in certificate.rows:
        print(json.dumps({"check": row.check, "case": row.case, **asdict(row.result)}))
    assert not certificate.missing


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else None)
