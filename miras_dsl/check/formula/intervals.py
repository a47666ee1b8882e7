"""Interval arithmetic: the range of a formula from the ranges of its gates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from math import cosh, erf, exp, inf, isnan, log, log1p, sinh, sqrt, tanh
from typing import assert_never

from miras_dsl.spec import Apply, Expr, Interval, Number, Ref, iter_nodes

EVERYTHING = Interval()
GELU_FLOOR = -0.1700408
SILU_FLOOR = -0.2784646


def interval(expr: Expr, known: Mapping[str, Interval]) -> Interval:
    """A range that contains every value of ``expr``; ``known`` has the ranges of gates."""
    return intervals(expr, known)[id(expr)]


def intervals(expr: Expr, known: Mapping[str, Interval]) -> dict[int, Interval]:
    """`id` of a part of a formula -> its range."""
    found: dict[int, Interval] = {}
    for node in iter_nodes(expr):
        match node:
            case Number(value):
                found[id(node)] = Interval(float(value), float(value))
            case Ref(name, "gate"):
                found[id(node)] = known.get(name, EVERYTHING)
            case Ref(_, "size" | "position" | "head"):
                found[id(node)] = Interval(1, inf)
            case Ref():
                found[id(node)] = EVERYTHING
            case Apply("div", (a, b)) if (share := _share(a, b, found)) is not None:
                found[id(node)] = share
            case Apply(op, args):
                found[id(node)] = _apply(op, [found[id(a)] for a in args], args)
            case _:
                assert_never(node)
    return found


def _apply(op: str, given: list[Interval], args: tuple[Expr, ...]) -> Interval:
    match op, given:
        case (("retag" | "mean"), [a]):
            return a
        case (("shift" | "topk"), [a]):
            return Interval(min(a.low, 0.0), max(a.high, 0.0))
        case "sum", [a]:
            return Interval(0 if a.low >= 0 else -inf, 0 if a.high <= 0 else inf)
        case "norm", _:
            return Interval(0, inf)
        case "softmax", _:
            return Interval(0, 1)
        case "normalize", _:
            return Interval(-1, 1)
        case "neg", [a]:
            return Interval(-a.high, -a.low)
        case "add", [a, b]:
            return Interval(_plus(a.low, b.low, -inf), _plus(a.high, b.high, inf))
        case "sub", [a, b]:
            return Interval(_plus(a.low, -b.high, -inf), _plus(a.high, -b.low, inf))
        case "mul", [a, b]:
            return _power(a, 2) if args[0] == args[1] else _product(a, b)
        case "div", [a, b]:
            if b.low < 0 < b.high or (b.low == 0 and b.high == 0):
                return EVERYTHING
            return _product(a, _inverse(b))
        case "pow", [a, b]:
            return _power(a, b.low) if b.low == b.high else _powers(a, b)
        case "abs", [a]:
            return Interval(max(0.0, a.low, -a.high), max(-a.low, a.high))
        case "relu", [a]:
            return Interval(max(a.low, 0.0), max(a.high, 0.0))
        case "sqrt", [a]:
            return Interval(sqrt(max(a.low, 0.0)), sqrt(max(a.high, 0.0)))
        case "log", [a]:
            return Interval(_log(a.low), _log(a.high))
        case (("gelu" | "gelu_tanh"), [a]):
            return Interval(0 if a.low >= 0 else GELU_FLOOR, max(a.high, 0.0))
        case "silu", [a]:
            return Interval(0 if a.low >= 0 else SILU_FLOOR, max(a.high, 0.0))
        case "cosh", [a]:
            far = max(-a.low, a.high)
            return Interval(
                1 if a.low <= 0 <= a.high else _safe(cosh, min(abs(a.low), abs(a.high))),
                _safe(cosh, far),
            )
        case (("sin" | "cos"), _):
            return Interval(-1, 1)
        case "max", [a, b]:
            return Interval(max(a.low, b.low), max(a.high, b.high))
        case "min", [a, b]:
            return Interval(min(a.low, b.low), min(a.high, b.high))
        case "where", [_, a, b]:
            return Interval(min(a.low, b.low), max(a.high, b.high))
        case (("lt" | "le" | "gt" | "ge" | "eq" | "and" | "or" | "not"), _):
            return Interval(0, 1)
        case _, [a] if op in MONOTONE:
            rise = MONOTONE[op]
            return Interval(_safe(rise, a.low), _safe(rise, a.high))
        case _:
            return EVERYTHING


def _sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x)) if x >= 0 else exp(x) / (1 + exp(x))


def _softplus(x: float) -> float:
    return x + log1p(exp(-x)) if x > 0 else log1p(exp(x))


def _step(x: float) -> float:
    return float((x > 0) - (x < 0))


MONOTONE = {
    "exp": exp, "tanh": tanh, "sinh": sinh, "erf": erf, "sigmoid": _sigmoid,
    "softplus": _softplus, "sign": lambda x: tanh(10 * x), "exact_sign": _step,
}  # fmt: skip


def _safe(f: Callable[[float], float], x: float) -> float:
    try:
        return f(x)
    except OverflowError:
        return inf if f is not sinh or x > 0 else -inf


def _plus(a: float, b: float, otherwise: float) -> float:
    total = a + b
    return otherwise if isnan(total) else total


def _times(a: float, b: float) -> float:
    # An end at 0 is a value of the factor, and 0 times any number is 0, however large the other end.
    return 0.0 if a == 0 or b == 0 else a * b


def _product(a: Interval, b: Interval) -> Interval:
    return _hull(_times(x, y) for x in (a.low, a.high) for y in (b.low, b.high))


def _hull(values: Iterable[float]) -> Interval:
    ends = list(values)
    return Interval(min(ends), max(ends))


def _inverse(b: Interval) -> Interval:
    low = 1 / b.high if b.high != 0 else -inf
    high = 1 / b.low if b.low != 0 else inf
    return Interval(low, high)


def _power(a: Interval, n: float) -> Interval:
    if n == int(n) and n >= 0:
        ends = [
            _safe(lambda x: x ** int(n), x) if x not in (inf, -inf) else _infinite(x, int(n))
            for x in (a.low, a.high)
        ]
        if int(n) % 2 == 0 and a.low < 0 < a.high:
            ends.append(0.0 if n else 1.0)
        return _hull(ends)
    if n == int(n):
        return EVERYTHING if a.low <= 0 <= a.high and a.low != 0 else _inverse(_power(a, -n))
    if a.low < 0:
        return EVERYTHING
    return _hull(_root(x, n) for x in (a.low, a.high))


def _infinite(x: float, n: int) -> float:
    return 1.0 if n == 0 else inf if x > 0 or n % 2 == 0 else -inf


def _root(x: float, n: float) -> float:
    if x == 0:
        return 0.0 if n > 0 else inf
    if x == inf:
        return inf if n > 0 else 0.0
    return _safe(lambda y: y**n, x)


def _powers(a: Interval, b: Interval) -> Interval:
    """a^b = e^(b log a), for every a and b of two ranges."""
    if a.low < 0:
        return EVERYTHING
    exponent = _product(Interval(_log(a.low), _log(a.high)), b)
    return Interval(_safe(exp, exponent.low), _safe(exp, exponent.high))


def _log(x: float) -> float:
    return log(x) if x > 0 else -inf


def _share(part: Expr, whole: Expr, found: Mapping[int, Interval]) -> Interval | None:
    """The range of `part / whole` where that is a share between 0 and 1, perhaps times a factor: of the
    heads in `head / heads`, of a sum in `v / sum(v)`; None for any other quotient."""
    of_heads = (
        isinstance(whole, Ref) and whole.name == "heads" and part == replace(whole, name="head")
    )
    of_sum = isinstance(whole, Apply) and whole.op == "sum" and whole.args[0] == part
    if of_heads or (of_sum and found[id(part)].low >= 0):
        return Interval(0, 1)
    match part:
        case Apply("neg", (inner,)):
            factors = [(inner, Interval(-1, -1))]
        case Apply("mul", (a, b)):
            factors = [(a, found[id(b)]), (b, found[id(a)])]
        case _:
            return None
    shares = ((_share(inner, whole, found), factor) for inner, factor in factors)
    return next((_product(share, factor) for share, factor in shares if share is not None), None)
