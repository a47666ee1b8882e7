"""Where learned constants start, where the formula they stand in tells.

`exp(param) * softplus(… + param)` is the rate of a decay: the first constant starts at the
logarithm of a rate from 1 to 16, the second so that the softplus is log-uniform in [0.001, 0.1].
Then some heads forget soon and some hardly ever, whatever the features are.
"""

from __future__ import annotations

from typing import TypeGuard

from miras_dsl.spec import Apply, Expr, iter_nodes


def decay_init(expr: Expr) -> dict[int, str]:
    """id of a `param` -> the function that makes its first value."""
    starts: dict[int, str] = {}
    for node in iter_nodes(expr):
        if not (isinstance(node, Apply) and node.op == "mul"):
            continue
        factors = _gather(node, "mul")
        rates = [f.args[0] for f in factors if _is(f, "exp") and _is(f.args[0], "param")]
        steps = [p for f in factors if _is(f, "softplus") for p in _shifts(f.args[0])]
        if rates and steps:
            starts |= {id(p): "log_uniform_rate" for p in rates}
            starts |= {id(p): "inverse_softplus_step" for p in steps}
    return starts


def _shifts(expr: Expr) -> list[Expr]:
    """The constants of a sum, if something else is in it too."""
    terms = _gather(expr, "add")
    params = [t for t in terms if _is(t, "param")]
    return params if len(params) < len(terms) else []


def _gather(expr: Expr, op: str) -> list[Expr]:
    """The operands of nested sums or products; the sign of a factor is looked through."""
    if _is(expr, op) or (op == "mul" and _is(expr, "neg")):
        return [part for arg in expr.args for part in _gather(arg, op)]
    return [expr]


def _is(expr: Expr, op: str) -> TypeGuard[Apply]:
    return isinstance(expr, Apply) and expr.op == op
