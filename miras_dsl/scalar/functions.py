"""Scalar functions as sympy functions with stated derivatives, whose values stay finite.

sympy's own `Abs`, `Max`, `Piecewise` and `Heaviside` cannot be differentiated twice, or give NaN.  Most
functions here are defined for every real number; derivatives are stated, almost everywhere.
"""

from __future__ import annotations

from functools import lru_cache

import sympy as sp
from sympy.core.function import ArgumentIndexError

from .angles import within_turn as within_turn
from .hypotenuse import hypot, hypot_slope, inside_asinh
from .real_function import RealFunction

OPERANDS = tuple(sp.Symbol(f"x{n}", real=True) for n in range(1024))
"""The symbols that stand for the operands of a `Map`, in order."""


class sigmoid(RealFunction):
    """1 / (1 + e^-x)."""

    @classmethod
    def definition(cls, x: sp.Expr) -> sp.Expr:
        return 1 / (1 + sp.exp(-x))

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return self * (1 - self)


class softplus(RealFunction):
    """log(1 + e^x)."""

    @classmethod
    def definition(cls, x: sp.Expr) -> sp.Expr:
        return sp.log(1 + sp.exp(x))

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return sigmoid(self.args[0])


class logcosh(RealFunction):
    """log(cosh x), computed without cosh, which overflows from 89 on in float32."""

    @classmethod
    def definition(cls, x: sp.Expr) -> sp.Expr:
        return sp.log(sp.cosh(x))

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return sp.tanh(self.args[0])


class asinh(RealFunction):
    """log(x + sqrt(x^2 + 1)); that formula itself cancels for large negative x."""

    @classmethod
    def definition(cls, x: sp.Expr) -> sp.Expr:
        return sp.asinh(x)

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return 1 / hypot(self.args[0], sp.Integer(1))


class ge0(sp.Function):
    """1 where x >= 0, else 0; its derivative is 0."""

    nargs = 1
    is_real = True

    @classmethod
    def eval(cls, x: sp.Expr) -> sp.Expr | None:
        return sp.Integer(1 if x >= 0 else 0) if x.is_number else None

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return sp.Integer(0)


class gt0(sp.Function):
    """1 where x > 0, else 0; its derivative is 0."""

    nargs = 1
    is_real = True

    @classmethod
    def eval(cls, x: sp.Expr) -> sp.Expr | None:
        return sp.Integer(1 if x > 0 else 0) if x.is_number else None

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return sp.Integer(0)


class sign(sp.Function):
    """-1, 0 or 1; its derivative is 0."""

    nargs = 1
    is_real = True

    @classmethod
    def eval(cls, x: sp.Expr) -> sp.Expr | None:
        return sp.sign(x) if x.is_number else None

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return sp.Integer(0)


class where(sp.Function):
    """a where c is not 0, else b; the other may be infinite or NaN.  The derivative by c is 0."""

    nargs = 3
    is_real = True

    @classmethod
    def eval(cls, c: sp.Expr, a: sp.Expr, b: sp.Expr) -> sp.Expr | None:
        if a == b:
            return a
        return (b if c.is_zero else a) if c.is_Number else None

    def _eval_derivative(self, s: sp.Symbol) -> sp.Expr:
        c, a, b = self.args
        return where(c, a.diff(s), b.diff(s))

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        raise ArgumentIndexError(self, argindex)


class abs_pow(sp.Function):
    """``|x|^p`` for a constant p, 0 at x = 0 when p > 0 (and by convention also when p < 0)."""

    nargs = 2
    is_real = True

    @classmethod
    def eval(cls, x: sp.Expr, p: sp.Expr) -> sp.Expr | None:
        if p == 0:
            return sp.Integer(1)
        return x**p if p.is_Integer and p > 0 and p % 2 == 0 else None

    def _eval_evalf(self, prec: int) -> sp.Expr:
        x, p = self.args
        return sp.Integer(0) if x.is_zero else (sp.Abs(x) ** p)._evalf(prec)

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        x, p = self.args
        if argindex == 1:
            return p * signed_pow(x, p - 1)
        return self * where(sign(x), sp.log(absolute(x)), 0)


class signed_pow(sp.Function):
    """``sign(x) |x|^p`` for a constant p, 0 at x = 0."""

    nargs = 2
    is_real = True

    @classmethod
    def eval(cls, x: sp.Expr, p: sp.Expr) -> sp.Expr | None:
        if p == 0:
            return sign(x)
        return x**p if p.is_Integer and p > 0 and p % 2 == 1 else None

    def _eval_evalf(self, prec: int) -> sp.Expr:
        x, p = self.args
        return sp.Integer(0) if x.is_zero else (sp.sign(x) * sp.Abs(x) ** p)._evalf(prec)

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        x, p = self.args
        if argindex == 1:
            return p * abs_pow(x, p - 1)
        return self * where(sign(x), sp.log(absolute(x)), 0)


class pow_nonneg(sp.Function):
    """``x^p`` for a constant p that is not a whole number: 0 at x = 0, NaN for x < 0.

    sympy would make ``|x|^3`` of ``(x^2)^(3/2)``, with an absolute value that has no second derivative.
    """

    nargs = 2
    is_real = True

    @classmethod
    def eval(cls, x: sp.Expr, p: sp.Expr) -> sp.Expr | None:
        if x.is_positive or p.is_integer:
            return x**p
        if isinstance(x, sp.Pow) and x.exp.is_even:
            return abs_pow(x.base, x.exp * p)
        return None

    def _eval_evalf(self, prec: int) -> sp.Expr:
        x, p = self.args
        return sp.Integer(0) if x.is_zero else (x**p)._evalf(prec)

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        x, p = self.args
        if argindex == 1:
            return p * pow_nonneg(x, p - 1)
        return self * where(sign(x), sp.log(absolute(x)), 0)


class absolute(RealFunction):
    """|x|; the derivative at 0 is 0."""

    @classmethod
    def definition(cls, x: sp.Expr) -> sp.Expr:
        return sp.Abs(x)

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return sign(self.args[0])


class sqrt(RealFunction):
    """The square root of x, 0 for x <= 0 with derivative 0 there, so that a norm may be 0."""

    @classmethod
    def definition(cls, x: sp.Expr) -> sp.Expr:
        return sp.sqrt(x) if x > 0 else sp.Integer(0)

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return rsqrt(self.args[0]) / 2


class rsqrt(RealFunction):
    """1 / sqrt(x) for x > 0, else 0."""

    @classmethod
    def definition(cls, x: sp.Expr) -> sp.Expr:
        return 1 / sp.sqrt(x) if x > 0 else sp.Integer(0)

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return -(rsqrt(self.args[0]) ** 3) / 2


class erf(sp.Function):
    """The error function."""

    nargs = 1
    is_real = True

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        x = self.args[0]
        return 2 * sp.exp(-(x**2)) / sp.sqrt(sp.pi)


def maximum(a: sp.Expr, b: sp.Expr) -> sp.Expr:
    """The larger of two numbers; if they are equal, the derivative is that of ``a``."""
    return where(ge0(a - b), a, b)


def minimum(a: sp.Expr, b: sp.Expr) -> sp.Expr:
    """The smaller of two numbers; if they are equal, the derivative is that of ``a``."""
    return where(ge0(b - a), a, b)


def log(x: sp.Expr) -> sp.Expr:
    """The natural logarithm; of cosh, a sigmoid or an exponential in a form that does not overflow."""
    if isinstance(x, sp.cosh):
        return logcosh(x.args[0])
    if isinstance(x, sp.exp | sigmoid):
        return x.args[0] if isinstance(x, sp.exp) else -softplus(-x.args[0])
    return sp.log(x) if (inside := inside_asinh(x)) is None else asinh(inside)


def power(x: sp.Expr, p: sp.Expr) -> sp.Expr:
    """``x^p`` for a constant p, in the form whose derivative is defined at 0: ``|y|^p`` as `abs_pow`."""
    if isinstance(x, absolute):
        return abs_pow(x.args[0], p)
    if isinstance(x, sp.Pow) and x.exp.is_even and p.is_integer is False:
        return absolute(x.base) if x.exp * p == 1 else abs_pow(x.base, x.exp * p)
    if p == sp.Rational(1, 2):
        return sqrt(x)
    return pow_nonneg(x, p) if p.is_integer is False else x**p


FUNCTIONS = (
    sigmoid, softplus, logcosh, ge0, gt0, sign, where, abs_pow, signed_pow, pow_nonneg, absolute, sqrt,
    rsqrt, hypot, hypot_slope, erf, asinh, within_turn, sp.exp, sp.log, sp.tanh, sp.sinh, sp.cosh,
    sp.sin, sp.cos,
)  # fmt: skip
"""Every function that may occur in a scalar formula; printers and tests go through this list."""


@lru_cache(maxsize=4096)
def derivative(expr: sp.Expr, slot: sp.Symbol) -> sp.Expr:
    """``d expr / d slot``, cached."""
    return expr.diff(slot)
