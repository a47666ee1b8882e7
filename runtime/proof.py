"""Certificates for every memory of a file: the generated code under the judge."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import partial

import torch

from miras_dsl.codegen.digest import digest_of
from miras_dsl.dtypes import Dtype
from miras_dsl.failures import Misused, Unusable
from miras_dsl.spec import FileSpec

from .build import compiled, implementation
from .certificate import Certificate, certify
from .recurrent import allowed, possible
from .threads import on_threads


def prove(
    spec: FileSpec,
    *,
    only: Collection[str] = (),
    dtype: str = "float32",
    device: str = "cpu",
) -> dict[str, Certificate]:
    """One certificate per memory, by name; ``only`` names some of them.

    Where `load` would give a memory kernels there are two: of what it computes with kernels, and, as
    `NAME, chunk form`, of what it computes with MIRAS_KERNELS=off.

    Raises what `require` raises, and ValueError for a type that is none of `Dtype`.
    """
    require(spec, only, device)
    kind = getattr(torch, Dtype(dtype))
    digest = digest_of(spec)
    launched = allowed() and possible(device, kind)
    proofs: dict[str, Certificate] = {}
    # The oracle is a long chain of small operations: threads that wait for each other after every
    # one of them cost more than they share.
    with on_threads(1):
        for name, memory in spec.memories.items():
            if only and name not in only:
                continue
            made, _ = compiled(memory, launched)
            plain = "token by token" if made.form is None else "chunk form"
            ways = {name: plain}
            if made.kernels:
                ways = {name: "kernels", f"{name}, {plain}": plain}
            for title, way in ways.items():
                proofs[title] = certify(
                    memory,
                    partial(implementation, memory, kernels=way == "kernels"),
                    digest=digest,
                    way=way,
                    dtype=kind,
                    device=device,
                )
    return proofs


def require(spec: FileSpec, only: Collection[str], device: str) -> None:
    """Raise Misused for a memory or device that there cannot be, Unusable for a GPU not here."""
    for name in only:
        if name not in spec.memories:
            held = ", ".join(spec.memories) or "none"
            raise Misused(f"there is no memory {name}; the file holds {held}")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise Misused(f"there is no device {device}; choose cpu or cuda")
    _, _, number = device.partition(":")
    if device != "cpu" and int(number or 0) >= torch.cuda.device_count():
        raise Unusable(f"torch finds no GPU {device} on this machine; choose cpu")
