"""Certificates for every memory of a file: the module that `load` imports under the judge."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

import torch

from miras_dsl.codegen.digest import digest_of
from miras_dsl.dtypes import Dtype
from miras_dsl.exceptions import EnvironmentFailure, UsageError
from miras_dsl.runtime.judge.certificate import Certificate, certify
from miras_dsl.runtime.kernels.recurrent import enabled, supported
from miras_dsl.runtime.threads import on_threads
from miras_dsl.spec import FileSpec

from .judged_layer import JudgedLayer
from .loader import implementations


def certify_file(
    spec: FileSpec,
    *,
    only: Collection[str] = (),
    dtype: str = "float32",
    device: str = "cpu",
    tell: Callable[[str], object] | None = None,
) -> dict[str, Certificate]:
    """One certificate per memory, by name; ``only`` names some of them.

    ``tell`` is called with the name of each memory before it is judged.

    Where `load` would give a memory kernels there are two: of what it computes with kernels, and, as
    `NAME, chunk form`, of what it computes with MIRAS_KERNELS=off.

    Raises what `require_possible` raises, and ValueError for a type that is none of `Dtype`.
    """
    require_possible(spec, only, device)
    kind = getattr(torch, Dtype(dtype))
    digest = digest_of(spec)
    launched = enabled() and supported(device, kind)
    plain, fast = implementations(spec), implementations(spec, kernels=True) if launched else {}
    proofs: dict[str, Certificate] = {}
    # The oracle is a long chain of small operations: threads that wait for each other after every
    # one of them cost more than they share.  Processes, each with cases of its own, do not wait.
    workers = torch.get_num_threads()
    with on_threads(1):
        for name, memory in spec.memories.items():
            if only and name not in only:
                continue
            if tell is not None:
                tell(name)
            made, function, kind_of_layer = plain[name]
            layer = JudgedLayer(made, kind_of_layer)
            slow = "token by token" if made.form is None else "chunk form"
            ways = {name: (slow, function, layer)}
            if launched and fast[name][0].kernels:
                quick = JudgedLayer(fast[name][0], fast[name][2])
                ways = {
                    name: ("kernels", fast[name][1], quick),
                    f"{name}, {slow}": (slow, function, layer),
                }
            for title, (way, judged, own) in ways.items():
                proofs[title] = certify(
                    memory,
                    judged,
                    digest=digest,
                    way=way,
                    dtype=kind,
                    device=device,
                    layer=own,
                    workers=workers,
                )
    return proofs


def require_possible(spec: FileSpec, only: Collection[str], device: str) -> None:
    """Raise UsageError for an unknown memory or device, EnvironmentFailure where there is no GPU."""
    for name in only:
        if name not in spec.memories:
            held = ", ".join(spec.memories) or "none"
            raise UsageError(f"there is no memory {name}; the file holds {held}")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise UsageError(f"there is no device {device}; choose cpu or cuda")
    _, _, number = device.partition(":")
    if device != "cpu" and int(number or 0) >= torch.cuda.device_count():
        raise EnvironmentFailure(f"torch finds no GPU {device} on this machine; choose cpu")
