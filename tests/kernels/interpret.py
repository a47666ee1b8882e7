"""Judges the kernels of one memory in Triton's interpreter; prints one JSON line per comparison.

Run as a module with TRITON_INTERPRET=1: a process that interprets kernels cannot also compile them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch

from miras_dsl.codegen import pipeline
from miras_dsl.codegen.emit.torch.memory import emit_memory
from miras_dsl.codegen.emit.triton.module import emit_kernels
from miras_dsl.runtime.judge import certificate
from miras_dsl.runtime.judge.case_data import data
from miras_dsl.runtime.judge.cases import Case, parameters
from miras_dsl.runtime.judge.certificate import certify
from miras_dsl.runtime.kernels import launch_config, recurrent
from miras_dsl.runtime.kernels.triton_interpreter import interpreting
from miras_dsl.runtime.load import kernel_modules, loader
from miras_dsl.spec import MemorySpec
from tests.kernels.kernel_cases import CASES, dealt, memory_named


def plant(old: str, new: str) -> None:
    """Generate kernels, and the table beside them, with a mistake from now on."""
    makers = {"emit_memory": emit_memory, "emit_kernels": emit_kernels}
    seen: set[bool] = set()

    def mistaken(make: Callable[..., str], *given: Any) -> str:
        text = make(*given)
        seen.add(old in text)
        # Kernels are printed after the functions beside them.
        assert make is emit_memory or True in seen, f"nothing to break: {old!r}"
        return text.replace(old, new)

    for name, make in makers.items():
        setattr(pipeline, name, partial(mistaken, make))
    loader.compiled.cache_clear()


def judge(
    spec: MemorySpec, values: int | None, cases: tuple[Case, ...], fault: int | None = None
) -> None:
    """Print every comparison of some cases."""
    made = certify(spec, kernel_modules.implementation(spec, values=values), cases=cases, chunk=1)
    for row in made.rows:
        found = {"fault": fault, "check": row.check, "case": row.case, **asdict(row.result)}
        print(json.dumps(found))
    assert not made.missing


def tiled(spec: MemorySpec, values: int | None, segment: int) -> dict[str, torch.Tensor]:
    """Outputs, states and gradients with so many values in a program and tokens in a segment."""
    made = launch_config.configure_launch

    def cut(*given: Any) -> launch_config.LaunchConfig:
        return replace(made(*given), segment=segment)

    recurrent.configure_launch = cut
    case = Case("tiles", (9,), (5, 9), warm=True, keys=0.5)
    drawn = data(spec, case, torch.float32)
    inputs = {n: x.float().requires_grad_() for n, x in drawn.inputs.items()}
    state = {n: x.float() if x.is_floating_point() else x for n, x in drawn.state.items()}
    held = {n: x.requires_grad_() for n, x in state.items() if x.is_floating_point()}
    run = kernel_modules.implementation(spec, values=values)(parameters(spec, case))
    y, after = run(inputs, state)
    ends = {n: x for n, x in after.items() if x.is_floating_point() and x.requires_grad}
    loss = (y * drawn.cotangent.float()).sum() + sum((x * x.cos()).sum() for x in ends.values())
    wanted = {**inputs, **{f"state {n}": x for n, x in held.items()}}
    slopes = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    found = {f"d {n}": g for n, g in zip(wanted, slopes, strict=True) if g is not None}
    return {"y": y, **{f"state {n}": x for n, x in ends.items()}, **found}


TILES = ((8, 16), (4, 16), (None, 16), (8, 2), (8, 64))
"""Values in a program and tokens in a segment; the first is what others are compared with."""


def compare_tiles(spec: MemorySpec) -> None:
    """Print how far each tiling is from the first."""
    first, *others = (tiled(spec, *tile) for tile in TILES)
    for tile, other in zip(TILES[1:], others, strict=True):
        for name, x in first.items():
            apart = (x - other[name]).abs().max() / x.abs().max().clamp(min=1e-6)
            print(json.dumps({"tile": tile, "name": name, "apart": float(apart)}))


def main(given: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("memory", nargs="+")
    parser.add_argument("--values", type=int, default=None)
    parser.add_argument("--past", type=int, default=launch_config.RECOMPUTE_BYTES)
    parser.add_argument("--fault", nargs=2, action="append", default=[])
    parser.add_argument("--tiles", action="store_true")
    arguments = parser.parse_args(given)
    assert interpreting(), "set TRITON_INTERPRET=1"
    # What torch.empty gives is NaN, so that what a kernel fails to write is seen.
    torch.use_deterministic_algorithms(True)
    assert torch.empty(1).isnan().all()
    launch_config.RECOMPUTE_BYTES = arguments.past
    spec = memory_named(arguments.memory[0])
    # Masks and the order of rows are dealt with before kernels are reached.
    certificate.CHECKS = {
        name: check
        for name, check in certificate.CHECKS.items()
        if name not in ("masked", "reordered")
    }
    if arguments.tiles:
        for name in arguments.memory:
            compare_tiles(memory_named(name))
    elif not arguments.fault:
        judge(spec, arguments.values, CASES)
    # From here on one call for each case is enough.
    certificate.CHECKS = {"whole": certificate.CHECKS["whole"]}
    if not arguments.fault and not arguments.tiles:
        judge(spec, None, dealt(arguments.memory[0]))
    for number, mistake in enumerate(arguments.fault):
        plant(*mistake)
        judge(spec, arguments.values, (CASES[0], CASES[2]), number)


if __name__ == "__main__":
    main(sys.argv[1:])
