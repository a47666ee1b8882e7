"""A rule as one line of mathematics, for people: docstrings, `explain`, messages."""

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp

from miras_dsl import scalars
from miras_dsl.ir import (
    Contract,
    Extent,
    Input,
    Map,
    Node,
    Number,
    Reduce,
    Rename,
    Spread,
)
from miras_dsl.scalars import SLOTS

from .update import UpdateRule

_ORDER = {sp.Add: 1, sp.Mul: 2, sp.Pow: 4}


def show(node: Node) -> str:
    """A node as text, near to what one would write."""
    return _show(node)[0]


def _show(node: Node) -> tuple[str, int]:
    match node:
        case Input(name, _, kind):
            shown = name.removeprefix("log_")
            return (f"log({shown})" if shown != name else name + ("'" if kind == "after" else "")), 5
        case Number(value):
            return _number(value), 5 if value.is_nonnegative else 2
        case Extent(axis):
            return f"size({axis.lstrip('#')})", 5
        case Map(formula, args):
            return _formula(formula, {s: a for s, a in zip(SLOTS, args, strict=False)})
        case Contract(left, right, _):
            if len(left.axes) == 1 and len(right.axes) == 2:
                return f"{_at(right, 2)}ᵀ @ {_at(left, 3)}" if right.axes[0] in left.axes else f"{_at(right, 2)} @ {_at(left, 3)}", 2
            return f"{_at(left, 2)} @ {_at(right, 3)}", 2
        case Reduce(kind, x, _):
            return f"{kind}({show(x)})", 5
        case Spread(x) | Rename(x):
            return _show(x)
        case _:
            inner = ", ".join(show(operand) for operand in node.operands)
            return f"{type(node).__name__.lower()}({inner})", 5


def _at(node: Node, level: int) -> str:
    text, strength = _show(node)
    return text if strength >= level else f"({text})"


def _number(value: sp.Expr) -> str:
    return str(value) if value.is_Rational else f"{float(value):.6g}"


def _formula(expr: sp.Expr, nodes: Mapping[sp.Symbol, Node]) -> tuple[str, int]:
    def at(part: sp.Expr, level: int) -> str:
        text, strength = _formula(part, nodes)
        return text if strength >= level else f"({text})"

    if isinstance(expr, sp.Symbol):
        return _show(nodes[expr])
    if expr.is_number:
        return _number(expr), 5 if expr.is_nonnegative else 2
    match expr:
        case sp.Add():
            out = ""
            for term in sorted(expr.as_ordered_terms(), key=lambda t: t.could_extract_minus_sign()):
                minus = bool(out) and term.could_extract_minus_sign()
                out += (" - " if minus else " + " if out else "") + at(-term if minus else term, 2)
            return out, 1
        case sp.Mul():
            coefficient, rest = expr.as_coeff_Mul()
            top, bottom = sp.fraction(expr) if coefficient != -1 else (rest, sp.Integer(1))
            if coefficient == -1:
                return f"-{at(rest, 2)}", 2
            factors = [at(f, 3) for f in top.as_ordered_factors() if f != 1] or ["1"]
            line = " * ".join(factors)
            return (f"{line} / {at(bottom, 3)}" if bottom != 1 else line), 2
        case sp.Pow():
            if expr.exp == -1:
                return f"1 / {at(expr.base, 3)}", 2
            return f"{at(expr.base, 5)}^{at(expr.exp, 5)}", 4
        case sp.exp() if isinstance(expr.args[0], sp.Symbol) and _log_name(nodes[expr.args[0]]):
            return _log_name(nodes[expr.args[0]]), 5
        case scalars.step() | scalars.above():
            sign = ">=" if isinstance(expr, scalars.step) else ">"
            left, right = expr.args[0].as_two_terms() if isinstance(expr.args[0], sp.Add) else (expr.args[0], sp.Integer(0))
            if right.could_extract_minus_sign():
                return f"{at(left, 1)} {sign} {at(-right, 1)}", 0
            if left.could_extract_minus_sign():
                return f"{at(right, 1)} {sign} {at(-left, 1)}", 0
            return f"{at(expr.args[0], 1)} {sign} 0", 0
        case _:
            names = {"absolute": "abs", "signum": "sign", "root": "sqrt", "inverse_root": "rsqrt"}
            name = names.get(expr.func.__name__, expr.func.__name__)
            return f"{name}({', '.join(at(a, 0) for a in expr.args)})", 5


def _log_name(node: Node) -> str:
    return node.name.removeprefix("log_") if isinstance(node, Input) and node.name.startswith("log_") else ""


def law_of(rule: UpdateRule) -> tuple[str, ...]:
    """The rule: one line for each state that changes, then the answer."""
    lines = []
    for state in rule.states:
        new = rule.program.result(state.name)
        if new is state:
            continue
        linear = dict(rule.linear).get(state)
        if linear is None:
            lines.append(f"{state.name}' = {show(new)}")
            continue
        terms = []
        for kept, coefficient in linear.keep:
            gate = show(coefficient)
            terms.append(kept.name if gate == "1" else f"{_at(coefficient, 3)} * {kept.name}")
        for write in linear.writes:
            scale = "" if show(write.scale) == "1" else f"{_at(write.scale, 3)} * "
            terms.append(f"{scale}{_at(write.u, 3)}" + ("" if write.x is None else f" ⊗ {_at(write.x, 3)}"))
        lines.append(f"{state.name}' = " + " + ".join(terms).replace("+ -", "- "))
    lines.append(f"y = {show(rule.answer)}")
    return tuple(lines)
