"""The contract's numbers: when does a computed tensor agree with the float64 oracle?

A result x passes when it is finite, ``max|x - exact| <= k (max|low - exact| + eps max|exact|)``
with k = 2 forward and 3 backward, and its RMS error is small against the RMS of the exact values.
Here ``low`` is the low-precision reference: the oracle with single-precision states and every
operand of a product rounded to the type under test.  Where that reference itself is off by more
than 5 % (RMS) no tolerance means anything: the verdict is "ill-conditioned", which is never green.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["output", "state", "token gradient", "gate gradient", "state gradient"]
Verdict = Literal["green", "red", "ill-conditioned"]

RMS_LIMIT: dict[Kind, float] = {
    "output": 0.005,
    "state": 0.005,
    "token gradient": 0.008,
    "state gradient": 0.008,
    "gate gradient": 0.02,
}
ILL_CONDITIONED = 0.05
VANISHING = 1e-10
"""Below this an exact value is a structural zero: its rounding noise has no meaningful ratio."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """One comparison.

    name       what was compared: `y`, `state W`, `d key`
    error      max|x - exact|, and what the contract allows
    rms        RMS of x - exact over RMS of exact; reference_rms is the same of the reference
    """

    name: str
    kind: Kind
    error: float
    allowed: float
    rms: float
    rms_allowed: float
    reference_rms: float
    finite: bool
    verdict: Verdict


def precision(dtype: torch.dtype) -> float:
    """The spacing of numbers at 1."""
    return torch.finfo(dtype).eps


def judge(
    name: str,
    kind: Kind,
    x: Tensor,
    exact: Tensor,
    low: Tensor,
    dtype: torch.dtype,
    room: float = 1.0,
) -> Agreement:
    """Compare a result with the oracle's value and its low-precision reference.

    A float64 result is compared with the single-precision reference's error, scaled to float64.
    room  eps counts so many times in float32 and float64, where nothing but the order of operations
          tells a chunk form from the reference, and k is doubled: two roundings of equal size and
          no common cause; in 16 bits the rounding of operands, common to both, rules.  In float64
          gradients are measured against the size of their terms too: logarithms of decays have no
          wider type to be summed in there
    """
    if x.shape != exact.shape:
        raise ValueError(f"{name} has shape {tuple(x.shape)}, expected {tuple(exact.shape)}")
    if exact.numel() == 0:
        return Agreement(name, kind, 0.0, 0.0, 0.0, RMS_LIMIT[kind], 0.0, True, "green")
    exact = exact.detach().double()
    miss = x.detach().double() - exact
    reference = low.detach().double() - exact
    shrink = precision(dtype) / precision(torch.float32) if dtype == torch.float64 else 1.0
    size = float(exact.abs().max())
    vanishes = size < VANISHING
    wide, double = precision(dtype) < 1e-6, dtype == torch.float64
    factor = (2.0 if kind in ("output", "state") else 3.0) * (2.0 if wide else 1.0)
    # Cotangents have size 1, and so have the terms of a gradient, even where they cancel.
    unit = vanishes or (double and "gradient" in kind)
    floor = precision(dtype) * (room if wide else 1.0) * (max(size, 1.0) if unit else size)
    allowed = factor * (shrink * float(reference.abs().max()) + floor)
    error = float(miss.abs().max())
    scale = 0.0 if vanishes else _rms(exact)
    rms = _rms(miss) / scale if scale else 0.0
    reference_rms = shrink * _rms(reference) / scale if scale else 0.0
    finite = bool(torch.isfinite(x).all())
    verdict: Verdict = "green"
    if not finite or not error <= allowed or not rms <= RMS_LIMIT[kind]:
        verdict = "red"
    if not reference_rms <= ILL_CONDITIONED:
        verdict = "ill-conditioned"
    if not finite:
        verdict = "red"
    limit = RMS_LIMIT[kind]
    return Agreement(name, kind, error, allowed, rms, limit, reference_rms, finite, verdict)


def absent(name: str, kind: Kind) -> Agreement:
    """A result that should be there and is not."""
    return Agreement(name, kind, float("inf"), 0.0, float("inf"), 0.0, 0.0, False, "red")


def identical(name: str, kind: Kind, x: Tensor, other: Tensor) -> Agreement:
    """Two results that must have the same bits."""
    same = torch.equal(x, other)
    error = 0.0 if same or x.shape != other.shape else float((x - other).abs().max())
    finite = bool(torch.isfinite(x).all())
    verdict: Verdict = "green" if same and finite else "red"
    return Agreement(name, kind, error, 0.0, 0.0, 0.0, 0.0, finite, verdict)


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())
