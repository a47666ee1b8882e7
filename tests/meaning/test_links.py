"""Links of potentials on bounded, half-bounded and unbounded domains, against bisection in 60 digits."""

from __future__ import annotations

from collections.abc import Callable

import mpmath
import pytest
import sympy as sp
import torch
from torch.nn import functional

from miras_dsl.codegen.emit.scalar_printer import TORCH, print_scalar
from miras_dsl.codegen.inner_step.closed_form_inverse import solve
from miras_dsl.codegen.inner_step.potential import potential_gradient
from miras_dsl.codegen.model.build import build_model
from miras_dsl.runtime.ops import tensor_ops
from tests.meaning.test_monotone_equations import read_memory, refused, written

DUAL = sp.Symbol("a", real=True)
INF = mpmath.inf
with mpmath.workdps(60):
    LOW, HIGH = -mpmath.sqrt(2), mpmath.sqrt(2)
Exact = Callable[[mpmath.mpf], mpmath.mpf]


def square(w: mpmath.mpf) -> mpmath.mpf:
    return w * w


POTENTIALS: dict[str, tuple[Exact, mpmath.mpf, mpmath.mpf]] = {
    # name: slope, ends of the domain
    "w^2 / 2 - log(1 - w^2)": (lambda w: w + 2 * w / (1 - square(w)), -1, 1),
    "-log(1 - w^2)": (lambda w: 2 * w / (1 - square(w)), -1, 1),
    "-log(1 - w) - log(1 + w)": (lambda w: 2 * w / (1 - square(w)), -1, 1),
    "-sqrt(1 - w^2)": (lambda w: w / mpmath.sqrt(1 - square(w)), -1, 1),
    "-(1 - w^2)^0.25": (lambda w: w / 2 * (1 - square(w)) ** mpmath.mpf(-0.75), -1, 1),
    "-log(2 - w^2)": (lambda w: 2 * w / (2 - square(w)), LOW, HIGH),
    "1 / (1 - w^2)": (lambda w: 2 * w / (1 - square(w)) ** 2, -1, 1),
    "w^2 - log(1 - w^4)": (lambda w: 4 * w**3 / (1 - w**4) + 2 * w, -1, 1),
    "w^2 / 2 - log(4 - w^2)": (lambda w: w + 2 * w / (4 - square(w)), -2, 2),
    "-log(w) - log(1 - w)": (lambda w: -1 / w + 1 / (1 - w), 0, 1),
    "-sqrt(w * (1 - w))": (lambda w: (2 * w - 1) / 2 / mpmath.sqrt(w * (1 - w)), 0, 1),
    "-log(w + 2) - log(3 - w)": (lambda w: -1 / (w + 2) + 1 / (3 - w), -2, 3),
    "w^2 - log(w)": (lambda w: 2 * w - 1 / w, 0, INF),
    "w^2 / 20 - sqrt(w)": (lambda w: w / 10 - 1 / (2 * mpmath.sqrt(w)), 0, INF),
    "1 / w + w^2": (lambda w: 2 * w - 1 / square(w), 0, INF),
    "w^2 - log(1 + w)": (lambda w: 2 * w - 1 / (1 + w), -1, INF),
    "w^2 - log(3 - w)": (lambda w: 2 * w + 1 / (3 - w), -INF, 3),
    "w^2 / 2 + w^4 / 4": (lambda w: w + w**3, -INF, INF),
    "w^2 * sqrt(1 + w^2)": (
        lambda w: 2 * w * mpmath.sqrt(1 + w * w) + w**3 / mpmath.sqrt(1 + w * w),
        -INF,
        INF,
    ),
    "w * log(w + sqrt(1 + w^2)) - sqrt(1 + w^2)": (mpmath.asinh, -INF, INF),
    "cosh(w)": (mpmath.sinh, -INF, INF),
}
DUALS = (0.0, 1e-6, -1e-3, 0.3, -1.0, 3.0, -12.0, 20.0, -1e3, 1e4, -1e6)


def link(potential: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """The link as the generated text computes it."""
    model = build_model(read_memory(written(f"bregman {potential} at token")))
    _, slope = potential_gradient(model, model.weights[0].name)
    text = print_scalar(solve(slope, DUAL), {DUAL: "a"}, TORCH)
    return lambda a: eval(text, {"ops": tensor_ops, "torch": torch, "F": functional, "a": a})


def exact(slope: Exact, low: mpmath.mpf, high: mpmath.mpf, a: float) -> mpmath.mpf:
    """The w with ``slope(w) = a``, by bisection on a line with many points near the ends."""

    def at(t: mpmath.mpf) -> mpmath.mpf:
        if low == -INF:
            return mpmath.sinh(t) if high == INF else high - mpmath.exp(-t)
        return low + (mpmath.exp(t) if high == INF else (high - low) / (1 + mpmath.exp(-t)))

    left, right = mpmath.mpf(-90), mpmath.mpf(90)
    for _ in range(200):
        middle = (left + right) / 2
        below = slope(at(middle)) < a
        left, right = (middle, right) if below else (left, middle)
    return at((left + right) / 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("potential", POTENTIALS)
def test_links_and_their_gradients(potential: str, dtype: torch.dtype) -> None:
    slope, low, high = POTENTIALS[potential]
    a = torch.tensor(DUALS, dtype=dtype, requires_grad=True)
    w = link(potential)(a)
    (gradient,) = torch.autograd.grad(w.sum(), a)
    eps = torch.finfo(dtype).eps
    with mpmath.workdps(60):
        for dual, found, steep in zip(a.tolist(), w.tolist(), gradient.tolist(), strict=True):
            if slope is mpmath.asinh and abs(dual) > 20:
                continue  # the weight is e^|a|
            wanted = exact(slope, low, high, mpmath.mpf(dual))
            assert low < found < high
            assert abs(found - wanted) <= 32 * eps * (abs(wanted) + eps), f"{found} at {dual}"
            true = 1 / mpmath.diff(slope, wanted, h=mpmath.mpf(10) ** -25)
            assert abs(steep - true) <= 256 * eps * true, f"gradient {steep} at {dual}"


def test_ends_that_depend_on_a_gate_and_ends_without_a_formula() -> None:
    for potential in ("-log(c - w^2)", "-log(c - abs(w))", "-log(c^2 - w^2)"):
        link_of = build_model(read_memory(written(f"bregman {potential} at token")))
        _, slope = potential_gradient(link_of, "W")
        low, high = slope.ends()
        assert (low < 0).all() and (high > 0).all() and (low == -high).all()
    a = torch.tensor([-30.0, -1.0, 0.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(link("-log(cos(w))")(a), torch.atan(a), rtol=1e-12, atol=1e-12)
    cube = link("w^2 - log(2 - abs(w)^3)")(torch.tensor(1e9, dtype=torch.float64))
    assert cube.item() == pytest.approx(2 ** (1 / 3), rel=1e-8)


@pytest.mark.parametrize("potential", ["log(1 - w^2)", "-log(-1 - w^2)", "-log(s - w)"])
def test_potentials_without_a_domain_or_not_convex(potential: str) -> None:
    assert refused(written(f"bregman {potential} at token"))[0] == "M0512"
