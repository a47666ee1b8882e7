"""The functions that a formula can call: their arguments, and the shape of their result."""

from __future__ import annotations

from sympy import Integer

from miras_dsl.diagnostics import problem
from miras_dsl.spec import POINTWISE, Apply, Axes, Expr, Number, Ref, iter_nodes
from miras_dsl.suggestions import argument_help
from miras_dsl.syntax import tree as syntax

from .constant_folding import fold_operation
from .elaborate import Function, Scope, constant, elaborate, integer_literal, learned
from .shapes import contract, shown, to_axes

REQUIRED = object()
TWO, FLOOR = Integer(2), Integer(1) / Integer(10**6)
STATE_KINDS = frozenset({"state", "input", "dual", "weight", "newest", "keep", "grad", "carry"})
"""Kinds of names whose value depends on the state of the memory."""


def arguments(node: syntax.Call, signature: dict[str, object]) -> dict[str, syntax.Formula]:
    """Name -> written argument.  Raises Problem for one that is missing, unknown or given twice.

    signature  all names in order, with REQUIRED for those that must be given
    """
    names = list(signature)
    found: dict[str, syntax.Formula] = {}
    for place, argument in enumerate(node.arguments):
        if argument.name is None and place >= len(names):
            raise problem(
                "M0205",
                f"`{node.name}` takes {_counted(len(names), 'argument')}",
                argument.span,
                f"here are {len(node.arguments)}",
                help=f"`{node.name}({', '.join(names)})`",
            )
        name = argument.name or names[place]
        if name not in signature:
            raise problem(
                "M0206",
                f"`{node.name}` has no argument `{name}`",
                argument.span,
                "unknown argument",
                help=argument_help(node.name, name, names),
            )
        if name in found:
            raise problem("M0207", f"`{name}` is given twice", argument.span, "again")
        found[name] = argument.value
    missing = [n for n, kind in signature.items() if kind is REQUIRED and n not in found]
    if missing:
        raise problem(
            "M0205",
            f"`{node.name}` needs `{missing[0]}`",
            node.span,
            f"{_counted(len(found), 'argument')} here",
            help=f"`{node.name}({', '.join(names)})`",
        )
    return found


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
        return Apply(op, (x,), _left(x, over), (("over", over),), node.span) if over else x

    return function


def _norm(node: syntax.Call, scope: Scope) -> Expr:
    given = arguments(node, {"x": REQUIRED, "p": None})
    x = elaborate(given["x"], scope)
    p = constant(given["p"], scope, "the order of a norm") if "p" in given else None
    _vector(x, node)
    if p is not None and not (1 <= p.value <= 16):
        raise problem("M0213", "the order of a norm lies between 1 and 16", p.span, "out of range")
    over = _summed(x)
    options = (("over", over), ("p", p.value if p is not None else TWO))
    return Apply("norm", (x,), _left(x, over), options, node.span)


def _dot(node: syntax.Call, scope: Scope) -> Expr:
    given = arguments(node, {"a": REQUIRED, "b": REQUIRED})
    a, b = elaborate(given["a"], scope), elaborate(given["b"], scope)
    for side in (a, b):
        _vector(side, node)
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
    _vector(x, node)
    return Apply("softmax", (x,), x.axes, (("over", x.axes[-1:]),), node.span)


def _layernorm(node: syntax.Call, scope: Scope) -> Expr:
    given = arguments(node, {"x": REQUIRED, "weight": None, "shift": None})
    x = elaborate(given["x"], scope)
    _vector(x, node)
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
    _vector(x, node)
    over = x.axes[-1:]
    if scope.features and not any(
        isinstance(n, Ref) and n.kind in STATE_KINDS for n in iter_nodes(x)
    ):
        return Apply("normalize", (x,), x.axes, (("over", over),), node.span)
    norm = Apply("norm", (x,), _left(x, over), (("over", over), ("p", TWO)), node.span)
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
    _vector(x, node)
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


def _vector(x: Expr, node: syntax.Call) -> None:
    if not x.axes:
        raise problem(
            "M0212",
            f"`{node.name}` takes a vector",
            x.span,
            "one number",
            help="a vector has an axis, such as [key]; a number has none",
        )


def _summed(x: Expr) -> Axes:
    return tuple(a for a in x.axes if a != "pair")


def _left(x: Expr, over: Axes) -> Axes:
    return tuple(a for a in x.axes if a not in over)


def _counted(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"


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
    "linear": _linear, "shift": _shift, "conv": _conv, "param": _param, "normalize": _normalize,
    "topk": _topk,
}  # fmt: skip
