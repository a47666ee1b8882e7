"""sympy formulas as the text of a target: torch or Triton.

A target is a table from functions to text; precedence and numbers are shared.  Only symbols, canonical
numbers and the functions of `scalars.FUNCTIONS` can be printed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import sympy as sp

from miras_dsl.codegen.passes.size_limits import TooLarge
from miras_dsl.scalar import functions as scalars
from miras_dsl.scalar.activations import gelu, gelu_slope
from miras_dsl.scalar.monotone_inverse import UNKNOWN, discontinuities, from_end, monotone_inverse
from miras_dsl.scalar.norms import fixed, norm_root, ratio, share_power

Printer = Callable[..., str]

TORCH: Mapping[type, Printer] = {
    sp.exp: "torch.exp({})".format,
    sp.log: "torch.log({})".format,
    sp.tanh: "torch.tanh({})".format,
    sp.sinh: "torch.sinh({})".format,
    sp.cosh: "torch.cosh({})".format,
    sp.sin: "torch.sin({})".format,
    sp.cos: "torch.cos({})".format,
    scalars.erf: "torch.erf({})".format,
    gelu: "F.gelu({})".format,
    gelu_slope: "ops.gelu_slope({})".format,
    scalars.asinh: "torch.asinh({})".format,
    scalars.within_turn: "ops.within_turn({})".format,
    scalars.sigmoid: "torch.sigmoid({})".format,
    scalars.softplus: "ops.softplus({})".format,
    scalars.logcosh: "ops.logcosh({})".format,
    scalars.ge0: "ops.ge0({})".format,
    scalars.gt0: "ops.gt0({})".format,
    scalars.sign: "torch.sign({})".format,
    scalars.absolute: "torch.abs({})".format,
    scalars.sqrt: "ops.sqrt({})".format,
    scalars.rsqrt: "ops.rsqrt({})".format,
    scalars.hypot: "ops.hypot({}, {})".format,
    scalars.hypot_slope: "ops.hypot_slope({}, {})".format,
    scalars.where: "ops.where({}, {}, {})".format,
    scalars.abs_pow: "ops.abs_pow({}, {})".format,
    scalars.signed_pow: "ops.signed_pow({}, {})".format,
    scalars.pow_nonneg: "ops.pow_nonneg({}, {})".format,
}
"""`ops` is `miras_dsl.runtime.ops.tensor_ops`."""

TRITON: Mapping[type, Printer] = {
    sp.exp: "tl.exp({})".format,
    sp.log: "tl.log({})".format,
    sp.tanh: "tl_math.tanh({})".format,
    sp.sinh: "tl_math.sinh({})".format,
    sp.cosh: "tl_math.cosh({})".format,
    sp.sin: "tl.sin({})".format,
    sp.cos: "tl.cos({})".format,
    scalars.erf: "tl.erf({})".format,
    gelu: "tl_math.gelu({})".format,
    gelu_slope: "tl_math.gelu_slope({})".format,
    scalars.asinh: "tl_math.asinh({})".format,
    scalars.within_turn: "tl_math.within_turn({})".format,
    scalars.sigmoid: "tl.sigmoid({})".format,
    scalars.softplus: "tl_math.softplus({})".format,
    scalars.logcosh: "tl_math.logcosh({})".format,
    scalars.ge0: "tl.where({} >= 0.0, 1.0, 0.0)".format,
    scalars.gt0: "tl.where({} > 0.0, 1.0, 0.0)".format,
    scalars.sign: "tl_math.sign({})".format,
    scalars.absolute: "tl.abs({})".format,
    scalars.sqrt: "tl.sqrt(tl.maximum({}, 0.0))".format,
    scalars.rsqrt: "tl_math.rsqrt({})".format,
    scalars.hypot: "tl_math.hypot({}, {})".format,
    scalars.hypot_slope: "tl_math.hypot_slope({}, {})".format,
    scalars.where: "tl.where({} != 0.0, {}, {})".format,
    scalars.abs_pow: "tl_math.abs_pow({}, {})".format,
    scalars.pow_nonneg: "tl_math.pow_nonneg({}, {})".format,
    scalars.signed_pow: "tl_math.signed_pow({}, {})".format,
}
"""`tlmath` is `miras_dsl.runtime.tlmath`."""

COMPARED = (scalars.where, scalars.ge0, scalars.gt0)
"""Functions whose text in Triton compares their first operand."""
MULTIPLIED = 4
"""The largest power of a magnitude that is written as a product."""
SUM, PRODUCT, UNARY, ATOM = 1, 2, 3, 4


def print_scalar(
    formula: sp.Expr, names: Mapping[sp.Symbol, str], target: Mapping[type, Printer]
) -> str:
    """A formula as an expression of the target; ``names`` gives the text of each symbol."""
    return _text(formula, names, target)[0]


def print_with_strength(
    formula: sp.Expr, names: Mapping[sp.Symbol, str], target: Mapping[type, Printer]
) -> tuple[str, int]:
    """A formula as text, and how tight its outermost operation binds: `SUM` … `ATOM`."""
    return _text(formula, names, target)


def print_number(value: sp.Expr) -> str:
    """A number as a Python literal that reads back as the nearest double."""
    if value.is_Integer:
        return f"{int(value)}.0"
    return repr(float(value))


def _wrapped(part: tuple[str, int], needed: int) -> str:
    return part[0] if part[1] >= needed else f"({part[0]})"


def _text(
    expr: sp.Expr, names: Mapping[sp.Symbol, str], target: Mapping[type, Printer]
) -> tuple[str, int]:
    if isinstance(expr, sp.Symbol):
        return names[expr], ATOM
    if (expr.is_number and not expr.args) or expr.is_number:
        literal = print_number(expr)
        return literal, UNARY if literal.startswith("-") else ATOM
    match expr:
        case monotone_inverse():
            return _inverted(expr, names, target), ATOM
        case share_power() | norm_root():
            return _text(expr.plain(), names, target)
        case fixed():
            text = _text(expr.args[0], names, target)
            return text if target is TRITON else (f"ops.fixed({text[0]})", ATOM)
        case ratio():
            x, m = (_wrapped(_text(arg, names, target), UNARY) for arg in expr.args)
            return f"{x} / {m}", PRODUCT
        case sp.Add():
            return _sum(expr, names, target), SUM
        case sp.Mul():
            return _product(expr, names, target)
        case sp.Pow():
            return _power(expr, names, target)
        case _:
            if target is TRITON and expr.func in (scalars.abs_pow, scalars.signed_pow):
                whole = _whole_power(*expr.args, expr.func is scalars.signed_pow)
                if whole is not None:
                    return _text(whole, names, target)
            arguments = [_text(argument, names, target)[0] for argument in expr.args]
            if target is TRITON and expr.func in COMPARED:
                arguments[0] = arguments[0] if arguments[0].isidentifier() else f"({arguments[0]})"
            return target[expr.func](*arguments), ATOM


def _whole_power(x: sp.Expr, p: sp.Expr, signed: bool) -> sp.Expr | None:
    """`|x|^p`, or with the sign of x, as a product, where p is a small whole number."""
    if not (p.is_Integer and 1 <= p <= MULTIPLIED):
        return None
    size = scalars.absolute(x)
    return x * size ** (p - 1) if signed else size**p


def _inverted(
    expr: monotone_inverse, names: Mapping[sp.Symbol, str], target: Mapping[type, Printer]
) -> str:
    a, f, low, high = expr.args
    unknown = "w"
    while any(re.search(rf"\b{unknown}\b", name) for name in names.values()):
        unknown += "_"
    inner = {**names, UNKNOWN: unknown}

    def function(part: sp.Expr) -> str:
        return f"lambda {unknown}: {print_scalar(part, inner, target)}"

    given = [function(f), function(f.diff(UNKNOWN)), print_scalar(a, names, target)]
    places = [f"({function(u)}, {function(u.diff(UNKNOWN))})" for u in discontinuities(f)]
    for word, end in (("low", low), ("high", high)):
        if not end.is_infinite:
            given.append(f"{word}={print_scalar(end, names, target)}")
    if places:
        given.append(f"jumps=[{', '.join(places)}]")
    for word, end, sign in (("near_low", low, 1), ("near_high", high, -1)):
        if (near := from_end(f, end, sign)) is not None:
            given.append(f"{word}=({function(near)}, {function(near.diff(UNKNOWN))})")
    return f"ops.monotone_inverse({', '.join(given)})"


def _sum(expr: sp.Add, names: Mapping[sp.Symbol, str], target: Mapping[type, Printer]) -> str:
    terms = sorted(expr.as_ordered_terms(), key=lambda t: t.could_extract_minus_sign())
    out = ""
    for term in terms:
        negative = bool(out) and term.could_extract_minus_sign()
        part = _wrapped(_text(-term if negative else term, names, target), PRODUCT)
        out += f"{' - ' if negative else ' + '}{part}" if out else part
    return out


def _product(
    expr: sp.Mul, names: Mapping[sp.Symbol, str], target: Mapping[type, Printer]
) -> tuple[str, int]:
    numbers = [factor for factor in expr.args if factor.is_number]
    coefficient = sp.Mul(*numbers)
    rest = sp.Mul(*(factor for factor in expr.args if not factor.is_number))
    if coefficient == -1:
        return f"-{_wrapped(_text(rest, names, target), PRODUCT)}", PRODUCT
    above: list[str] = [] if coefficient == 1 else [print_number(coefficient)]
    below: list[str] = []
    for factor in rest.as_ordered_factors():
        if isinstance(factor, sp.Pow) and factor.exp.is_number and factor.exp.is_negative:
            below.append(_wrapped(_text(factor.base ** (-factor.exp), names, target), UNARY))
        else:
            above.append(_wrapped(_text(factor, names, target), UNARY))
    line = " * ".join(above or ["1.0"])
    for divisor in below:
        line += f" / {divisor if divisor[0] != '-' else f'({divisor})'}"
    return line, PRODUCT


def _power(
    expr: sp.Pow, names: Mapping[sp.Symbol, str], target: Mapping[type, Printer]
) -> tuple[str, int]:
    base = _wrapped(_text(expr.base, names, target), ATOM)
    if expr.exp.is_Integer:
        count = abs(int(expr.exp))
        if count <= 4 and base.isidentifier():
            product = " * ".join([base] * count)
            return (product, PRODUCT) if expr.exp > 0 else (f"1.0 / ({product})", PRODUCT)
        if target is not TRITON:
            return f"{base} ** {int(expr.exp)}", UNARY
        return _repeated(base, int(expr.exp)), PRODUCT
    exponent = _text(expr.exp, names, target)[0]
    base = base if base.isidentifier() else _text(expr.base, names, target)[0]
    return f"{'tl_math.power' if target is TRITON else 'torch.pow'}({base}, {exponent})", ATOM


MOST_REPEATED = 4_000
"""The most characters of a power that is written as a product."""


def _repeated(base: str, power: int) -> str:
    if len(base) * abs(power) > MOST_REPEATED:
        raise TooLarge(
            f"a power writes its base {abs(power)} times, each of {len(base)} characters"
        )
    product = "(" + " * ".join([base] * abs(power)) + ")"
    return product if power > 0 else f"1.0 / {product}"
