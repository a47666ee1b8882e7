"""Faults that show only far out: in long sequences, further heads, narrow states, large or tiny numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from miras_dsl.runtime.execute import chunk_form, chunk_scan
from miras_dsl.runtime.execute.chunk_form import ChunkedInputs
from miras_dsl.runtime.judge.cases import Case, covering
from miras_dsl.runtime.ops import tensor_ops
from tests.judge.faults import Patch, fault

BY_NAME = {case.name: case for case in covering(64)}


def small(name: str) -> tuple[Case, ...]:
    """A case of the certificate with small keys and values."""
    return (replace(BY_NAME[name], sizes=(4, 3)),)


FIVE_CHUNKS = small("five chunks, three heads")


@fault("delta", "a decay is one token late where a sequence has more than 3 chunks", FIVE_CHUNKS)
def _(patch: Patch) -> None:
    made = chunk_form.prepare

    def late(*arguments: Any) -> ChunkedInputs:
        found = made(*arguments)
        if found.context.layout.chunks <= 3:
            return found
        shifted = found.inputs["log_alpha"].roll(1, 2)
        return replace(found, inputs={**found.inputs, "log_alpha": shifted})

    patch.setattr(chunk_form, "prepare", late)


@fault("delta", "heads from the third on are given the first one's state", FIVE_CHUNKS)
def _(patch: Patch) -> None:
    made = chunk_form.prepare

    def mixed(*arguments: Any) -> ChunkedInputs:
        found = made(*arguments)
        heads = found.call.heads

        def exchanged(x: Tensor) -> Tensor:
            by_head = x.unflatten(0, (-1, heads))
            own = torch.arange(heads)
            return by_head[:, torch.where(own < 2, own, 0)].flatten(0, 1)

        return replace(found, states={n: exchanged(x) for n, x in found.states.items()})

    patch.setattr(chunk_form, "prepare", mixed)


@fault(
    "delta", "the state is rounded to 16 bits between chunks, in 16 bits", FIVE_CHUNKS, "bfloat16"
)
def _(patch: Patch) -> None:
    made = chunk_scan._as_tensor

    def rounded(x: Any, like: Tensor) -> Tensor:
        full = made(x, like)
        return full.bfloat16().to(full.dtype)

    patch.setattr(chunk_scan, "_as_tensor", rounded)


@fault(
    "delta",
    "the state is rounded to 16 bits where a chunk begins, in 16 bits",
    FIVE_CHUNKS,
    "bfloat16",
)
def _(patch: Patch) -> None:
    made = chunk_form.scan_chunks

    def rounded(memory: Any, program: Any, values: Any, states: Any, *rest: Any) -> Any:
        narrow = {n: x.bfloat16().to(x.dtype) for n, x in states.items()}
        return made(memory, program, values, narrow, *rest)

    patch.setattr(chunk_form, "scan_chunks", rounded)


@fault("potential", "the inverse of a potential's slope is off beyond 50", small("links"))
def _(patch: Patch) -> None:
    _off_beyond(patch, 50.0, 1.001)


@fault("potential", "the inverse of a potential's slope is off below 1e-10", small("links"))
def _(patch: Patch) -> None:
    _off_beyond(patch, -1e-10, 1.001)


def _off_beyond(patch: Patch, bound: float, factor: float) -> None:
    """Change the inverse beyond a bound, or below it if it is negative."""
    made = tensor_ops.monotone_inverse

    def off(slope: Any, steep: Any, a: Tensor, *rest: Any, **options: Any) -> Tensor:
        w = made(slope, steep, a, *rest, **options)
        far = a.abs() > bound if bound > 0 else a.abs() < -bound
        return torch.where(far, factor * w, w)

    patch.setattr(tensor_ops, "monotone_inverse", off)


@fault("power", "the sign of a residual is lost below 1e-10", small("tiny residuals"))
def _(patch: Patch) -> None:
    made = tensor_ops.signed_pow

    def unsigned(x: Tensor, p: Any) -> Tensor:
        return torch.where(x.abs() < 1e-10, made(x.abs(), p), made(x, p))

    patch.setattr(tensor_ops, "signed_pow", unsigned)


@fault("delta", "the thousandth token is forgotten", small("2048 tokens"))
def _(patch: Patch) -> None:
    made = chunk_form.prepare

    def hole(*arguments: Any) -> ChunkedInputs:
        found = made(*arguments)
        key = found.inputs["key"].clone()
        if key.shape[0] > 15:
            key[15, :, 40] = 0
        return replace(found, inputs={**found.inputs, "key": key})

    patch.setattr(chunk_form, "prepare", hole)
