"""Warns of logarithms, powers and quotients whose operand may lie outside their domain.

Operands have ranges by interval arithmetic.  If a range ends at 0, a formula of gates alone is taken
never to be 0, as a sigmoid never is; a formula with a token or an error may be 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import sympy as sp

from miras_dsl.check.formula.exponentials import stable_logarithm, stable_sum
from miras_dsl.check.formula.intervals import intervals
from miras_dsl.diagnostics import Diagnostic, Label, warning
from miras_dsl.spec import Apply, Expr, Interval, MemorySpec, Number, Ref, iter_nodes

OPEN = frozenset({"gate", "size", "position", "head"})
"""Kinds of names that are never 0 where their range ends at 0."""


def domain_warnings(
    made: MemorySpec, formulas: Iterator[Expr], ranges: Mapping[str, Interval]
) -> Iterator[Diagnostic]:
    """A warning for each operation whose operand may lie outside its domain."""
    for formula in formulas:
        found = intervals(formula, ranges)
        chosen = _chosen(formula)
        for node in iter_nodes(formula):
            if not isinstance(node, Apply) or id(node) in chosen:
                continue
            wrong = _wrong(node, found)
            if wrong is not None:
                yield _as_warning(node, *wrong, made)


def _wrong(node: Apply, found: Mapping[int, Interval]) -> tuple[Expr, str, str] | None:
    """(operand that may lie outside the domain, what is wrong, a way out); None if all is well."""
    match node:
        case Apply("log", (x,)) if stable_logarithm(x):
            return None
        case Apply("div", (_, x)) | Apply("pow", (x, Number())) if stable_sum(x) is not None:
            return None
        case Apply("log", (x,)) if found[id(x)].low < 0 or _reaches_zero(x, found):
            way = f"`log(1 + {_base(x)}^2)` and `log(max({_text(x)}, 0.001))` exist everywhere"
            return x, f"there is no logarithm of {_bad(x, found)}", way
        case Apply("div", (_, Number())):
            return None
        case Apply("div", (_, x)) if _is_positive(x):
            return None
        case Apply("div", (_, x)) if _holds_zero(x, found):
            way = _keep_from_zero(x, found)
            return x, "this may divide by zero", way
        case Apply("pow", (x, Number(value))) if not value.is_Integer and found[id(x)].low < 0:
            text = _number(value)
            return (
                x,
                f"there is no power {text} of a negative number",
                f"write `abs({_text(x)})^{text}`",
            )
        case Apply("pow", (x, Number(value))) if value < 0 and _holds_zero(x, found):
            way = _keep_from_zero(x, found)
            return x, "a negative power may divide by zero", way
        case Apply("pow", (x, p)) if not isinstance(p, Number) and found[id(x)].low < 0:
            return (
                x,
                "there is no such power of a negative number",
                f"write `abs({_text(x)})` under the power",
            )
        case _:
            return None


def _is_positive(x: Expr) -> bool:
    """Whether a formula is above 0 by its form: an exponential, or the larger of one and something."""
    match x:
        case Number(value):
            return bool(value > 0)
        case Apply("exp", _):
            return True
        case Apply("max", sides):
            return any(map(_is_positive, sides))
        case Apply("mul" | "min" | "retag", sides):
            return all(map(_is_positive, sides))
        case _:
            return False


def _as_warning(node: Apply, x: Expr, what: str, way: str, made: MemorySpec) -> Diagnostic:
    here = node.span.source == made.span.source
    because = () if here else (Label(node.span, "in this formula"),)
    low = "may be 0" if what.endswith((" 0", "zero")) else "may be 0 or less"
    label = f"`{x.span.text}` {low}" if here and len(x.span.text) <= 40 else low
    return warning(
        "M0803", what, node.span if here else made.span, label, because=because, help=way
    )


def _text(x: Expr) -> str:
    """How a way out names the operand."""
    text = x.span.text
    return text if len(text) <= 30 and "\n" not in text else "x"


def _keep_from_zero(x: Expr, found: Mapping[int, Interval]) -> str:
    size = _text(x) if found[id(x)].low >= 0 else f"abs({_text(x)})"
    return f"keep it away from zero, as in `max({size}, 0.001)`"


def _base(x: Expr) -> str:
    """How a way out writes the operand as the base of a power."""
    text = _text(x)
    return text if re.fullmatch(r"\w+(\([^()]*\))?", text) else f"({text})"


def _number(value: sp.Number) -> str:
    """A number as a user would write it: `1.5`, or `(1/3)` if few digits are not exact."""
    short = f"{float(value):g}"
    return short if abs(float(short) - float(value)) < 1e-12 else f"({value})"


def _bad(x: Expr, found: Mapping[int, Interval]) -> str:
    return "a number that is 0 or less" if found[id(x)].low < 0 else "0"


def _reaches_zero(x: Expr, found: Mapping[int, Interval]) -> bool:
    """Whether the range ends at 0 and the operand may be 0."""
    return 0 in (found[id(x)].low, found[id(x)].high) and any(
        isinstance(n, Ref) and n.kind not in OPEN for n in iter_nodes(x)
    )


def _holds_zero(x: Expr, found: Mapping[int, Interval]) -> bool:
    return found[id(x)].low < 0 < found[id(x)].high or _reaches_zero(x, found)


def _chosen(formula: Expr) -> set[int]:
    """The `id`s of all nodes in branches of a `where`, whose condition may guard them."""
    found: set[int] = set()
    for node in iter_nodes(formula):
        if isinstance(node, Apply) and node.op == "where":
            for branch in node.args[1:]:
                found.update(id(n) for n in iter_nodes(branch))
    return found
