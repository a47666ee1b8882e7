"""Links, penalties and implicit steps, against the oracle, which solves each of them numerically."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from miras_dsl.check import read
from miras_dsl.runtime.judge.cases import Case
from miras_dsl.runtime.judge.certificate import certify
from miras_dsl.runtime.load.loader import implementation
from miras_dsl.source import Source
from miras_dsl.spec import MemorySpec

CASES = (Case("three", (3, 3), (3, 2), keys=0.5, warm=True),)
MATRIX = "W: matrix[value, key]"
POSITIVE = f"{MATRIX} = positive"
DECAY = "decay, predict, write, read"


def memory(
    retention: str = "none",
    bias: str = "l2",
    algorithm: str = "gd(eta), exact",
    order: str = "predict, write, read",
    weight: str = MATRIX,
    largest: str = "1 / 4",
) -> MemorySpec:
    parameters = "d" if "vector" in weight else "dk, dv"
    text = (
        f"memory T({parameters}) {{\n architecture {weight}\n bias {bias}\n retention {retention}\n"
        f" algorithm {algorithm}\n order {order}\n"
        f" gates {{ eta = {largest} * sigmoid(linear(x))  alpha = sigmoid(linear(x) + 2)\n"
        "   c = tanh(linear(x)) - 1.5  s = tanh(linear(x)) / 4  b = 0.5 + sigmoid(linear(x)) }\n}\n"
    )
    return read(Source("t.mem", text)).memories["T"]


LINKS = {
    "powers": "bregman abs(w)^1.5 at token",
    "cube": "bregman abs(w)^3 / 3 at token",
    "a factor that is negative": "bregman (c^2)^1.5 * w^2 + cosh(w) at token",
    "elastic net of the dual": "bregman w^2 / 2 + abs(w) / 10 at token",
    "kink and curve": "bregman w^2 / 2 + w^4 + abs(w) / 10 at token",
    "kink elsewhere": "bregman w^2 / 2 + abs(w - s) / 10 at token",
    "between two ends": "bregman (1 + w) * log(1 + w) + (1 - w) * log(1 - w) at token",
    "half a line": "bregman w^2 / 4 - sqrt(w) at token",
    "a barrier": "bregman w^2 / 4 - b * log(w) at token",
    "a barrier at two ends": "bregman w^2 / 2 - log(1 - w^2) at token",
    "nothing but a barrier": "bregman -log(1 - w^2) at token",
    "a root between two ends": "bregman -sqrt(1 - w^2) at token",
    "a pole between two ends": "bregman 1 / (1 - w^2) at token",
    "ends that are gates": "bregman -log(b - w^2) at token",
}


def certified(spec: MemorySpec) -> None:
    certificate = certify(spec, partial(implementation, spec), dtype=torch.float64, cases=CASES)
    assert certificate.green, str(certificate)


@pytest.mark.parametrize("name", LINKS)
def test_links(name: str) -> None:
    certified(memory(LINKS[name]))


@pytest.mark.parametrize("total", ["2", "b"])
def test_entropy_times_a_number_on_a_simplex(total: str) -> None:
    certified(
        memory(
            f"bregman 2 * (w * log(w) - w) on simplex(rows, total = {total}) at token",
            weight=POSITIVE,
        )
    )


PENALTIES = {
    "a barrier": ("penalty (w - w0)^2 / (2 * eta) - log(1 - w^2) at token", "", MATRIX),
    "nothing but a barrier": ("penalty -log(1 - w^2) at token", "", MATRIX),
    "a root": ("penalty (w - w0)^2 - sqrt(4 - w^2) at token", "", MATRIX),
    "decayed first": ("decay alpha  penalty (w - w0)^2 / (2 * eta) at token", DECAY, MATRIX),
    "decayed last": (
        "decay alpha  penalty (w - w0)^2 + w^4 at token",
        "predict, write, decay, read",
        MATRIX,
    ),
    "a negative factor": ("penalty (w - w0)^2 / (2 * eta) + abs(c * w) / 5 at token", "", MATRIX),
    "minus w": ("penalty (w - w0)^2 / (2 * eta) + abs(-w) / 20 at token", "", MATRIX),
    "distance": ("penalty (w - w0)^2 / (2 * eta) + abs(w - w0) / 20 at token", "", MATRIX),
    "two kinks": (
        "penalty (w - w0)^2 / (2 * eta) + abs(w - w0) / 20 + abs(w) / 20 at token",
        "",
        MATRIX,
    ),
    "absolute start": ("penalty (w - abs(w0))^2 / (2 * eta) at token", "", MATRIX),
    "one side": ("penalty (w - w0)^2 / (2 * eta) + max(w, 0) / 10 at token", "", MATRIX),
    "relative entropy": ("penalty (w * log(w / w0) - w + w0) / eta at token", "", POSITIVE),
}


@pytest.mark.parametrize("name", PENALTIES)
def test_penalties(name: str) -> None:
    retention, order, weight = PENALTIES[name]
    certified(
        memory(
            retention,
            algorithm="gd(1), exact",
            order=order or "predict, write, read",
            weight=weight,
        )
    )


STEPS = {
    "logcosh": ("logcosh", "gd(eta), implicit", MATRIX),
    "huber": ("huber(b)", "gd(eta), implicit", MATRIX),
    "power": ("lp(3)", "gd(eta), implicit", MATRIX),
    "two terms": ("f: sum((W @ key)^2) / 2, g: logcosh", "gd(f = eta, g = 1), implicit", MATRIX),
    "half is kept": ("l2", "{ W = 0.5 * keep(W) - eta * grad }, implicit", MATRIX),
    "vector": ("sum(log(cosh(h * key - value)))", "gd(eta), implicit", "h: vector[d]"),
    "affine vector": ("l2", "gd(eta), implicit", "h: vector[d]"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.thorough) if n == "huber" else n for n in STEPS]
)
def test_implicit_steps(name: str) -> None:
    """With rates at which plain gradient descent, and an undamped Newton step, would run away."""
    bias, algorithm, weight = STEPS[name]
    certified(memory("decay alpha", bias, algorithm, DECAY, weight, largest="20"))
