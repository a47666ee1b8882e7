"""The token-by-token kernels on a GPU: the correctness contract first, then times.

    python benchmarks/gpu_recurrent.py                 every vector and matrix spec
    python benchmarks/gpu_recurrent.py --no-times      the contract only (--no-checks: times only)
    python benchmarks/gpu_recurrent.py --only gla      one of them
    python benchmarks/gpu_recurrent.py --full          the full product of lengths and sizes

Every case is compared with the oracle in float64 on two heads: output, final state and every
gradient, with NaN in whatever torch.empty gives.  The table is printed last and everything is
written to gpu_recurrent.json in $OUT (or here).  Exit code 1 unless every comparison is green and
repeats of a timed call are equal to the bit.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import triton
from torch import Tensor

from miras_dsl.check import read
from miras_dsl.codegen.derive.update import UpdateRule, update_rule
from miras_dsl.codegen.model.build import build_model
from miras_dsl.runtime.judge.cases import Case, covering, full_product
from miras_dsl.runtime.judge.certificate import Certificate, certify
from miras_dsl.runtime.judge.oracle.run import axis_sizes
from miras_dsl.runtime.kernels.launch_config import configure_launch
from miras_dsl.runtime.load.kernel_modules import implementation, tables
from miras_dsl.runtime.run import MemoryOp, run
from miras_dsl.source import Source
from miras_dsl.spec import MemorySpec

SHIPPED = (
    "linear_attention", "gla", "deltanet", "gated_deltanet", "rwkv7", "delta_product", "hgrn",
    "logcosh_momentum",
)  # fmt: skip
HUBER = """
memory Huber(dk, dv) {
  architecture W: matrix[value, key]
  bias         huber_mixture(delta)
  retention    l2(alpha)
  algorithm    gd(eta), exact
  order        decay, predict, write, read
  gates        { alpha = sigmoid(linear(x))   eta = sigmoid(linear(x))
                 delta = softplus(linear(x)) }
}
"""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LONG = (
    Case("T 1000 D 128", (1000,), (128, 128), warm=True, keys=0.5),
    Case("T 1000 D 64", (1000,), (64, 64), keys=0.0),
    Case("packed long", (300, 0, 1, 64, 65), (64, 100), packed=True, warm=True, keys=0.5),
)
SHAPES = {"a": (8, 2048, 16, 128), "c": (8, 2048, 32, 64), "small": (2, 1024, 4, 64)}
"""Batch, time, heads and head size of what is timed."""


def spec_of(name: str) -> MemorySpec:
    """A shipped memory, or the mixture that couples the values."""
    text = HUBER if name == "huber" else (files("miras_dsl.specs") / f"{name}.mem").read_text()
    return next(iter(read(Source(f"{name}.mem", text)).memories.values()))


def cases(full: bool) -> tuple[Case, ...]:
    """The judged cases: the covering array and three long ones, or the full product."""
    return full_product(64) if full else (*covering(64), *LONG)


def judged(name: str, dtype: str, chosen: Sequence[Case]) -> tuple[str, str, Certificate]:
    """The certificate of one memory's kernels.  The oracle runs on the CPU, the kernels do not."""
    torch.set_num_threads(1)
    # torch.empty gives NaN, so that what a kernel fails to write is seen.
    torch.use_deterministic_algorithms(True, warn_only=True)
    spec = spec_of(name)
    return (
        name,
        dtype,
        certify(spec, implementation(spec), dtype=DTYPES[dtype], device="cuda", cases=chosen),
    )


def summary(certificate: Certificate) -> dict[str, object]:
    """What a certificate says in a few lines: verdicts, and the worst comparison of each quantity."""
    worst: dict[str, dict[str, object]] = {}
    for row in certificate.rows:
        found = row.result
        ratio = round(found.error / found.allowed, 4) if found.allowed else 0.0
        if ratio >= worst.get(found.name, {"ratio": 0.0})["ratio"]:  # type: ignore[operator]
            worst[found.name] = {"ratio": ratio, "check": row.check, "case": row.case}
    return {
        "spec": certificate.spec,
        "dtype": certificate.dtype,
        "green": certificate.green,
        "rows": len(certificate.rows),
        "verdicts": Counter(row.result.verdict for row in certificate.rows),
        "worst_error_over_allowed": worst,
    }


Tensors = dict[str, Tensor]


def drawn(
    spec: MemorySpec, rule: UpdateRule, dtype: str, shape: tuple[int, ...]
) -> tuple[Tensors, Tensors]:
    """Inputs and state of a timed call, on the GPU."""
    batch, length, heads, size = shape
    sizes = {name: default or size for name, default in spec.params}
    extent = axis_sizes(spec, sizes)
    declared = {d.name: d.axes for d in (*spec.tokens, *spec.gates)}
    inputs: Tensors = {}
    for feed in rule.inputs:
        axes = tuple(a for a in declared[feed.of] if a != "row") or ()
        if feed.weight is not None:
            axes = feed.axes
        x = torch.randn(batch, length, heads, *(extent[a] for a in axes), device="cuda")
        if feed.kind == "token":
            x = (torch.nn.functional.normalize(x, dim=-1) if axes else x).to(DTYPES[dtype])
        else:
            x = torch.sigmoid(x)
            x = -0.1 * x if feed.log else 0.5 * x
        inputs[feed.name] = x.requires_grad_()
    state: Tensors = {}
    for weight in rule.state_tensors:
        tile = [extent[a.name] for a in weight.axes]
        state[weight.name] = torch.zeros(batch, heads, *tile, device="cuda").requires_grad_()
    return inputs, state


def timed(name: str, dtype: str, which: str) -> dict[str, object]:
    """Milliseconds of a forward call and of forward and backward, and whether repeats are equal."""
    shape = SHAPES[which]
    spec = spec_of(name)
    rule = update_rule(build_model(spec))
    _, memory, kernels = tables(spec)
    op = MemoryOp(memory, kernels)
    inputs, state = drawn(spec, rule, dtype, shape)
    leaves = [*inputs.values(), *state.values()]

    def forward() -> Tensor:
        with torch.no_grad():
            return run(op, inputs, state)[0]

    y, _ = run(op, inputs, state)
    cotangent = torch.randn_like(y)

    def both() -> tuple[Tensor, ...]:
        out, _ = run(op, inputs, state)
        return torch.autograd.grad(out, leaves, cotangent)

    first = both()
    same = all(
        torch.equal(a, b) for _ in range(3) for a, b in zip(first, both(), strict=True)
    ) and torch.equal(forward(), y)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    both()
    extra = torch.cuda.max_memory_allocated() - before
    ahead, back = (
        triton.testing.do_bench(call, warmup=20, rep=100, return_mode="median")
        for call in (forward, both)
    )
    batch, length, heads, size = shape
    axes = {axis for _, named in (*kernels.tokens, *kernels.states) for axis in named}
    plan = configure_launch(kernels, dict.fromkeys(axes, size), length * rule.steps_per_token)
    return {
        "memory": name, "dtype": dtype, "shape": which, "batch": batch, "time": length,
        "heads": heads, "size": size, "forward_ms": ahead, "both_ms": back,
        "tokens_per_second": batch * length / back * 1000, "peak_bytes": extra,
        "repeats_equal": same, "tile": plan.tile, "warps": plan.warps,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--only", nargs="*", default=[*SHIPPED, "huber"])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--workers", type=int, default=min(18, 2 + (os.cpu_count() or 1)))
    parser.add_argument("--no-times", action="store_true")
    parser.add_argument("--no-checks", action="store_true")
    parser.add_argument("--name", default="gpu_recurrent", help="of the JSON file")
    arguments = parser.parse_args()
    chosen, started = cases(arguments.full), time.time()
    versions = {"torch": torch.__version__, "triton": triton.__version__}
    versions["python"] = sys.version.split()[0]
    out = Path(os.environ.get("OUT", ".")) / f"{arguments.name}.json"
    record: dict[str, object] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(),
        "versions": versions,
        "command": sys.argv[1:],
    }  # fmt: skip

    found: dict[tuple[str, str], Certificate] = {}
    work = [(name, dtype) for name in arguments.only for dtype in DTYPES]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.workers, mp_context=spawn) as pool:
        asked = [] if arguments.no_checks else work
        for job in [pool.submit(judged, name, dtype, chosen) for name, dtype in asked]:
            name, dtype, certificate = job.result()
            found[name, dtype] = certificate
            verdict = "green" if certificate.green else "RED"
            print(f"{time.time() - started:6.0f} s  {name} {dtype}: {verdict}", flush=True)
    record["certificates"] = [summary(c) for c in found.values()]
    out.write_text(json.dumps(record, indent=1))
    for certificate in found.values():
        for row in certificate.failures[:12]:
            r = row.result
            print(
                f"  {certificate.spec} {certificate.dtype}: {row.check}, {row.case}, {r.name}: "
                f"{r.verdict}, error {r.error:.2e} allowed {r.allowed:.2e} rms {r.rms:.2e}"
            )

    rows = []
    for name, dtype in [] if arguments.no_times else work:
        for which in SHAPES:
            rows.append(timed(name, dtype, which))
            torch.cuda.empty_cache()
        record["times"] = rows
        out.write_text(json.dumps(record, indent=1))
        print(f"{time.time() - started:6.0f} s  {name} {dtype}: timed", flush=True)

    said = ", ".join(f"{name} {version}" for name, version in versions.items())
    print(f"\n{record['device']}, {said}, {record['date']}")
    print(f"{'memory':<18}{'dtype':<10}{'contract':<22}" + "".join(f"{w:>19}" for w in SHAPES))
    for name, dtype in work:
        verdict = "not checked"
        if (name, dtype) in found:
            certificate = found[name, dtype]
            verdict = "green" if certificate.green else f"RED ({len(certificate.failures)})"
            verdict = f"{verdict}, {len(certificate.rows)} rows"
        mine = [r for r in rows if (r["memory"], r["dtype"]) == (name, dtype)]
        cells = "".join(f"{r['forward_ms']:>9.2f} /{r['both_ms']:>8.2f}" for r in mine)
        print(f"{name:<18}{dtype:<10}{verdict:<22}{cells}")
    print("milliseconds, forward / forward and backward")
    for which, (batch, length, heads, size) in SHAPES.items():
        print(f"  {which}: B{batch} T{length} H{heads} D{size}")
    unequal = [r for r in rows if not r["repeats_equal"]]
    for row in unequal:
        print(f"repeats differ: {row['memory']} {row['dtype']} {row['shape']}")
    return 1 if unequal or not all(c.green for c in found.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
