"""When a computed tensor agrees with the float64 oracle.

A result x passes when it is finite, ``max|x - exact| <= k (max|low - exact| + eps max|exact|)``
with k = 2 forward and 3 backward, and its RMS error is small against the RMS of the exact values.
Here ``low`` is the low-precision reference: the oracle with single-precision states and every
operand of a product rounded to the type under test.  In 16 bits the rounding of operands dominates,
and one reference shows its size.  In float32 the error of one reference is a matter of chance and may
be very small, so the largest of several counts (`reference.redraw`).

There are three verdicts.  *Green*: the code gives what the rule says.  *Red*: it gives something else,
or a number that is not finite where the rule's is and fits the type.  *Not judged*: the rule itself is
not finite there, or this type cannot hold it, or rounds it by more than 5 % (RMS) so that a deviation
has no meaning; `obstacles` says why and what to change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal[
    "output", "state", "token gradient", "gate gradient", "decay gradient", "state gradient"
]
Verdict = Literal["green", "red", "not judged"]

RMS_LIMIT: dict[Kind, float] = {
    "output": 0.005,
    "state": 0.005,
    "token gradient": 0.008,
    "state gradient": 0.008,
    "gate gradient": 0.02,
    "decay gradient": 0.02,
}
ILL_CONDITIONED = 0.05
SATURATED = 0.5
"""Where float32 is off by so much, its error no longer shows that of float64, which is a share of it."""
VANISHING = 1.2e-7
"""If no exact value is larger, it is less than a rounding error of the numbers in float32 from which it
was made, and relative errors mean nothing."""
LOGARITHMS = 4096
"""The factor of eps in float64: about 64 logarithms of size up to 60 are summed, and no wider type
is there to sum them in."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One comparison.

    name           what was compared: `y`, `state W`, `d key`
    size           max|exact|, beside which the error has a meaning
    error          max|x - exact|; allowed: the limit of it
    rms            RMS of x - exact over RMS of exact; rms_allowed: the limit of it
    reference_rms  the same for the low-precision reference
    finite         whether every number of x is
    why            it was not judged, and what to change
    token          the first token, from 0, at which the rule is not finite or does not fit the type
    """

    name: str
    kind: Kind
    size: float
    error: float
    allowed: float
    rms: float
    rms_allowed: float
    reference_rms: float
    finite: bool
    verdict: Verdict
    why: str = ""
    token: int | None = None


def precision(dtype: torch.dtype) -> float:
    """eps: the distance from 1 to the next number of a type."""
    return torch.finfo(dtype).eps


def is_wide(dtype: torch.dtype) -> bool:
    """Whether a type is wider than 16 bits: then a correct result and the reference differ only by the
    order of their operations."""
    return precision(dtype) < 1e-6


def tolerance(kind: Kind, dtype: torch.dtype) -> float:
    """The factor k: 2 forward, 3 for gradients.

    The gradient of a decay is a difference of two running sums, over rows and over columns of the same
    products.  In a wide type their rounding errors are independent, and k is doubled.
    """
    if kind in ("output", "state"):
        return 2.0
    return 6.0 if kind == "decay gradient" and is_wide(dtype) else 3.0


def judge(
    name: str,
    kind: Kind,
    x: Tensor,
    exact: Tensor,
    lows: Sequence[Tensor],
    dtype: torch.dtype,
    tokens: int = 1,
    unit: float = 1.0,
) -> Comparison:
    """Compare a result with the oracle's value and its low-precision references.

    lows    one reference, or several with other rounding errors; the largest error counts
    tokens  of a sequence: a form that is parallel in time sums over tokens that a token loop has
            let decay, so in float32 eps is multiplied by the usual error of such a sum, sqrt(tokens)
    unit    the usual size of the numbers of this case, beside which others vanish

    A rule that is not finite, or larger than the type holds, is not judged.  Where the references are
    off by more than `ILL_CONDITIONED` they are no yardstick: a result is green if it agrees with the
    exact value as closely as RMS errors must anywhere, and not judged if not.

    In float64 the error of the references, which are in float32, is scaled by the ratio of the eps.
    Where the terms of a float64 gradient cancel, its error is measured against their size, 1 (that of
    cotangents).

    The gradient of the first state is, in a form that is parallel in time, the sum of what every token
    reads of it less the sum of what the later writes take back.  Each is a sum of as many terms of size
    1 as there are tokens, so about sqrt(tokens) large, while their difference shrinks by what the
    writes erase.  A token loop shrinks each cotangent before it adds the next, so no draw of the
    reference shows this rounding: in float32 it is measured against sqrt(tokens) where that is larger.
    In the same way a state is the sum of all writes, of size ``unit``, less what later ones erase: its
    rounding is measured against the size of one write where that is larger.

    Raises ValueError if the shapes differ.
    """
    if x.shape != exact.shape:
        raise ValueError(f"{name} has shape {tuple(x.shape)}, expected {tuple(exact.shape)}")
    if exact.numel() == 0:
        return Comparison(name, kind, 0.0, 0.0, 0.0, 0.0, RMS_LIMIT[kind], 0.0, True, "green")
    exact = exact.detach().double()
    if not fits(exact, largest(kind, dtype)):
        return unjudged(name, kind, float(exact.abs().max()), bool(torch.isfinite(x).all()))
    miss = x.detach().double() - exact
    misses = [low.detach().double() - exact for low in lows]
    double = dtype == torch.float64
    shrink = precision(dtype) / precision(torch.float32) if double else 1.0
    size = float(exact.abs().max())
    vanishes = size < VANISHING * unit
    whole = vanishes or (double and "gradient" in kind)
    counts = LOGARITHMS if double else tokens**0.5 if is_wide(dtype) else 1.0
    cancels = is_wide(dtype) and kind in ("state", "state gradient")
    terms = 1.0 if whole else 0.0 if not cancels else tokens**0.5 if "gradient" in kind else 1.0
    floor = precision(dtype) * counts * max(size, terms * unit)
    drawn = shrink * max(float(m.abs().max()) for m in misses)
    allowed = tolerance(kind, dtype) * (drawn + floor)
    finite = bool(torch.isfinite(x).all())
    error = float(miss.abs().max()) if finite else float("inf")
    scale = 0.0 if vanishes else _rms(exact)
    rms = (_rms(miss) / scale if finite else float("inf")) if scale else 0.0
    reference_rms = shrink * max(_rms(m) for m in misses) / scale if scale else 0.0
    limit = RMS_LIMIT[kind]
    agrees = finite and error <= allowed and rms <= limit
    verdict: Verdict = "green" if agrees else "red"
    if finite and not reference_rms <= (SATURATED * shrink if double else ILL_CONDITIONED):
        # The reference is no yardstick here.  What agrees with the exact value without one is right.
        own = tolerance(kind, dtype) * (limit * size + floor)
        verdict = "green" if agrees and error <= own else "not judged"
        allowed = min(allowed, own)
    return Comparison(name, kind, size, error, allowed, rms, limit, reference_rms, finite, verdict)


def largest(kind: Kind, dtype: torch.dtype) -> float:
    """The largest number that a quantity can have; a state is in float32 where tokens are in 16 bits."""
    held = kind in ("output", "token gradient") or dtype == torch.float64
    return torch.finfo(dtype if held else torch.float32).max


def fits(exact: Tensor, limit: float) -> bool:
    """Whether every number is finite and not beyond ``limit``."""
    return bool((exact.abs() <= limit).all())


def unjudged(
    name: str, kind: Kind, size: float, finite: bool, why: str = "", token: int | None = None
) -> Comparison:
    """The comparison of a quantity for which the rule gives nothing to compare with; its errors are 0."""
    known = size if size == size else float("inf")
    limit = RMS_LIMIT[kind]
    return Comparison(
        name, kind, known, 0.0, 0.0, 0.0, limit, 0.0, finite, "not judged", why, token
    )


def missing(name: str, kind: Kind) -> Comparison:
    """The comparison, red, of a result that the implementation did not return."""
    endless = float("inf")
    return Comparison(name, kind, 0.0, endless, 0.0, endless, 0.0, 0.0, False, "red")


def identical(name: str, kind: Kind, x: Tensor, other: Tensor) -> Comparison:
    """The comparison of two results that must be equal bit for bit."""
    same = torch.equal(x, other)
    error = 0.0 if same or x.shape != other.shape else float((x - other).abs().max())
    finite = bool(torch.isfinite(x).all())
    verdict: Verdict = "green" if same and finite else "red"
    size = float(x.abs().max()) if x.numel() else 0.0
    return Comparison(name, kind, size, error, 0.0, 0.0, 0.0, 0.0, finite, verdict)


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())
