"""Scalar functions: values, first and second derivatives, and finiteness where kernels will go."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import sympy as sp

from miras_dsl.ir import ZERO, Input, Role, constant, elementwise
from miras_dsl.ir.interpreter import evaluate
from miras_dsl.scalar import functions as scalars
from miras_dsl.scalar.activations import ACTIVATIONS, gelu, gelu_slope
from miras_dsl.scalar.functions import OPERANDS, derivative
from miras_dsl.scalar.numpy_values import NUMPY, eval_scalar

X, P = OPERANDS[:2]

VALUES: dict[object, Callable[[float], float]] = {
    scalars.sigmoid: lambda x: 1 / (1 + math.exp(-x)),
    scalars.softplus: lambda x: math.log(1 + math.exp(x)),
    scalars.logcosh: lambda x: math.log(math.cosh(x)),
    scalars.ge0: lambda x: 1.0 if x >= 0 else 0.0,
    scalars.gt0: lambda x: 1.0 if x > 0 else 0.0,
    scalars.sign: lambda x: math.copysign(1, x) if x else 0.0,
    scalars.absolute: abs,
    scalars.sqrt: lambda x: math.sqrt(x) if x > 0 else 0.0,
    scalars.rsqrt: lambda x: 1 / math.sqrt(x) if x > 0 else 0.0,
    scalars.erf: math.erf,
    gelu: lambda x: x * math.erfc(-x / math.sqrt(2)) / 2,
    gelu_slope: lambda x: (
        math.erfc(-x / math.sqrt(2)) / 2 + x * math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    ),
    scalars.asinh: math.asinh,
    scalars.within_turn: lambda x: math.remainder(x, math.tau),
    sp.exp: math.exp,
    sp.log: math.log,
    sp.tanh: math.tanh,
    sp.sinh: math.sinh,
    sp.cosh: math.cosh,
    sp.sin: math.sin,
    sp.cos: math.cos,
}
"""Functions of one operand, said again in plain floats."""

EXPONENTS = [sp.Rational(n, 4) for n in (-6, -1, 0, 2, 3, 4, 6, 7, 8, 10, 12, 16)]

FORMULAS: list[tuple[str, sp.Expr, Callable[[float], float]]] = [
    *((f.__name__, f(X), value) for f, value in VALUES.items()),
    *((f"apow {p}", scalars.abs_pow(X, p), lambda x, p=p: abs(x) ** float(p)) for p in EXPONENTS),
    *(
        (f"spow {p}", scalars.signed_pow(X, p), lambda x, p=p: math.copysign(abs(x) ** float(p), x))
        for p in EXPONENTS
    ),
    *(
        (f"fractional {p}", scalars.pow_nonneg(X, p), lambda x, p=p: x ** float(p))
        for p in EXPONENTS
        if not p.is_integer
    ),
    (
        "where",
        scalars.where(scalars.ge0(X), X**3, sp.sin(X)),
        lambda x: x**3 if x >= 0 else math.sin(x),
    ),
    ("hypot", scalars.hypot(X, sp.Integer(2)), lambda x: math.hypot(x, 2)),
    ("hypot slope", scalars.hypot_slope(X, sp.Integer(2)), lambda x: x / math.hypot(x, 2)),
    ("larger", scalars.maximum(X**2, X + 1), lambda x: max(x**2, x + 1)),
    ("smaller", scalars.minimum(X**2, X + 1), lambda x: min(x**2, x + 1)),
]
IDS = [name for name, _, _ in FORMULAS]
POSITIVE = {"log", *(name for name in IDS if name.startswith("fractional"))}
POINTS = [0.07, 0.4, 1.0, 1.3, 2.9]


def at(formula: sp.Expr, x: float, **others: float) -> float:
    env = {sp.Symbol(n, real=True): np.asarray(v) for n, v in {"x0": float(x), **others}.items()}
    with np.errstate(all="ignore"):
        return float(eval_scalar(formula, env, {}))


def points(name: str) -> list[float]:
    return POINTS if name in POSITIVE else [*POINTS, *(-x for x in POINTS)]


def test_every_function_is_covered() -> None:
    used = {part.func for _, formula, _ in FORMULAS for part in sp.preorder_traversal(formula)}
    every = {*scalars.FUNCTIONS, *ACTIVATIONS}
    assert every <= used and every == set(NUMPY)


@pytest.mark.parametrize(("name", "formula", "value"), FORMULAS, ids=IDS)
def test_values(name: str, formula: sp.Expr, value: Callable[[float], float]) -> None:
    for x in points(name):
        assert at(formula, x) == pytest.approx(value(x), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(("name", "formula", "value"), FORMULAS, ids=IDS)
def test_derivatives_against_differences(name: str, formula: sp.Expr, value: object) -> None:
    first = derivative(formula, X)
    for lower, upper in ((formula, first), (first, derivative(first, X))):
        for x in points(name):
            h = 1e-5 * max(abs(x), 0.1)
            wanted = (at(lower, x + h) - at(lower, x - h)) / (2 * h)
            assert at(upper, x) == pytest.approx(wanted, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize(("name", "formula", "value"), FORMULAS, ids=IDS)
def test_finite_far_out_and_at_zero(name: str, formula: sp.Expr, value: object) -> None:
    """`log` alone needs a positive operand; the interval check of the language sees to it.  A power
    that is not whole is no number below 0."""
    first = derivative(formula, X)
    for x in (100.0,) if name in POSITIVE else (0.0, -0.0, 100.0, -100.0):
        for each in (formula, first, derivative(first, X)):
            assert math.isfinite(at(each, x)), (each, x)


@pytest.mark.parametrize("power", [scalars.abs_pow, scalars.signed_pow])
@pytest.mark.parametrize("x", [-2.0, -0.3, 0.3, 2.0])
def test_derivative_of_a_power_by_its_exponent(power: type[sp.Function], x: float) -> None:
    formula, p, h = power(X, P), 1.7, 1e-6
    wanted = (at(formula, x, x1=p + h) - at(formula, x, x1=p - h)) / (2 * h)
    assert at(derivative(formula, P), x, x1=p) == pytest.approx(wanted, rel=1e-7)
    assert at(derivative(formula, P), 0.0, x1=p) == 0.0


def test_softplus_and_logcosh_keep_digits_far_out() -> None:
    assert at(scalars.softplus(X), 1000.0) == 1000.0
    assert at(scalars.softplus(X), -40.0) == pytest.approx(math.exp(-40.0), rel=1e-12)
    assert at(scalars.logcosh(X), -1000.0) == pytest.approx(1000.0 - math.log(2.0))
    assert at(scalars.logcosh(X), 1e-3) == pytest.approx(5e-7, rel=1e-6)


def test_safe_forms_are_chosen() -> None:
    assert scalars.log(sp.cosh(X)) == scalars.logcosh(X)
    assert scalars.log(scalars.sigmoid(X)) == -scalars.softplus(-X)
    assert scalars.log(sp.exp(X)) == X
    assert scalars.power(scalars.absolute(X), sp.Integer(3)) == scalars.abs_pow(X, 3)
    assert scalars.power(X, sp.Rational(1, 2)) == scalars.sqrt(X)


@pytest.mark.parametrize("function", [f for f in VALUES if f is not sp.log])
@pytest.mark.parametrize("x", [0, 2, -2, 0.5, sp.Rational(1, 3), sp.pi])
def test_functions_of_numbers_are_numbers(function: type[sp.Function], x: object) -> None:
    """A gate may be a constant: the formula folds to a number and still has its value."""
    (found,) = evaluate([elementwise(function(X), constant(x))], {}, {})
    assert float(found) == pytest.approx(at(function(X), float(x)), rel=1e-14)
    assert float(function(sp.sympify(x))) == pytest.approx(float(found), rel=1e-14)


@pytest.mark.parametrize("power", [scalars.abs_pow, scalars.signed_pow])
@pytest.mark.parametrize("x", [0, 2, -2, 0.5])
def test_powers_of_numbers_are_numbers(power: type[sp.Function], x: float) -> None:
    wanted = at(power(X, sp.Rational(3, 2)), float(x))
    assert float(power(sp.sympify(x), sp.Rational(3, 2))) == pytest.approx(wanted, rel=1e-14)


@pytest.mark.parametrize("condition", [0, 1, -1, 0.25])
def test_a_constant_condition_chooses(condition: float) -> None:
    a, b = Input("a", (), Role.CONSTANT), Input("b", (), Role.CONSTANT)
    node = elementwise(scalars.where(scalars.sign(OPERANDS[2]), X, P), a, b, constant(condition))
    values = {a: np.asarray(3.0), b: np.asarray(5.0)}
    assert evaluate([node], values, {})[0] == (3.0 if condition else 5.0)


@pytest.mark.parametrize("function", [scalars.ge0, scalars.gt0])
def test_steps_of_constant_formulas(function: type[sp.Function]) -> None:
    for inner, wanted in ((scalars.sigmoid(X), 1.0), (-scalars.sigmoid(X), 0.0)):
        (found,) = evaluate([elementwise(function(inner), constant(1))], {}, {})
        assert found == wanted


def test_power_of_zero_has_derivative_zero() -> None:
    (found,) = evaluate(
        [elementwise(derivative(scalars.abs_pow(X, P), P), ZERO, constant(1.5))], {}, {}
    )
    assert found == 0.0
