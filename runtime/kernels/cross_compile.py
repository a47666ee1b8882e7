"""Compiles kernels for a GPU that need not be here, and reads the registers and memory they use."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from .launch_config import LaunchConfig, Recurrence

TARGET = GPUTarget("cuda", 90, 32)
TYPES = {"float32": "*fp32", "bfloat16": "*bf16", "float16": "*fp16"}


@dataclass(frozen=True, slots=True)
class Usage:
    """What a compiled kernel uses.

    registers  of each thread
    spilled    bytes of each thread in local memory
    shared     bytes of shared memory of each program
    atomics    floating-point atomic instructions in the PTX
    """

    registers: int
    spilled: int
    shared: int
    atomics: int


def compiled(
    kernels: Recurrence, launch: LaunchConfig, dtype: str = "bfloat16", packed: bool = False
) -> tuple[Usage, Usage]:
    """The usage of the forward and the backward kernel, compiled as the launcher would for sm_90.

    dtype  of tokens and gates: "float32", "bfloat16" or "float16"
    """
    return tuple(
        _compiled(k, kernels, launch, dtype, packed, way)
        for way, k in (("forward", kernels.forward), ("backward", kernels.backward))
    )  # type: ignore[return-value]


def _compiled(
    kernel: Any, kernels: Recurrence, launch: LaunchConfig, dtype: str, packed: bool, way: str
) -> Usage:
    sizes: dict[str, int | bool | None] = {
        "V": launch.sizes["value"], "BV": launch.tile["value"], "SEGMENT": launch.segment,
        "PACKED": packed,
    }  # fmt: skip
    if way == "forward":
        sizes["KEEP"] = True
    if "key" in launch.sizes:
        sizes |= {"K": launch.sizes["key"], "BK": launch.tile["key"]}
    if not packed:
        sizes["offsets_ptr"] = None
    names = {f"{name}_ptr" for name, _ in kernels.tokens} | {"y_ptr", "d_y_ptr"}
    if launch.blocks == 1:
        names |= {f"d_{name}_ptr" for name, _ in kernels.tokens}
    signature: dict[str, str] = {}
    for name in kernel.arg_names:
        if name in sizes:
            signature[name] = "constexpr"
        elif name in ("T", "L", "H"):
            signature[name] = "i32"
        elif name in ("offsets_ptr", "place_ptr"):
            signature[name] = "*i64"
        else:
            signature[name] = TYPES[dtype] if name in names else "*fp32"
    aligned: dict[Any, Any] = {
        (n,): [["tt.divisibility", 16]]
        for n, name in enumerate(kernel.arg_names)
        if signature[name].startswith("*")
    }
    source = ASTSource(kernel, signature, constexprs=sizes, attrs=aligned)
    made = triton.compile(source, target=TARGET, options={"num_warps": launch.warps})
    registers, stack = _resources(made.asm["cubin"])
    atomics = len(re.findall(r"\b(?:atom|red)\.[\w.]*f(?:16|32|64)\b", made.asm["ptx"]))
    return Usage(registers, stack, made.metadata.shared, atomics)


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers and stack bytes of a thread, as NVIDIA's cuobjdump reports them."""
    tool = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", "cuobjdump")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        call = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        )
    found: Mapping[str, str] = dict(re.findall(r"\b(REG|STACK):(\d+)", call.stdout))
    return int(found["REG"]), int(found["STACK"])
