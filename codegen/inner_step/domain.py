"""The interval of one number on which formulas of it exist.

A logarithm, a root and a broken power need a positive operand, a quotient one that is not 0.  Where the
formulas exist on several intervals, the one that holds 0 is meant, or else the one nearest to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import sympy as sp

from miras_dsl.scalar import functions as scalars
from miras_dsl.scalar.monotone_inverse import UNKNOWN
from miras_dsl.scalar.numpy_values import Array, eval_scalar

from .scalar_equation import cheap_to_simplify

PARTIAL = (sp.log, scalars.sqrt, scalars.rsqrt, scalars.pow_nonneg)
"""Functions that need a positive first operand."""
GRID = np.unique(np.concatenate([np.sinh(np.linspace(-24, 24, 193)), np.linspace(-10, 10, 2001)]))
"""Where a zero that has no formula is looked for."""
NEAREST = 4
"""How many such zeros are kept on either side of 0."""


class NoDomain(Exception):
    """Formulas exist nowhere, or not on one interval; the message completes "its slope …"."""


def numbers(expr: sp.Expr, env: Mapping[sp.Symbol, Array]) -> Array:
    """The values of a formula; NaN where it is not a real number."""
    if expr.is_infinite:
        return np.asarray(float(expr))
    with np.errstate(all="ignore"):
        return np.asarray(eval_scalar(expr, env, {}), dtype=float)


def domain(
    formulas: Sequence[sp.Expr], tried: Mapping[sp.Symbol, Array]
) -> tuple[sp.Expr, sp.Expr]:
    """The ends of the interval of `UNKNOWN` on which all the formulas exist, as formulas of constants.

    tried  values of the constants, [trials, 1] each

    Raises NoDomain where there is none, or not the same one for all values of the constants.
    """
    positive, nonzero = _conditions(formulas)
    ends: dict[sp.Expr, Array] = {}
    for inside in (*positive, *nonzero):
        for end in dict.fromkeys(_zeros(inside, tried)):
            if _is_zero(inside, end, tried):
                ends[end] = numbers(end, tried)
    point = _point(positive, nonzero, list(ends.values()), tried)
    low, high = sp.S.NegativeInfinity, sp.S.Infinity
    for end, at in ends.items():
        if np.all(at < point):
            low = end if low.is_infinite else _larger(low, end)
        elif np.all(at > point):
            high = end if high.is_infinite else -_larger(-high, -end)
        else:
            raise NoDomain("is a number on other weights for other values of its gates")
    return low, high


def _larger(a: sp.Expr, b: sp.Expr) -> sp.Expr:
    if a.is_number and b.is_number:
        return a if a >= b else b
    return scalars.maximum(a, b)


def _conditions(formulas: Sequence[sp.Expr]) -> tuple[list[sp.Expr], list[sp.Expr]]:
    """What must be positive, and what must not be 0, for the formulas to exist."""
    positive, nonzero = set[sp.Expr](), set[sp.Expr]()
    for formula in formulas:
        positive |= {part.args[0] for part in formula.atoms(*PARTIAL)}
        for power in formula.atoms(sp.Pow):
            if not power.exp.is_Integer:
                positive.add(power.base)
            elif power.exp < 0:
                nonzero.add(power.base)
    return tuple(
        sorted((part for part in found if part.has(UNKNOWN)), key=sp.default_sort_key)
        for found in (positive, nonzero - positive)
    )  # type: ignore[return-value]


def _point(
    positive: Sequence[sp.Expr],
    nonzero: Sequence[sp.Expr],
    ends: Sequence[Array],
    tried: Mapping[sp.Symbol, Array],
) -> Array:
    """A number at which the conditions hold for all values of the constants: 0, or one near it."""
    zero = np.zeros((1, 1))
    points = [zero, *(sign * 10.0**k + zero for k in (-3, -1, 0, 1, 3) for sign in (1, -1))]
    for end in ends:
        points += [end + sign * 1e-6 * (1 + np.abs(end)) for sign in (1, -1)]
        points += [(end + other) / 2 for other in ends if other is not end]
    points = [p for p in points if np.all(np.isfinite(p))]
    somewhere = False
    # Of two numbers equally far from 0 the positive one comes first.
    for point in sorted(points, key=lambda p: (float(np.abs(p).max()), -float(p.max()))):
        env = {**tried, UNKNOWN: point}
        holds = [numbers(part, env) > 0 for part in positive]
        holds += [np.isfinite(v := numbers(part, env)) & (v != 0) for part in nonzero]
        if all(np.all(each) for each in holds):
            return point
        somewhere = somewhere or all(np.any(each) for each in holds)
    if somewhere:
        raise NoDomain("is not a number for some values of its gates")
    raise NoDomain("is a number nowhere")


def _is_zero(inside: sp.Expr, end: sp.Expr, tried: Mapping[sp.Symbol, Array]) -> bool:
    """Whether ``inside`` is 0 or has a pole at a number that may be one of its zeros."""
    at = numbers(end, tried)
    if not np.all(np.isfinite(at)):
        return False
    here, near = (
        np.abs(numbers(inside, {**tried, UNKNOWN: at + apart * (1 + np.abs(at))}))
        for apart in (0.0, 1e-3)
    )
    small = here <= 1e-6 * np.where(np.isfinite(near), near, 1.0)
    return bool(np.all(small | ~np.isfinite(here) | (here > 1e9)))


def _zeros(inside: sp.Expr, tried: Mapping[sp.Symbol, Array]) -> Iterator[sp.Expr]:
    """Candidates for the numbers at which a formula is 0, or has a pole."""
    for part in sp.fraction(sp.together(inside)) if cheap_to_simplify(inside) else (inside,):
        for plain in _without_magnitudes(part):
            whole = plain
            if cheap_to_simplify(plain) and plain.is_polynomial(UNKNOWN):
                whole = sp.factor(plain)
            for factor in sp.Mul.make_args(whole):
                base = factor.base if isinstance(factor, sp.Pow) else factor
                if base.has(UNKNOWN):
                    yield from _roots(base)


def _without_magnitudes(part: sp.Expr) -> list[sp.Expr]:
    """The formula with either sign for each of its first absolute values."""
    found = [part]
    for size in sorted(part.atoms(scalars.absolute), key=sp.default_sort_key)[:3]:
        (x,) = size.args
        if x.has(UNKNOWN):
            found = [p.xreplace({size: s * x}) for p in found for s in (1, -1)]
    return found


def _roots(part: sp.Expr) -> Iterator[sp.Expr]:
    """The zeros of a formula that is a line, a polynomial or a line of one power; others numerically."""
    at_zero = part.xreplace({UNKNOWN: sp.Integer(0)})
    slope = part.diff(UNKNOWN)
    if not slope.has(UNKNOWN):
        yield -at_zero / slope
        return
    if part.is_polynomial(UNKNOWN):
        coefficients = sp.Poly(part, UNKNOWN).all_coeffs()
        if len(coefficients) == 3:
            a, b, c = coefficients
            inside = b**2 - 4 * a * c
            root = sp.sqrt(inside) if inside.is_nonnegative else scalars.sqrt(inside)
            if inside.is_negative is not True:
                yield from ((-b + sign * root) / (2 * a) for sign in (1, -1))
            return
    if (inner := _power_in_a_line(part)) is not None:
        yield from inner
    elif part.free_symbols == {UNKNOWN}:
        yield from map(sp.Float, _numeric_zeros(part))


def _power_in_a_line(part: sp.Expr) -> list[sp.Expr] | None:
    """The zeros of ``k f(l) + b`` for a power f of a line l."""
    powers = (scalars.abs_pow, scalars.pow_nonneg, scalars.sqrt, sp.Pow)
    held = [p for p in part.atoms(*powers) if p.has(UNKNOWN)]
    if len(held) != 1:
        return None
    (power,) = held
    base, exponent = (power.args[0], sp.Rational(1, 2)) if len(power.args) == 1 else power.args
    u = sp.Symbol("u", real=True)
    line, steep = part.xreplace({power: u}), base.diff(UNKNOWN)
    k = line.diff(u)
    if line.has(UNKNOWN) or k.has(u) or steep.has(UNKNOWN) or exponent.has(UNKNOWN):
        return None
    size = scalars.abs_pow(-line.xreplace({u: sp.Integer(0)}) / k, 1 / exponent)
    start = base.xreplace({UNKNOWN: sp.Integer(0)})
    return [(sign * size - start) / steep for sign in (1, -1)]


def _numeric_zeros(part: sp.Expr) -> list[float]:
    """Where a formula of the unknown alone changes its sign, by bisection; those nearest to 0."""
    signs = np.sign(numbers(part, {UNKNOWN: GRID}) + 0 * GRID)
    found: list[float] = []
    for n in np.nonzero(signs[1:] * signs[:-1] < 0)[0]:
        left, right = float(GRID[n]), float(GRID[n + 1])
        while left < (middle := (left + right) / 2) < right:
            here = np.sign(numbers(part, {UNKNOWN: np.asarray(middle)}))
            left, right = (middle, right) if here == signs[n] else (left, middle)
        found.append(left)
    found += [float(GRID[n]) for n in np.nonzero(signs == 0)[0]]
    above, below = [x for x in found if x >= 0], [x for x in found if x < 0]
    return [*sorted(above)[:NEAREST], *sorted(below)[-NEAREST:]]
