"""Generated modules on a GPU: equal to the CPU, and the time of their two ways through a sequence.

    python benchmarks/gpu_module.py

For each vector and matrix spec: a layer's answers and gradients on the GPU (chunk form) and its
prefill and decoding (Triton kernels) against the same layer on the CPU in float64; then milliseconds
for the memory alone, chunk form and kernels.  Writes gpu_module.json in $OUT (or here).
"""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import torch
import triton

from miras_dsl.runtime.load.loader import load
from miras_dsl.source import Source

SPECS = {
    "linear_attention": "LinearAttentionLayer",
    "gla": "GLALayer",
    "deltanet": "DeltaNetLayer",
    "gated_deltanet": "GatedDeltaNetLayer",
    "rwkv7": "RWKV7Layer",
    "delta_product": "DeltaProductLayer",
    "hgrn": "HGRNLayer",
    "logcosh_momentum": "LogCoshMomentumLayer",
    "yaad": "YaadLayer",
    "titans": "TitansLayer",
}
WIDTH, HEADS, TOKENS = 256, 4, 200
FACTOR, FLOOR = 4.0, 1e-5
"""A GPU result may be so many times as far off as float32 is on the CPU, or by this much."""


def miss(x: torch.Tensor, exact: torch.Tensor) -> float:
    """Largest error over the largest value."""
    return float((x.double().cpu() - exact).abs().max() / exact.abs().max())


def agreement(layer_class: type[torch.nn.Module]) -> dict[str, list[float]]:
    """A layer on the GPU against float64 on the CPU: its error, and that of float32 on the CPU."""
    torch.manual_seed(0)
    layer = layer_class(WIDTH, HEADS)
    x = torch.randn(2, TOKENS, WIDTH)
    double = layer_class(WIDTH, HEADS).double()
    double.load_state_dict({name: t.double() for name, t in layer.state_dict().items()})
    exact, _ = double(x.double())
    exact.square().mean().backward()
    single, _ = layer(x)
    single.square().mean().backward()
    here = {"answers": miss(single.detach(), exact.detach()), "gradients": gradients(layer, double)}
    layer.zero_grad()
    layer = layer.cuda()
    found = {}
    for way in ("on", "off"):
        os.environ["MIRAS_KERNELS"] = way
        y, _ = layer(x.cuda())
        y.square().mean().backward()
        found[f"answers, kernels {way}"] = [miss(y.detach(), exact.detach()), here["answers"]]
        found[f"gradients, kernels {way}"] = [gradients(layer, double), here["gradients"]]
        layer.zero_grad()
    os.environ["MIRAS_KERNELS"] = "on"
    with torch.no_grad():
        prefill, state = layer(x[:, :-20].cuda())
        decoded = []
        for t in range(TOKENS - 20, TOKENS):
            step, state = layer.step(x[:, t].cuda(), state)
            decoded.append(step)
    joined = torch.cat([prefill, torch.stack(decoded, 1)], 1)
    found["prefill and decoding"] = [miss(joined, exact.detach()), here["answers"]]
    return found


def gradients(layer: torch.nn.Module, double: torch.nn.Module) -> float:
    """The worst gradient of a parameter."""
    pairs = zip(layer.parameters(), double.parameters(), strict=True)
    return max(
        miss(p.grad, q.grad)
        for p, q in pairs
        if q.grad is not None and float(q.grad.abs().max()) > 1e-9
    )


def times(layer_class: type[torch.nn.Module], heads: int = 16, size: int = 64) -> dict[str, float]:
    """Milliseconds of a whole layer, B 8, T 2048, 16 heads of 64, bfloat16 autocast."""
    layer = layer_class(heads * size, heads).cuda()
    x = torch.randn(8, 2048, heads * size, device="cuda")

    def forward() -> None:
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
            layer(x)

    def training() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            y, _ = layer(x)
        y.float().square().mean().backward()

    found = {}
    for way, kind in (("on", "kernels"), ("off", "chunk form")):
        os.environ["MIRAS_KERNELS"] = way
        for name, call in (("forward", forward), ("training", training)):
            found[f"{name}, {kind}"] = float(
                triton.testing.do_bench(call, 50, 200, return_mode="median")
            )
    return found


def main() -> int:
    torch.backends.cuda.matmul.allow_tf32 = False
    rows, good = [], True
    for name, layer_name in SPECS.items():
        text = files("miras_dsl.specs").joinpath(f"{name}.mem").read_text(encoding="utf-8")
        layer_class = load(Source(f"{name}.mem", text))[layer_name]
        agreed = agreement(layer_class)
        good &= all(e <= max(FACTOR * base, FLOOR) for e, base in agreed.values())
        row = {"spec": name, "agreement": agreed, "milliseconds": times(layer_class)}
        rows.append(row)
        print(
            name,
            {k: f"{e:.0e}/{base:.0e}" for k, (e, base) in agreed.items()},
            {k: round(v, 2) for k, v in row["milliseconds"].items()},
            flush=True,
        )
    made = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(),
        "versions": {
            "torch": torch.__version__,
            "triton": triton.__version__,
            "python": platform.python_version(),
        },
        "shape": "B 8, T 2048, 16 heads of 64, bfloat16 autocast",
        "rows": rows,
    }
    Path(os.environ.get("OUT", "."), "gpu_module.json").write_text(json.dumps(made, indent=1))
    print("all agree" if good else "SOME DISAGREE")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
