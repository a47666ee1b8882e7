"""Constant folding: operations on numbers are computed exactly, others become typed operations."""

from __future__ import annotations

from math import isfinite

import sympy as sp

from miras_dsl.diagnostics import Problem, problem
from miras_dsl.source import Span
from miras_dsl.spec import Apply, Expr, Number

from .intervals import interval
from .shapes import Sizes, broadcast_operands

MAX_BITS = 1024
MAX_EXPONENT = 16


def fold_operation(op: str, args: tuple[Expr, ...], sizes: Sizes, span: Span) -> Expr:
    """An elementwise operation: a number if all operands are numbers, else with its shape.

    Raises Problem if the shapes do not fit, or the number does not exist or is too large.
    """
    folded = fold(op, args, span)
    if folded is not None:
        return folded
    if op == "pow" and isinstance(args[1], Number) and abs(args[1].value) > MAX_EXPONENT:
        raise _exponent(args[1])
    if op == "pow" and isinstance(args[0], Number) and not args[0].value.is_positive:
        raise _base(args[0])
    text = span.text if len(span.text) <= 60 else span.text[:57] + "…"
    args, axes = broadcast_operands(text, args, sizes, span, product=op == "mul")
    made = Apply(op, args, axes, (), span)
    if all(_is_constant(arg) for arg in args):
        _check_constant(made)
    return made


def _is_constant(expr: Expr) -> bool:
    """Whether a formula is made of numbers alone."""
    return isinstance(expr, Number) or (
        isinstance(expr, Apply) and bool(expr.args) and all(map(_is_constant, expr.args))
    )


def _check_constant(expr: Apply) -> None:
    """Raise Problem for a formula of numbers whose value no float can have, such as `exp(1000)`."""
    found = interval(expr, {})
    if found.low == found.high and not isfinite(found.low):
        raise problem(
            "M0004",
            "this number is too large",
            expr.span,
            "above the largest float, about 1e308",
            help="write the number that is meant, or a smaller exponent",
        )


def fold(op: str, args: tuple[Expr, ...], span: Span) -> Number | None:
    """The result of an operation on numbers; None if it is not computed here.  Raises Problem."""
    values = [a.value for a in args if isinstance(a, Number)]
    if len(values) != len(args):
        if op == "div" and isinstance(args[1], Number) and args[1].value == 0:
            raise _division(args[1])
        return None
    match op, values:
        case "neg", [a]:
            value = -a
        case "add", [a, b]:
            value = a + b
        case "sub", [a, b]:
            value = a - b
        case "mul", [a, b]:
            value = a * b
        case "div", [a, b]:
            if b == 0:
                raise _division(args[1])
            value = a / b
        case "pow", [a, sp.Integer() as b]:
            if abs(b) > MAX_EXPONENT:
                raise _exponent(args[1])
            if a == 0 and b < 0:
                raise _division(args[0])
            value = a**b
        case "pow", [a, _] if a < 0:
            raise problem(
                "M0004", "this is not a real number", span, "a root of something negative"
            )
        case "pow", [_, b] if abs(b) > MAX_EXPONENT:
            raise _exponent(args[1])
        case _:
            return None
    if (
        isinstance(value, sp.Rational)
        and max(abs(value.p).bit_length(), value.q.bit_length()) > MAX_BITS
    ):
        raise problem("M0004", "this number is too large", span, "more than 1024 binary digits")
    if not isinstance(value, sp.Number) or not value.is_finite:
        raise problem("M0004", "this is not a real number", span, "no such number")
    return Number(value, span)


def _base(expr: Expr) -> Problem:
    return problem(
        "M0004",
        "a power with a formula as its exponent has a base above 0",
        expr.span,
        "0 or less",
        help="as in `2^(-head)`; where the sign should change, write it as a factor",
    )


def _exponent(expr: Expr) -> Problem:
    return problem(
        "M0005",
        f"a constant exponent lies between -{MAX_EXPONENT} and {MAX_EXPONENT}",
        expr.span,
        "out of range",
    )


def _division(expr: Expr) -> Problem:
    return problem("M0215", "this divides by zero", expr.span, "always zero")
