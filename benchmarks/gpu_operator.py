"""The torch operator of a memory on a GPU: compiled graphs beside the layer itself, and host time.

    python benchmarks/gpu_operator.py

For each layer `torch.compile(fullgraph=True, dynamic=True)` must give one graph for all lengths, and
the layer's own answers and gradients, with kernels and in the chunk form.  Times are medians in
milliseconds; host time is that of a call of one token, which computes next to nothing.  Everything is
written to gpu_operator.json in $OUT (or here).  Exit code 1 if an answer or a gradient differs.
"""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import torch
import triton
from torch import Tensor, nn
from torch._dynamo.eval_frame import _debug_get_cache_entry_list

import miras_dsl as miras

LAYERS = {"gated_deltanet": "GatedDeltaNetLayer", "hgrn": "HGRNLayer", "yaad": "YaadLayer"}


def both(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The answers and the gradient of the input."""
    leaf = x.clone().requires_grad_()
    y, _ = layer(leaf)
    return y.detach(), torch.autograd.grad(y.float().sin().sum(), leaf)[0]


def off(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest number."""
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def host_time(layer: nn.Module, backward: bool) -> float:
    """Microseconds that a call of one token takes on the CPU."""
    x = torch.randn(1, 1, 256, device="cuda", requires_grad=backward)
    times = []
    for _ in range(60):
        torch.cuda.synchronize()
        start = time.perf_counter()
        y, _ = layer(x)
        if backward:
            y.sum().backward()
        times.append(1e6 * (time.perf_counter() - start))
    return round(median(times[10:]), 1)


def measured(file: str, name: str, kernels: str) -> dict[str, object]:
    os.environ["MIRAS_KERNELS"] = kernels
    torch.manual_seed(0)
    torch._dynamo.reset()
    layer = miras.load(file)[name](width=256, heads=4).cuda()
    fast = torch.compile(layer, fullgraph=True, dynamic=True)
    worst, first = 0.0, 0.0
    for length in (512, 333, 1024, 77):
        x = torch.randn(4, length, 256, device="cuda")
        expected = both(layer, x)
        start = time.perf_counter()
        made = both(fast, x)
        torch.cuda.synchronize()
        first = first or time.perf_counter() - start
        for found, wanted in zip(made, expected, strict=True):
            worst = max(worst, off(found, wanted))
    x = torch.randn(4, 1024, 256, device="cuda", requires_grad=True)
    times = {
        way: triton.testing.do_bench(lambda call=call: both(call, x), warmup=10, rep=60)
        for way, call in (("eager", layer), ("compiled", fast))
    }
    return {
        "layer": name,
        "kernels": kernels,
        "graphs": len(_debug_get_cache_entry_list(type(layer).forward.__code__)),
        "relative_difference": worst,
        "seconds_to_first_result": round(first, 1),
        "milliseconds": {way: round(t, 3) for way, t in times.items()},
        "host_us_forward": host_time(layer, False),
        "host_us_forward_backward": host_time(layer, True),
    }


def main() -> int:
    cases = [(f, n, k) for f, n in LAYERS.items() for k in ("on", "off")]
    rows = [measured(*case) for case in cases if case[0] != "yaad" or case[2] == "off"]
    report = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": rows,
    }
    Path(os.environ.get("OUT", "."), "gpu_operator.json").write_text(json.dumps(report, indent=1))
    for row in rows:
        print(*row.values(), sep="  ")
    return int(any(row["relative_difference"] > 1e-3 or row["graphs"] != 1 for row in rows))


if __name__ == "__main__":
    sys.exit(main())
