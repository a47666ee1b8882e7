"""The functions that a formula can call: their arguments, and the shape of their result."""

from __future__ import annotations

from sympy import Integer

from miras_dsl.check.formula.constant_folding import fold_operation
from miras_dsl.check.formula.elaborate import Function, Scope, constant, elaborate, integer_literal
from miras_dsl.check.formula.shapes import contract, shown, to_axes
from miras_dsl.diagnostics import problem
from miras_dsl.spec import POINTWISE, Apply, Axes, Expr
from miras_dsl.syntax import tree as syntax

from .call_arguments import REQUIRED, arguments, left_of, vector
from .layer_functions import OF_THE_LAYER

TWO = Integer(2)


def _pointwise(op: str) -> Function:
    places = POINTWISE[op]

    def function(node: syntax.Call, scope: Scope) -> Expr:
        names = {1: ("x",), 2: ("a", "b"), 3: ("condition", "then", "otherwise")}[places]
        given = arguments(node, dict.fromkeys(names, REQUIRED))
        args = tuple(elaborate(given[n], scope) for n in names)
        return fold_operation(op, args, scope.sizes, node.span)

    return function


def _clip(node: syntax.Call, scope: Scope) -> Expr:
    given = arguments(node, dict.fromkeys(("x", "low", "high"), REQUIRED))
    x, low, high = (elaborate(given[n], scope) for n in ("x", "low", "high"))
    return fold_operation(
        "min",
        (fold_operation("max", (x, low), scope.sizes, node.span), high),
        scope.sizes,
        node.span,
    )


def _reduce(op: str) -> Function:
    def function(node: syntax.Call, scope: Scope) -> Expr:
        x = elaborate(arguments(node, {"x": REQUIRED})["x"], scope)
        over = _summed(x)
        return Apply(op, (x,), left_of(x, over), (("over", over),), node.span) if over else x

    return function


def _norm(node: syntax.Call, scope: Scope) -> Expr:
    given = arguments(node, {"x": REQUIRED, "p": None})
    x = elaborate(given["x"], scope)
    p = constant(given["p"], scope, "the order of a norm") if "p" in given else None
    vector(x, node)
    if p is not None and not (1 <= p.value <= 16):
        raise problem("M0213", "the order of a norm lies between 1 and 16", p.span, "out of range")
    over = _summed(x)
    options = (("over", over), ("p", p.value if p is not None else TWO))
    return Apply("norm", (x,), left_of(x, over), options, node.span)


def _dot(node: syntax.Call, scope: Scope) -> Expr:
    given = arguments(node, {"a": REQUIRED, "b": REQUIRED})
    a, b = elaborate(given["a"], scope), elaborate(given["b"], scope)
    for side in (a, b):
        vector(side, node)
    if "value" in b.axes and a.axes == ("key",):
        a, b = b, a
    if len(_summed(a)) != 1 or len(_summed(b)) != 1:
        raise problem(
            "M0204", "`dot` takes two vectors", node.span, f"{shown(a.axes)} and {shown(b.axes)}"
        )
    if "pair" in a.axes or "pair" in b.axes:
        # With pairs, the dot product is taken for each pair by itself.
        over = _summed(a)
        met = to_axes(b, tuple({*a.axes, *b.axes} - set(_summed(b)) | set(over)), scope.sizes)
        if met is None:
            raise problem("M0204", "`dot` takes two vectors of one size", node.span, "sizes differ")
        return Apply(
            "sum",
            (Apply("mul", (a, met), ("pair", *over)),),
            ("pair",),
            (("over", over),),
            node.span,
        )
    return contract(a, b, scope.sizes, node.span)


def _outer(node: syntax.Call, scope: Scope) -> Expr:
    given = arguments(node, {"a": REQUIRED, "b": REQUIRED})
    a, b = elaborate(given["a"], scope), elaborate(given["b"], scope)
    if len(a.axes) != 1 or len(b.axes) != 1 or a.axes == b.axes:
        raise problem(
            "M0204", "`outer` takes two vectors with different axes", node.span, "not so here"
        )
    return Apply("outer", (a, b), (*a.axes, *b.axes), (), node.span)


def _softmax(node: syntax.Call, scope: Scope) -> Expr:
    x = elaborate(arguments(node, {"x": REQUIRED})["x"], scope)
    vector(x, node)
    return Apply("softmax", (x,), x.axes, (("over", x.axes[-1:]),), node.span)


def _layernorm(node: syntax.Call, scope: Scope) -> Expr:
    given = arguments(node, {"x": REQUIRED, "weight": None, "shift": None})
    x = elaborate(given["x"], scope)
    vector(x, node)
    over = x.axes[-1:]
    if ("weight" in given) != ("shift" in given):
        raise problem(
            "M0205",
            "`layernorm` takes a weight and a shift, or neither",
            node.span,
            "one is missing",
        )
    args = [x]
    for name in ("weight", "shift"):
        if name in given:
            met = to_axes(elaborate(given[name], scope), over, scope.sizes)
            if met is None:
                raise problem(
                    "M0203",
                    f"the {name} of a layernorm has the axis {over[0]}",
                    given[name].span,
                    "not so",
                )
            args.append(met)
    return Apply("layernorm", tuple(args), x.axes, (("over", over),), node.span)


def _orthogonal(node: syntax.Call, scope: Scope) -> Expr:
    given = arguments(node, {"x": REQUIRED, "steps": None})
    x = elaborate(given["x"], scope)
    if len(x.axes) != 2:
        raise problem("M0212", "`orthogonal` takes a matrix", node.span, f"{shown(x.axes)} here")
    steps = (
        integer_literal(given["steps"], scope, "the number of steps", 1, 16)
        if "steps" in given
        else 5
    )
    return Apply("orthogonal", (x,), x.axes, (("steps", steps),), node.span)


def _summed(x: Expr) -> Axes:
    return tuple(a for a in x.axes if a != "pair")


_OWN_SIGNS = {
    "add",
    "sub",
    "mul",
    "div",
    "pow",
    "neg",
    "lt",
    "le",
    "gt",
    "ge",
    "eq",
    "and",
    "or",
    "not",
}
FUNCTIONS: dict[str, Function] = {
    **{op: _pointwise(op) for op in POINTWISE if op not in _OWN_SIGNS},
    "clip": _clip, "sum": _reduce("sum"), "mean": _reduce("mean"), "norm": _norm, "dot": _dot,
    "outer": _outer, "softmax": _softmax, "layernorm": _layernorm, "orthogonal": _orthogonal,
    **OF_THE_LAYER,
}  # fmt: skip
