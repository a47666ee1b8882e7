"""Certificates of every shipped memory on a GPU, in float32 and bfloat16: kernels and chunk forms.

    python benchmarks/gpu_certificates.py [NAME ...]

Prints for each how many comparisons are green, red and not judged, and writes them to
gpu_certificates.json in $OUT (or here).  Exit code 1 if anything is red, or if something at the default
gates is not judged.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import triton

import miras_dsl as miras


def judged(case: tuple[str, str]) -> list[dict[str, object]]:
    file, dtype = case
    torch.set_num_threads(1)
    start = time.monotonic()
    rows = []
    for title, found in miras.certify(miras.find(file), dtype=dtype, device="cuda").items():
        rows.append(
            {
                "memory": title,
                "dtype": dtype,
                "way": found.way,
                "comparisons": len(found.rows),
                "red": len(found.failures),
                "not_judged": len(found.unjudged),
                "not_judged_at_default_gates": len(found.unjudged_at_default),
                "seconds": round(time.monotonic() - start, 1),
                "first_red": [str(row) for row in found.failures[:3]],
            }
        )
    return rows


def main() -> int:
    every = sorted(path.stem for path in Path(miras.__file__).with_name("specs").glob("*.mem"))
    cases = list(product(sys.argv[1:] or every, ("float32", "bfloat16")))
    with ProcessPoolExecutor(12, mp_context=multiprocessing.get_context("spawn")) as pool:
        rows = [row for found in pool.map(judged, cases) for row in found]
    report = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": rows,
    }
    Path(os.environ.get("OUT", "."), "gpu_certificates.json").write_text(
        json.dumps(report, indent=1)
    )
    for row in rows:
        print(*[value for name, value in row.items() if name != "first_red"], sep="  ")
        print(*row["first_red"], sep="\n", end="\n" if row["first_red"] else "")
    return int(any(row["red"] or row["not_judged_at_default_gates"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
