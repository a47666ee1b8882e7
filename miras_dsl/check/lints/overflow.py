"""Exponentials that overflow inside a formula whose own value is small: no number comes out.

The compiler writes logarithms and quotients of sums of exponentials stably; these here it cannot read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import log

from miras_dsl.check.formula.exponentials import exponential_sum, stable_logarithm, stable_sum
from miras_dsl.check.formula.intervals import intervals
from miras_dsl.diagnostics import Diagnostic, Label, warning
from miras_dsl.spec import Apply, Expr, Interval, MemorySpec, Number, iter_nodes

LARGEST = 88.0
"""The exponential of more overflows in single precision."""
CARRYING = frozenset(
    {"add", "sub", "mul", "div", "neg", "abs", "pow", "sqrt", "sum", "mean", "contract", "norm"}
)
"""Operations whose value is large where an operand is."""
BOUNDED = frozenset({"tanh", "sigmoid", "erf"})


def overflow_warnings(
    made: MemorySpec, formulas: Iterator[Expr], ranges: Mapping[str, Interval]
) -> Iterator[Diagnostic]:
    """A warning for each small function of something that overflows."""
    for formula in formulas:
        found = intervals(formula, ranges)
        for node in iter_nodes(formula):
            large = _large_operand(node, found)
            if large is not None:
                yield _warning(node, large, made)


def _large_operand(node: Expr, found: Mapping[int, Interval]) -> Expr | None:
    """The operand that may be infinite although the value of ``node`` need not be large."""
    match node:
        case Apply("log", (x,)) if not stable_logarithm(x) and _overflows(x, found):
            return x
        case Apply("div", (_, x)) if stable_sum(x) is None and _overflows(x, found):
            return x
        case Apply("pow", (x, Number(p))) if p < 0 and not stable_sum(x) and _overflows(x, found):
            return x
        case Apply(op, (x,)) if op in BOUNDED and _overflows(x, found):
            return x
        case _:
            return None


def _overflows(expr: Expr, found: Mapping[int, Interval]) -> bool:
    """Whether an exponential may make a formula's value infinite."""
    match expr:
        case Apply("exp", (x,)):
            return found[id(x)].high > LARGEST
        case Apply("pow", (Number(base), x)) if base > 0 and not isinstance(x, Number):
            rate = log(base)
            return max(rate * found[id(x)].low, rate * found[id(x)].high) > LARGEST
        case Apply("cosh" | "sinh", (x,)):
            return max(found[id(x)].high, -found[id(x)].low) > LARGEST
        case Apply("div", (a, b)) if stable_sum(b) is not None:
            return exponential_sum(a) is None and _overflows(a, found)
        case Apply(op, args) if op in CARRYING:
            return any(_overflows(arg, found) for arg in args)
        case _:
            return False


def _warning(node: Expr, large: Expr, made: MemorySpec) -> Diagnostic:
    here = node.span.source == made.span.source
    text = large.span.text
    label = f"`{text}` overflows" if here and len(text) <= 40 and "\n" not in text else "overflows"
    return warning(
        "M0805",
        "an exponential overflows here, and then this is not a number",
        node.span if here else made.span,
        label,
        because=() if here else (Label(node.span, "in this formula"),),
        help="logarithms and quotients of sums of exponentials and numbers alone are safe, such as "
        "`log(sum(exp(r)))`; so are `softplus`, `sigmoid`, `tanh`, `log(cosh(r))`",
    )
