"""Increasing equations: closed forms where there are some, Newton steps elsewhere, jumps and open ends."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from miras_dsl.check import read
from miras_dsl.codegen.pipeline import compile_memory
from miras_dsl.diagnostics import SpecErrors
from miras_dsl.runtime.ops import tensor_ops
from miras_dsl.source import Source
from miras_dsl.spec import MemorySpec

GATES = """eta = sigmoid(linear(x)) / 4   c = 1.5 + tanh(linear(x)) / 2   s = tanh(linear(x))
  a = sigmoid(linear(x))   b = sigmoid(linear(x))   e = sigmoid(linear(x))"""


def written(
    retention: str = "none",
    bias: str = "l2",
    algorithm: str = "gd(eta), exact",
    weight: str = "W: matrix[value, key]",
) -> str:
    return (
        f"memory T(dk, dv) {{\n architecture {weight}\n bias {bias}\n retention {retention}\n"
        f" algorithm {algorithm}\n order predict, write, read\n gates {{ {GATES} }}\n}}\n"
    )


def read_memory(text: str) -> MemorySpec:
    return read(Source("t.mem", text)).memories["T"]


def compiled(text: str) -> str:
    return compile_memory(read_memory(text)).text


def refused(text: str) -> tuple[str, str]:
    with pytest.raises(SpecErrors) as errors:
        compiled(text)
    (found,) = errors.value.diagnostics
    return found.code, str(found).splitlines()[0]


def numbers(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype)


A = numbers(-40.0, -3.0, -0.4, 0.0, 1e-3, 0.7, 2.0, 60.0)
SOLVED: dict[str, tuple[Callable, Callable, dict, Callable]] = {
    # name: slope, its derivative, ends, the inverse
    "sinh": (torch.sinh, torch.cosh, {}, torch.asinh),
    "cube": (lambda w: w**3, lambda w: 3 * w**2, {}, lambda a: a.sign() * a.abs() ** (1 / 3)),
    "log": (torch.log, lambda w: 1 / w, {"low": 0.0}, torch.exp),
    "between": (
        lambda w: torch.log(w) - torch.log(2 - w),
        lambda w: 1 / w + 1 / (2 - w),
        {"low": 0.0, "high": 2.0},
        lambda a: 2 * torch.sigmoid(a),
    ),
    "left of": (
        lambda w: -torch.log(1 - w),
        lambda w: 1 / (1 - w),
        {"high": 1.0},
        lambda a: 1 - (-a).exp(),
    ),
}


@pytest.mark.parametrize("name", SOLVED)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_known_inverses(name: str, dtype: torch.dtype) -> None:
    slope, steep, ends, inverse = SOLVED[name]
    a = A.to(dtype)
    w, wanted = tensor_ops.monotone_inverse(slope, steep, a, **ends), inverse(a)
    tight = 40 * torch.finfo(dtype).eps
    assert torch.allclose(w, wanted, rtol=tight, atol=tight)


def test_gradients_are_those_of_the_equation() -> None:
    a = numbers(-2.0, 0.3, 5.0).requires_grad_()
    c = numbers(0.5, 1.0, 3.0).requires_grad_()

    def solved(a: Tensor, c: Tensor) -> Tensor:
        return tensor_ops.monotone_inverse(lambda w: c * w + w**3, lambda w: c + 3 * w**2, a)

    assert torch.autograd.gradcheck(solved, (a, c), eps=1e-6, atol=1e-8)


def test_inside_a_jump_the_answer_is_its_place() -> None:
    """w + sign(w - p) / 2: it stays at p for half a unit on either side, and moves with p there."""
    a, p = numbers(0.1, -0.3, 2.0, -2.0), numbers(0.0, -0.5, 0.25, 1.0).requires_grad_()
    w = tensor_ops.monotone_inverse(
        lambda w: w + torch.sign(w - p) / 2,
        lambda w: torch.ones_like(w),
        a.requires_grad_(),
        jumps=[(lambda w: w - p, lambda w: torch.ones_like(w))],
    )
    assert torch.allclose(w, numbers(0.0, -0.5, 1.5, -1.5), atol=1e-12)
    by_a, by_p = torch.autograd.grad(w.sum(), (a, p))
    assert torch.equal(by_a, numbers(0.0, 0.0, 1.0, 1.0))
    assert torch.equal(by_p, numbers(1.0, 1.0, 0.0, 0.0))


CLOSED = (
    "w^2 / 2", "w^4 / 4", "abs(w)^1.5", "abs(w)^3 / 3", "(w^2)^1.5", "(s^2 + 1)^1.5 * w^2", "cosh(w)",
    "w * log(w) - w", "w * log(w) + (1 - w) * log(1 - w)", "(1 + w) * log(1 + w) + (1 - w) * log(1 - w)",
    "w * log(w / (1 - w)) + log(1 - w)",
    "w^2 / 2 + abs(w) / 10", "c * w^2 + a * abs(w)", "cosh(w) + abs(w)",
    "w * log(w / (c - w)) + c * log(c - w)",
)  # fmt: skip
BY_NEWTON = (
    "w^2 / 2 + w^4 / 4",
    "w^2 / 20 - log(w)",
    "w^2 / 20 - sqrt(w)",
    "w^2 - log(1 - w^2)",
    "w^2 + log(cosh(w))",
)


@pytest.mark.parametrize("potential", [*CLOSED, *BY_NEWTON])
def test_potentials_that_have_a_link(potential: str) -> None:
    text = compiled(written(f"bregman {potential} at token"))
    assert ("ops.monotone_inverse" in text) == (potential in BY_NEWTON)


@pytest.mark.parametrize(
    ("potential", "why"),
    [
        ("w^3 / 3", "does not always increase"),
        ("s * w^2", "does not always increase"),
        ("softplus(w)", "never goes above 1"),
        ("log(cosh(w))", "never goes above 1"),
        ("sqrt(1 + w^2)", "never goes above 1"),
        ("exp(w)", "never goes below 0"),
        ("-log(w)", "never goes above 0"),
        ("w^1.5", "never goes below 0"),
        ("sum(w)^2", "is not a formula of each number by itself"),
        ("w^2 + max(-w, 0)^2 - w^2", "never goes above 0"),
    ],
)
def test_potentials_without_a_link(potential: str, why: str) -> None:
    code, message = refused(written(f"bregman {potential} at token"))
    assert code == "M0512" and why in message


@pytest.mark.parametrize(
    ("penalty", "code", "why"),
    [
        ("abs(w - w0)", "M0513", "never goes above a bound"),
        ("(w - w0)^2 * s", "M0513", "not convex"),
        ("(w - w0)^2 / (2 * eta) - w^4", "M0513", "not convex"),
        ("(w * log(w / w0) - w + w0) / eta", "M0513", "begin positive"),
        ("(w - w0)^2 + norm(w)", "M0513", "each number by itself"),
    ],
)
def test_penalties_without_a_step(penalty: str, code: str, why: str) -> None:
    found, message = refused(written(f"penalty {penalty} at token", algorithm="gd(1), exact"))
    assert found == code and why in message


@pytest.mark.parametrize(
    ("algorithm", "retention", "bias", "code"),
    [
        ("momentum(1, 0.5), exact", "penalty (w - w0)^2 at token", "l2", "M0608"),
        ("{ W = 0.5 * keep(W) - grad }, exact", "penalty (w - w0)^2 at token", "l2", "M0608"),
        ("gd(eta), anchored(4)", "penalty (w - w0)^2 at token", "l2", "M0608"),
        ("gd(eta), implicit", "penalty (w - w0)^2 at token", "l2", "M0608"),
        ("gd(eta), implicit", "link 2 * a at token", "l2", "M0608"),
        ("gd(eta), anchored(4, scale = 1 / position)", "link 2 * a at token", "l2", "M0608"),
        ("gd(eta), anchored(4, scale = 1 / position)", "bregman w^4 at chunk", "l2", "M0608"),
        ("gd(eta), implicit", "none", "write r at key", "M0610"),
        ("gd(eta), implicit", "none", "pinball(0.3)", "M0610"),
        ("gd(eta), implicit", "none", "sum(r^2 / (1 + r^2))", "M0610"),
        ("gd(eta), implicit", "none", "huber_norm(1)", "M0610"),
        ("gd(s), implicit", "none", "l2", "M0610"),
    ],
)
def test_what_means_nothing_together(algorithm: str, retention: str, bias: str, code: str) -> None:
    assert refused(written(retention, bias, algorithm))[0] == code


@pytest.mark.parametrize(
    "retention",
    [
        "bregman log(1 + exp(sin(w)^7 + cos(w)^9 * tanh(w) + sinh(w) / cosh(w)^3)) at token",
        "bregman 9*w^2 + sin(w)^4*cos(w)^6*tanh(w)^4*exp(-w^2)/cosh(w)^8 + sigmoid(c*w)^3 at token",
        "penalty (w - w0)^2 / (2 * eta) + ((w + a + b + c + e)^16 - w)^2 at token",
        "bregman " + " * ".join(f"(w + {n} + a)^3" for n in range(60)) + " at token",
    ],
)
def test_hostile_formulas_end_soon(retention: str) -> None:
    compiled(written())
    begun = time.process_time()
    try:
        compiled(written(retention, algorithm="gd(1), exact"))
    except SpecErrors as errors:
        assert {d.code for d in errors.diagnostics} <= {"M0512", "M0513"}
    assert time.process_time() - begun < 2
