"""Functions that the layer computes: learned maps, other tokens, and what has no place in a memory."""

from __future__ import annotations

from sympy import Integer

from miras_dsl.check.formula.constant_folding import fold_operation
from miras_dsl.check.formula.elaborate import (
    Function,
    Scope,
    constant,
    elaborate,
    integer_literal,
    learned,
)
from miras_dsl.diagnostics import problem
from miras_dsl.spec import Apply, Expr, Number, Ref, iter_nodes
from miras_dsl.syntax import tree as syntax

from .call_arguments import REQUIRED, arguments, left_of, vector

TWO, FLOOR = Integer(2), Integer(1) / Integer(10**6)
STATE_KINDS = frozenset({"state", "input", "dual", "weight", "newest", "keep", "grad", "carry"})
"""Kinds of names whose value depends on the state of the memory."""


def _linear(node: syntax.Call, scope: Scope) -> Expr:
    given = arguments(node, {"x": REQUIRED, "rank": None, "size": None})
    x = elaborate(given["x"], scope)
    rank = integer_literal(given["rank"], scope, "the rank", 1, 65536) if "rank" in given else 0
    size = integer_literal(given["size"], scope, "the size", 1, 65536) if "size" in given else 0
    axes = (f"f{size}",) if size else scope.own
    return learned("linear", (x,), axes, (("rank", rank), ("size", size)), scope, node.span)


def _shift(node: syntax.Call, scope: Scope) -> Expr:
    x = elaborate(arguments(node, {"x": REQUIRED})["x"], scope)
    _feature_place(node, scope)
    return Apply("shift", (x,), x.axes, (), node.span)


def _conv(node: syntax.Call, scope: Scope) -> Expr:
    given = arguments(node, {"x": REQUIRED, "width": None})
    x = elaborate(given["x"], scope)
    width = (
        integer_literal(given["width"], scope, "the width of a convolution", 1, 64)
        if "width" in given
        else 4
    )
    return learned("conv", (x,), x.axes, (("width", width),), scope, node.span)


def _param(node: syntax.Call, scope: Scope) -> Expr:
    given = arguments(node, {"init": REQUIRED})
    init = constant(given["init"], scope, "the first value of a learned constant")
    return learned("param", (), (), (("init", float(init.value)),), scope, node.span)


def _normalize(node: syntax.Call, scope: Scope) -> Expr:
    x = elaborate(arguments(node, {"x": REQUIRED})["x"], scope)
    vector(x, node)
    over = x.axes[-1:]
    if scope.features and not any(
        isinstance(n, Ref) and n.kind in STATE_KINDS for n in iter_nodes(x)
    ):
        return Apply("normalize", (x,), x.axes, (("over", over),), node.span)
    norm = Apply("norm", (x,), left_of(x, over), (("over", over), ("p", TWO)), node.span)
    floor = Number(FLOOR, node.span)
    return fold_operation(
        "div",
        (x, fold_operation("max", (norm, floor), scope.sizes, node.span)),
        scope.sizes,
        node.span,
    )


def _topk(node: syntax.Call, scope: Scope) -> Expr:
    given = arguments(node, {"x": REQUIRED, "n": REQUIRED})
    x = elaborate(given["x"], scope)
    vector(x, node)
    count = integer_literal(given["n"], scope, "the number of entries that stay", 1, 65536)
    _feature_place(node, scope)
    return Apply("topk", (x,), x.axes, (("over", x.axes[-1:]), ("count", count)), node.span)


def _feature_place(node: syntax.Call, scope: Scope) -> None:
    if not scope.features:
        raise problem(
            "M0211",
            f"`{node.name}` is computed by the layer and cannot stand in {scope.place}",
            node.span,
            "belongs to the layer",
            help="define a token or a gate with it, and use that here",
        )


OF_THE_LAYER: dict[str, Function] = {
    "linear": _linear, "shift": _shift, "conv": _conv, "param": _param, "normalize": _normalize,
    "topk": _topk,
}  # fmt: skip
