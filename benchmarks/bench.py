"""The project's figures on a CPU, each beside its limit, written to benchmarks/cpu.json.

    python benchmarks/bench.py [--only chunk compile check]

chunk    a training step of the generated chunk form against a plain loop over tokens; the two
         agree, measured in float64, or there is no figure; each side on its best number of threads
compile  import, and parse + derive + render of every shipped spec
check    `miras check` of Yaad, and of every shipped spec, two at a time

Exit status 1 when a figure misses its limit or a number is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import torch
from loops import BLOCK, LOOPS
from torch import Tensor

from miras_dsl.check import read
from miras_dsl.runtime.load.loader import implementation
from miras_dsl.source import Source

BATCH, TOKENS, HEADS, DIM = 2, 1024, 4, 64
TEXTS = {
    "linear": """memory Bench(dk, dv) {
  architecture W: matrix[value, key]
  bias         dot
  retention    decay alpha
  algorithm    gd(1), exact
  order        decay, write, read
  gates        { alpha = sigmoid(linear(x)) }
}""",
    "substitution": """memory Bench(dk, dv) {
  architecture W: matrix[value, key]
  bias         sum(log(cosh(W @ key - value)))
  retention    decay alpha
  algorithm    gd(eta), exact
  order        decay, predict, write, read
  gates        { alpha = sigmoid(linear(x))   eta = sigmoid(linear(x)) }
}""",
    "deep": f"""memory Bench(d) {{
  architecture mlp(hidden = 4 * d, activation = gelu, residual)
  bias         l2
  retention    decay alpha
  algorithm    gd(eta), anchored({BLOCK})
  order        predict, decay, write, read
  gates        {{ alpha = sigmoid(linear(x))   eta = sigmoid(linear(x)) / {BLOCK} }}
}}""",
}
FASTER = {"linear": 10.0, "substitution": 5.0, "deep": 3.0}
IMPORT, COMPILE, CHECK_YAAD, CHECK_ALL = 0.30, 1.0, 15.0, 240.0
WRONG = {"answer": 1e-4, "gradient": 1e-3}
"""Largest difference from the float64 loop, as a share of its largest number, in float32."""

COMPILED = """
import sys, time
import miras_dsl as miras
miras.compile("memory A(d) { architecture W: matrix[value, key] bias dot retention none "
              "algorithm gd(1), exact order write, read }")
source = miras.find(sys.argv[1])
began = time.perf_counter()
miras.compile(source)
print(time.perf_counter() - began)
"""


def leaves(name: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """The inputs of a loop by its arguments' names, the same for every type."""
    torch.manual_seed(0)
    vectors = [torch.randn(BATCH, TOKENS, HEADS, DIM, dtype=torch.float64) for _ in range(3)]
    vectors[:2] = [torch.nn.functional.normalize(x, dim=-1) for x in vectors[:2]]
    made = dict(zip(("query", "key", "value"), vectors, strict=True))
    made["alpha"] = 0.9 + 0.1 * torch.rand(BATCH, TOKENS, HEADS, dtype=torch.float64)
    if name != "linear":
        rate = 0.5 if name == "substitution" else 1 / BLOCK
        made["eta"] = rate * torch.rand(BATCH, TOKENS, HEADS, dtype=torch.float64)
    if name == "deep":
        hidden = 4 * DIM
        made["w1"] = torch.randn(BATCH, HEADS, hidden, DIM, dtype=torch.float64) / DIM**0.5
        made["w2"] = torch.randn(BATCH, HEADS, DIM, hidden, dtype=torch.float64) / hidden**0.5
    return {k: x.to(dtype).requires_grad_() for k, x in made.items()}


def generated(name: str) -> Callable[..., Tensor]:
    """The generated chunk form with the arguments of the loop."""
    spec = read(Source("bench.mem", TEXTS[name])).memories["Bench"]
    memory = implementation(spec, {"d": DIM, "dk": DIM, "dv": DIM})

    def run(w1: Tensor | None = None, w2: Tensor | None = None, **inputs: Tensor) -> Tensor:
        if w1 is None or w2 is None:
            return memory(inputs, None)[0]
        state = {"W1": w1, "W2": w2, "W1.anchor": w1, "W2.anchor": w2}
        state["position"] = torch.zeros(BATCH, dtype=torch.int64)
        return memory(inputs, state)[0]

    return run


def step(run: Callable[..., Tensor], inputs: dict[str, Tensor], d_y: Tensor) -> dict[str, Tensor]:
    """Forward and backward: the answer and every gradient."""
    for x in inputs.values():
        x.grad = None
    y = run(**inputs)
    y.backward(d_y)
    grads = {f"d_{k}": x.grad for k, x in inputs.items() if x.grad is not None}
    return {"y": y.detach(), **grads}


def seconds(call: Callable[[], object], times: int) -> tuple[float, int]:
    """The median of some calls after one that is not counted, on as many threads as are fastest."""
    found: dict[int, float] = {}
    for threads in sorted({1, os.cpu_count() or 1}):
        torch.set_num_threads(threads)
        call()
        took = []
        for _ in range(times):
            began = time.perf_counter()
            call()
            took.append(time.perf_counter() - began)
        found[threads] = statistics.median(took)
    best = min(found, key=found.__getitem__)
    return found[best], best


def chunk(name: str) -> dict[str, object]:
    """One training step, generated against loop, and how far both are from float64."""
    ours, loop = generated(name), LOOPS[name]
    inputs, exact = leaves(name, torch.float32), leaves(name, torch.float64)
    torch.manual_seed(1)
    d_y = torch.randn(BATCH, TOKENS, HEADS, DIM)
    truth = step(loop, exact, d_y.double())
    far = {
        who: {k: share(x, truth[k]) for k, x in step(run, inputs, d_y).items()}
        for who, run in (("generated", ours), ("loop", loop))
    }
    right = far["generated"].keys() == truth.keys() and all(
        e <= WRONG["answer" if k == "y" else "gradient"] for k, e in far["generated"].items()
    )
    fast, ours_on = seconds(lambda: step(ours, inputs, d_y), 7)
    slow, loop_on = seconds(lambda: step(loop, inputs, d_y), 3)
    return {
        "generated_ms": round(1e3 * fast, 1),
        "loop_ms": round(1e3 * slow, 1),
        "ratio": round(slow / fast, 1),
        "at_least": FASTER[name],
        "threads": {"generated": ours_on, "loop": loop_on},
        "errors": {who: {k: float(f"{e:.1e}") for k, e in es.items()} for who, es in far.items()},
        "right": right,
        "met": right and slow / fast >= FASTER[name],
    }


def share(x: Tensor, truth: Tensor) -> float:
    """The largest difference as a share of the largest number."""
    return float((x.double() - truth).abs().max() / truth.abs().max())


def shipped() -> list[str]:
    """The names of the shipped specs."""
    names = (p.name for p in files("miras_dsl.specs").iterdir())
    return sorted(name.removesuffix(".mem") for name in names if name.endswith(".mem"))


def python(*arguments: str, threads: int = 0) -> tuple[float, str, int]:
    """A fresh Python: its seconds, what it printed, its exit status."""
    settings = dict(os.environ)
    if threads:
        settings["OMP_NUM_THREADS"] = str(threads)
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=settings
    )
    return time.perf_counter() - began, done.stdout, done.returncode


def compiling() -> dict[str, object]:
    """Import above bare Python, and parse + derive + render of each spec in a fresh process."""
    bare = statistics.median(python("-c", "pass")[0] for _ in range(7))
    whole = statistics.median(python("-c", "import miras_dsl")[0] for _ in range(7))
    specs = {
        name: round(min(float(python("-c", COMPILED, name)[1]) for _ in range(2)), 2)
        for name in shipped()
    }
    return {
        "import_s": round(whole - bare, 3),
        "import_at_most": IMPORT,
        "text_to_module_s": specs,
        "text_to_module_at_most": COMPILE,
        "met": whole - bare <= IMPORT and max(specs.values()) <= COMPILE,
    }


def checking() -> dict[str, object]:
    """Certificates from the command line: Yaad alone, then every spec, two processes at a time."""
    yaad, _, status = python("-m", "miras_dsl", "check", "yaad", "--only", "Yaad")
    began = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        runs = {
            name: pool.submit(python, "-m", "miras_dsl", "check", name, threads=1)
            for name in shipped()
        }
        done = {name: run.result() for name, run in runs.items()}
    every = time.perf_counter() - began
    red = [name for name, (_, _, code) in done.items() if code]
    return {
        "yaad_s": round(yaad, 1),
        "yaad_at_most": CHECK_YAAD,
        "all_s": round(every, 1),
        "all_at_most": CHECK_ALL,
        "each_s": {name: round(took, 1) for name, (took, _, _) in done.items()},
        "red": red,
        "met": not status and not red and yaad <= CHECK_YAAD and every <= CHECK_ALL,
    }


def machine() -> dict[str, object]:
    """Where and when: what a reader needs to judge the figures."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "device": _processor(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "triton", "sympy", "numpy")},
        "shape": f"B{BATCH} T{TOKENS} H{HEADS} D{DIM}, float32, forward and backward",
    }


def _processor() -> str:
    listed = Path("/proc/cpuinfo")
    if listed.exists():
        for line in listed.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parts = ("chunk", "compile", "check")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("cpu.json"))
    asked = parser.parse_args()
    figures = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    figures["machine"] = machine()
    wanted: dict[str, Callable[[], dict[str, object]]] = {}
    if "compile" in asked.only:
        wanted["compile"] = compiling
    if "chunk" in asked.only:
        wanted |= {f"chunk_{name}": partial(chunk, name) for name in TEXTS}
    if "check" in asked.only:
        wanted["check"] = checking
    made: dict[str, dict[str, object]] = {}
    for name, measure in wanted.items():
        made[name] = figure = measure()
        print(f"{'met   ' if figure['met'] else 'MISSED'} {name}: {json.dumps(figure)}", flush=True)
        asked.out.write_text(json.dumps(figures | made, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {asked.out}")
    return 0 if all(figure["met"] for figure in made.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
