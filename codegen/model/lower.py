"""Stage 2 to nodes: formulas of a spec as tensors with named axes, sympy inside the maps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import sympy as sp

from miras_dsl.codegen.passes.inline_maps import inline
from miras_dsl.codegen.passes.size_limits import can_inline
from miras_dsl.ir import (
    Axes,
    Axis,
    AxisSize,
    Map,
    Node,
    Number,
    Reduce,
    axis_of,
    broadcast,
    contract,
    elementwise,
    hidden,
    reduce_mean,
    reduce_sum,
    rename,
)
from miras_dsl.scalar import functions as scalars
from miras_dsl.scalar.activations import gelu
from miras_dsl.scalar.functions import OPERANDS
from miras_dsl.spec import Apply, Expr, Ref
from miras_dsl.spec import Number as Numeral

from .norms import HALF, norm, root_of_sum, unscaled_norm
from .stable import StableForms

X, Y, Z = OPERANDS[:3]
EPSILON = sp.Float("1e-6")

POINTWISE: Mapping[str, sp.Expr] = {
    "add": X + Y,
    "sub": X - Y,
    "mul": X * Y,
    "div": X / Y,
    "neg": -X,
    "abs": scalars.absolute(X),
    "sign": sp.tanh(10 * X),
    "exact_sign": scalars.sign(X),
    "exp": sp.exp(X),
    "sin": sp.sin(X),
    "cos": sp.cos(X),
    "tanh": sp.tanh(X),
    "sinh": sp.sinh(X),
    "cosh": sp.cosh(X),
    "erf": scalars.erf(X),
    "sigmoid": scalars.sigmoid(X),
    "softplus": scalars.softplus(X),
    "relu": scalars.maximum(X, sp.Integer(0)),
    "silu": X * scalars.sigmoid(X),
    "gelu": gelu(X),
    "gelu_tanh": X
    * (1 + sp.tanh(sp.sqrt(2 / sp.pi) * (X + sp.Rational(44715, 1000000) * X**3)))
    / 2,
    "max": scalars.maximum(X, Y),
    "min": scalars.minimum(X, Y),
    "where": scalars.where(X, Y, Z),
    "lt": scalars.gt0(Y - X),
    "le": scalars.ge0(Y - X),
    "gt": scalars.gt0(X - Y),
    "ge": scalars.ge0(X - Y),
    "eq": 1 - scalars.absolute(scalars.sign(X - Y)),
    "and": X * Y,
    "or": X + Y - X * Y,
    "not": 1 - X,
}
"""Each elementwise operation of the language as a sympy formula over its operands."""

COMPARISONS = frozenset({"lt", "le", "gt", "ge"})


def lower(expr: Expr, name: Callable[[Ref], Node], generic: Axes | None = None) -> Node:
    """A formula as a node; ``name`` says what each reference stands for.

    ``generic`` are the axes of the weight that a formula for every weight is about: what it calls
    `row` and `column`.
    """
    done: dict[int, Node] = {}
    own: dict[str, Axis | None] = {}
    if generic is not None:
        own = dict.fromkeys(("row", "column")) | dict(zip(("row", "column"), generic, strict=False))

    def axes(words: Iterable[str]) -> Axes:
        """The axes that words name; a vector has no column."""
        found = (own[word] if word in own else axis_of(word) for word in words)
        return tuple(axis for axis in found if axis is not None)

    def visit(node: Expr) -> Node:
        if id(node) not in done and (found := stable.form(node)) is not None:
            done[id(node)] = found
        if id(node) not in done:
            compared = isinstance(node, Apply) and node.op in COMPARISONS
            args = [length(arg) if compared else visit(arg) for arg in getattr(node, "args", ())]
            done[id(node)] = _one(node, args, name, axes)
        return done[id(node)]

    def length(node: Expr) -> Node:
        """A side of a comparison: nothing is differentiated there, so a norm needs no scale."""
        if not isinstance(node, Apply) or node.op != "norm":
            return visit(node)
        return unscaled_norm(visit(node.args[0]), axes(summed(node)), node.option("p", 2))

    stable = StableForms(visit, axes)
    return visit(expr)


def _one(
    expr: Expr,
    args: list[Node],
    name: Callable[[Ref], Node],
    axes: Callable[[Iterable[str]], Axes],
) -> Node:
    over = axes(summed(expr))
    match expr:
        case Numeral(value):
            return Number(value)
        case Ref():
            return name(expr)
        case Apply(op, _) if is_elementwise(op):
            return lower_elementwise(op, args)
        case Apply("outer", _):
            return args[0] * args[1]
        case Apply("contract", _):
            return contract(args[0], args[1], over)
        case Apply("sum", _):
            return reduce_sum(args[0], over)
        case Apply("mean", _):
            return reduce_mean(args[0], over)
        case Apply("norm", _):
            return norm(args[0], over, expr.option("p", sp.Integer(2)))
        case Apply("normalize", _):
            return args[0] * elementwise(
                1 / scalars.maximum(X, EPSILON), norm(args[0], over, sp.Integer(2))
            )
        case Apply("retag", _):
            pairs = expr.option("axes", ())
            return rename(args[0], {axis_of(a): axis_of(b) for a, b in pairs})  # type: ignore
        case Apply("layernorm", _):
            return layer_norm(args, over)
        case Apply("softmax", _):
            return softmax(args[0], over)
        case Apply("orthogonal", _):
            return orthogonal(args[0], expr.option("steps", 5))
        case Apply(op, _):
            raise AssertionError(f"`{op}` has no meaning inside a memory; the checker moves it out")


def is_elementwise(op: str) -> bool:
    """Whether an operation of the language works entry by entry."""
    return op in POINTWISE or op in ("log", "pow", "sqrt")


def lower_elementwise(op: str, args: list[Node]) -> Node:
    """An elementwise operation of the language on nodes."""
    match op:
        case "log":
            return _log(args[0])
        case "pow":
            return _power(args[0], args[1])
        case "sqrt":
            return _power(args[0], Number(HALF))
        case _:
            return elementwise(POINTWISE[op], *args)


def summed(expr: Expr) -> tuple[str, ...]:
    """The words for the axes that an operation runs over."""
    words = expr.option("over", ()) if isinstance(expr, Apply) else ()
    return (words,) if isinstance(words, str) else tuple(words)  # type: ignore[arg-type]


def _inner(node: Node) -> tuple[sp.Expr, tuple[Node, ...]]:
    return (node.formula, node.args) if isinstance(node, Map) else (OPERANDS[0], (node,))


def _log(x: Node) -> Node:
    if isinstance(x, Number):
        return Number(sp.log(x.value))
    formula, args = _inner(x)
    if isinstance(x, Map) and can_inline(x):
        whole, leaves = inline(x)
        if isinstance(found := scalars.log(whole), scalars.asinh):
            return elementwise(found, *leaves)
    return elementwise(scalars.log(formula), *args)


def _power(x: Node, p: Node) -> Node:
    if isinstance(p, Number):
        formula, args = _inner(x)
        if isinstance(x, Number):
            return Number(x.value**p.value)
        if p.value.is_positive and (found := root_of_sum(x, p.value)) is not None:
            return found
        return elementwise(scalars.power(formula, p.value), *args)
    formula, args = _inner(x)
    if isinstance(formula, scalars.absolute):
        base = formula.args[0]
        moved = base.xreplace(
            {slot: OPERANDS[n + 1] for n, slot in enumerate(OPERANDS[: len(args)])}
        )
        return elementwise(scalars.abs_pow(moved, OPERANDS[0]), p, *args)
    return elementwise(sp.exp(Y * sp.log(X)), x, p)


def layer_norm(args: list[Node], axes: Axes) -> Node:
    """(x - mean) / sqrt(variance + 1e-6), times a weight plus a shift when given."""
    x = args[0]
    centred = x - broadcast(reduce_mean(x, axes), axes)
    variance = reduce_mean(centred * centred, axes)
    result = centred * elementwise(scalars.rsqrt(X + EPSILON), variance)
    if len(args) > 1:
        result = result * args[1]
    return result + args[2] if len(args) > 2 else result


def softmax(x: Node, axes: Axes) -> Node:
    """Softmax over axes."""
    shifted = elementwise(sp.exp(X - Y), x, Reduce("max", x, axes))
    return elementwise(X / Y, shifted, reduce_sum(shifted, axes))


QUINTIC = tuple(sp.Float(x) for x in ("3.4445", "-4.7750", "2.0315"))


def orthogonal(x: Node, steps: object) -> Node:
    """Newton-Schulz steps towards the nearest orthogonal matrix (Muon): singular values near 1.

    ``X = G / |G|``, then ``X = a X + (b A + c A²) X`` with ``A = X Xᵀ`` and the quintic's coefficients.
    """
    row, column = x.axes
    twin, third_row = hidden(f"{row}~"), hidden(f"{row}~~")
    length = unscaled_norm(x, x.axes, 2)
    x = x * elementwise(1 / scalars.maximum(X, EPSILON), length)
    first, second, third = QUINTIC
    for _ in range(int(str(steps))):
        gram = contract(x, rename(x, {row: twin}), (column,))
        square = contract(gram, rename(gram, {row: twin, twin: third_row}), (twin,))
        square = rename(square, {third_row: twin})
        mixed = elementwise(second * X + third * Y, gram, square)
        x = elementwise(first * X, x) + contract(mixed, rename(x, {row: twin}), (twin,))
    return x


def size_of(parameter: str, sizes: Mapping[Axis, sp.Expr]) -> Node:
    """A size parameter as a number: the extent of the axis that it sizes."""
    for axis, size in sizes.items():
        if size == sp.Symbol(parameter, positive=True, integer=True) or str(size) == parameter:
            return AxisSize(axis)
    raise AssertionError(f"no axis has size {parameter}")
