"""The functions of complex numbers, and the table of all functions of formulas."""

from __future__ import annotations

from collections.abc import Mapping

from miras_dsl.check.formula.complex_parts import complex_of
from miras_dsl.check.formula.constant_folding import fold_operation
from miras_dsl.check.formula.elaborate import Function, Scope, elaborate
from miras_dsl.spec import Apply, Expr
from miras_dsl.syntax import tree as syntax

from .builtins import FUNCTIONS
from .call_arguments import REQUIRED, arguments


def _complex(node: syntax.Call, scope: Scope) -> Expr:
    given = arguments(node, {"real": REQUIRED, "imaginary": REQUIRED})
    a, b = (elaborate(given[name], scope) for name in ("real", "imaginary"))
    return complex_of(a, b, scope.sizes, node.span)


def _polar(node: syntax.Call, scope: Scope) -> Expr:
    given = arguments(node, {"length": REQUIRED, "angle": REQUIRED})
    length, angle = (elaborate(given[name], scope) for name in ("length", "angle"))
    a, b = (
        fold_operation(
            "mul",
            (length, fold_operation(wave, (angle,), scope.sizes, node.span)),
            scope.sizes,
            node.span,
        )
        for wave in ("cos", "sin")
    )
    return complex_of(a, b, scope.sizes, node.span)


def _part(op: str) -> Function:
    def function(node: syntax.Call, scope: Scope) -> Expr:
        z = elaborate(arguments(node, {"z": REQUIRED})["z"], scope)
        return Apply(op, (z,), z.axes, (), node.span)

    return function


ALL_FUNCTIONS: Mapping[str, Function] = {
    **FUNCTIONS,
    "complex": _complex,
    "polar": _polar,
    **{op: _part(op) for op in ("real", "imag", "conj")},
}
"""Every function of formulas by name."""
