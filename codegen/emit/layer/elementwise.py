"""Elementwise formulas of a layer in torch: what a reader knows is called by its name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import sympy as sp

from miras_dsl.codegen.emit.scalar_printer import TORCH, Printer, print_with_strength
from miras_dsl.codegen.model.log_gates import floored_log
from miras_dsl.codegen.model.lower import POINTWISE
from miras_dsl.ir import ordered
from miras_dsl.scalar import functions as scalars

from .expressions import Expression, Layout, broadcast_to, united

_silu, _relu, _gelu_tanh, _larger, _smaller, _at_least, _at_most, _log_gate = (
    sp.Function(name, real=True)
    for name in (
        "silu", "relu", "gelu_tanh", "larger", "smaller", "at_least", "at_most", "log_gate"
    )
)  # fmt: skip
"""What a reader knows by name.  `at_least` and `at_most` are a value's bounds by a number."""

LAYER: Mapping[type, Printer] = {
    **TORCH,
    sp.exp: "ops.finite_exp({})".format,
    scalars.softplus: "F.softplus({})".format,
    _silu: "F.silu({})".format,
    _relu: "F.relu({})".format,
    _gelu_tanh: 'F.gelu({}, approximate="tanh")'.format,
    _larger: "torch.maximum({}, {})".format,
    _smaller: "torch.minimum({}, {})".format,
    _at_least: "torch.clamp({}, min={})".format,
    _at_most: "torch.clamp({}, max={})".format,
    _log_gate: "ops.log_gate({})".format,
}
"""Functions of a layer's text; those of this file are made by `recognised` and printed only."""
SLOT = scalars.OPERANDS[0]
NAMED = {
    POINTWISE["silu"]: _silu(SLOT),
    POINTWISE["gelu_tanh"]: _gelu_tanh(SLOT),
    floored_log(SLOT): _log_gate(SLOT),
}


def recognised(formula: sp.Expr) -> sp.Expr:
    """A formula with maxima, minima and activations as functions."""
    if formula in NAMED:
        return NAMED[formula]
    return formula.replace(
        lambda part: isinstance(part, scalars.where), lambda part: _bounded(*part.args)
    )


def _bounded(c: sp.Expr, a: sp.Expr, b: sp.Expr) -> sp.Expr:
    if not isinstance(c, scalars.ge0) or c.args[0] not in (a - b, b - a):
        return scalars.where(c, a, b)
    larger = c.args[0] == a - b
    value, bound = (b, a) if a.is_number else (a, b)
    if not bound.is_number:
        return (_larger if larger else _smaller)(a, b)
    if larger and bound == 0:
        return _relu(value)
    return (_at_least if larger else _at_most)(value, bound)


def elementwise_text(formula: sp.Expr, operands: Mapping[sp.Symbol, Expression]) -> Expression:
    """A formula of some expressions, which meet by the names of their axes."""
    if formula in operands:
        return operands[formula]
    used = {s: x for s, x in operands.items() if s in formula.free_symbols}
    sizes = {s for s, x in used.items() if x.layout is Layout.NUMBER}
    if used and (alone := _needs_tensor(formula, sizes)):
        # a function of nothing but sizes takes torch's numbers, not Python's
        for symbol in alone:
            text = f"like_parameters(self).new_tensor({used[symbol].text})"
            used[symbol] = Expression(text, Layout.HEADS)
    layout = united(used.values())
    axes = ordered(axis for x in used.values() for axis in x.axes)
    names = {s: broadcast_to(x, axes, layout).operand for s, x in used.items()}
    text, binds = print_with_strength(formula, names, LAYER)
    timed, headed = any(x.timed for x in used.values()), any(x.headed for x in used.values())
    return Expression(text, layout, axes, timed, headed, binds)


def _needs_tensor(formula: sp.Expr, sizes: Iterable[sp.Symbol]) -> set[sp.Symbol]:
    """Symbols of numbers that a function gets with no tensor beside them."""
    among = set(sizes)
    parts = [f for f in formula.atoms(sp.Function) if f.free_symbols and f.free_symbols <= among]
    parts += [p for p in formula.atoms(sp.Pow) if not p.exp.is_Integer and p.free_symbols <= among]
    return {symbol for part in parts for symbol in part.free_symbols} & among
