"""Formulas of tokens and gates as nodes over the results of operations."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import sympy as sp

from miras_dsl.ir import (
    HEADS,
    Axes,
    Axis,
    Input,
    Node,
    Role,
    axis_of,
    elementwise,
    features,
    inputs_of,
    ordered,
    rename,
)
from miras_dsl.ir import Number as Constant
from miras_dsl.scalar.functions import OPERANDS
from miras_dsl.spec import Apply, Expr, Number, Ref, State

from .decay_init import decay_init
from .log_gates import floored_log
from .lower import is_elementwise, lower_elementwise, summed
from .module_types import HEAD, HEAD_COUNT, WIDTH, LayerOp, LayerOperation, X
from .stable import StableForms

ACROSS = {
    "sum": LayerOp.SUM, "mean": LayerOp.MEAN,
    "normalize": LayerOp.NORMALIZE, "softmax": LayerOp.SOFTMAX,
}  # fmt: skip
"""Operations of the language that run over axes and are one operation of a layer."""


class LayerFormulas:
    """The operations that formulas have needed so far.

    read   what a formula reads for the name of a token, gate or constant; of a gate per row, for a weight
    sizes  of axes; those of learned features are added
    """

    def __init__(
        self, read: Callable[[str, State | None], Node], sizes: dict[Axis, sp.Expr]
    ) -> None:
        self.read, self.sizes = read, sizes
        self.operations: list[LayerOperation] = []
        self.parts: dict[object, int] = {}
        self.starts: dict[int, str] = {}
        self.nodes: dict[object, Node] = {}
        self.held: list[Expr] = []

    def formula(self, expr: Expr, state: State | None) -> Node:
        """A formula as nodes; ``state`` is the weight that `row` speaks of."""
        self.held.append(expr)  # parts belong to nodes of the spec by identity: keep these alive
        self.starts |= decay_init(expr)
        return self.node(expr, state, False)

    def projection(self, name: str, axes: Axes) -> Node:
        """A token without a formula: a learned map of the layer's input."""
        part = self.parts.setdefault((name, "projection"), len(self.parts))
        return self.add(LayerOp.LINEAR, X, (HEADS, *axes), part=part)

    def network_constant(self, name: str, axes: Axes, init: float) -> Input:
        """A learned constant of the network inside the memory."""
        part = self.parts.setdefault((name, "constant"), len(self.parts))
        return self.add(LayerOp.CONSTANT, None, (HEADS, *axes), part=part, init=init)

    def node(self, expr: Expr, state: State | None, flat: bool) -> Node:
        """``flat``: the surroundings are features without heads."""
        numbered = isinstance(expr, Apply) and expr.option("index") is not None
        key = (expr if numbered else id(expr), state.name if state else None, flat)
        if key not in self.nodes:
            self.nodes[key] = self.one(expr, state, flat)
        return self.nodes[key]

    def one(self, expr: Expr, state: State | None, flat: bool) -> Node:
        match expr:
            case Number(value=value):
                return Constant(value)
            case Ref(kind="x"):
                return X
            case Ref(kind="head", name=name):
                return HEAD if name == "head" else HEAD_COUNT
            case Ref(kind="size", name=name):
                return Input(name, (), Role.SIZE)
            case Ref(name=name):
                return self.read(name, state)
            case Apply(op="param"):
                return self.constant(expr, state, flat)
            case Apply(op="linear" | "conv" | "shift"):
                return self.learned(expr, self.node(expr.args[0], state, flat), state)
        flat = flat or any(map(_has_features, expr.args))
        args = [self.node(arg, state, flat) for arg in expr.args]
        stable = StableForms(lambda e: self.node(e, state, flat))
        if (found := stable.form(expr)) is not None:
            return found
        if expr.op == "log" and expr.option("floor"):
            return elementwise(floored_log(OPERANDS[0]), *args)
        if is_elementwise(expr.op):
            return lower_elementwise(expr.op, args)
        return self.across(expr, args, state)

    def across(self, expr: Apply, args: list[Node], state: State | None) -> Node:
        """An operation that runs over axes, or renames them."""
        over = self.axes(summed(expr), args, state)
        match expr.op:
            case "outer":
                return args[0] * args[1]
            case "contract":
                return self.reduce(LayerOp.SUM, args[0] * args[1], over)
            case "sum" | "mean":
                return self.reduce(ACROSS[expr.op], args[0], over)
            case "norm":
                return self.reduce(LayerOp.NORM, args[0], over, power=_number(expr, "p", 2))
            case "normalize" | "softmax":
                return self.add(ACROSS[expr.op], args[0], args[0].axes, over=over)
            case "topk":
                count = int(_number(expr, "count", 1))
                return self.add(LayerOp.LARGEST, args[0], args[0].axes, over=over, count=count)
            case "layernorm":
                x, *affine = args
                made: Node = self.add(LayerOp.STANDARDIZE, x, x.axes, over=over)
                for op, other in zip(("mul", "add"), affine, strict=False):
                    made = lower_elementwise(op, [made, other])
                return made
            case "orthogonal":
                steps = int(_number(expr, "steps", 5))
                return self.add(LayerOp.ORTHOGONAL, args[0], args[0].axes, steps=steps)
            case "retag":
                pairs = expr.option("axes", ())
                names = {
                    old: new
                    for pair in pairs  # type: ignore[attr-defined]
                    for old, new in [self.axes(pair, args, state)]
                }
                return rename(args[0], names)
        raise AssertionError(f"unknown operation {expr.op} at {expr.span.place}")

    def axes(self, words: Iterable[str], args: Iterable[Node], state: State | None) -> Axes:
        """The axes that words name: those of operands first, `row` that of the weight."""
        known = {axis.name: axis for arg in args for axis in arg.axes}
        own = tuple(words) if state is None else state.with_rows(tuple(words))
        return tuple(known.get(word) or axis_of(word) for word in own)

    def constant(self, expr: Apply, state: State | None, flat: bool) -> Node:
        """A learned constant: per head, or among features one for all heads."""
        words = expr.axes
        axes: Axes
        if flat:
            axes = (WIDTH,) if "width" in words else tuple(features(w) for w in words)
        else:
            axes = (HEADS, *self.axes(words, (), state))
        init = float(_number(expr, "init", 0))
        start = "" if init or flat else self.starts.get(id(expr), "")
        part = self.part(expr, state)
        return self.add(LayerOp.CONSTANT, None, axes, part=part, init=init, start=start)

    def learned(self, expr: Apply, x: Node, state: State | None) -> Node:
        """A learned map, or the token before."""
        match expr.op:
            case "linear":
                rank, size = (int(_number(expr, word, 0)) for word in ("rank", "size"))
                axes = (HEADS, *self.axes(expr.axes, (), state))
                if size:
                    axes = (features(f"f{size}"),)
                    self.sizes[axes[0]] = sp.Integer(size)
                return self.add(LayerOp.LINEAR, x, axes, part=self.part(expr, state), rank=rank)
            case "conv":
                width = int(_number(expr, "width", 4))
                return self.add(LayerOp.CONV, x, x.axes, part=self.part(expr, state), width=width)
            case _:
                # every shift of the layer's input is the same one
                part = self.parts.setdefault("x", len(self.parts)) if x is X else None
                part = self.part(expr, state) if part is None else part
                return self.add(LayerOp.SHIFT, x, x.axes, part=part)

    def part(self, expr: Apply, state: State | None) -> int:
        """The part of the layer that an operation belongs to: the checker numbers learned maps, and
        equal ones are one part wherever they stand."""
        numbered = expr.option("index") is not None
        key = (expr if numbered else id(expr), state.name if state else None)
        return self.parts.setdefault(key, len(self.parts))

    def reduce(self, op: LayerOp, x: Node, over: Axes, **options: sp.Expr) -> Node:
        return self.add(op, x, tuple(a for a in x.axes if a not in over), over=over, **options)

    def add(self, op: LayerOp, x: Node | None, axes: Axes, **options: object) -> Input:
        """The result of a new operation, or of the same one where it is there already."""
        every_token = op in (LayerOp.CONV, LayerOp.SHIFT) or (x is not None and timed(x))
        role = Role.TOKEN if every_token else Role.CONSTANT
        key = ("operation", op, x, axes, *sorted(options.items()))
        if key not in self.nodes:
            number = len(self.operations) + 1
            result = Input(f"{op.value} {number}", ordered(axes), role)
            self.nodes[key] = result
            self.operations.append(LayerOperation(op, x, result, **options))  # type: ignore[arg-type]
        made = self.nodes[key]
        assert isinstance(made, Input)
        return made


def _number(expr: Apply, word: str, default: int) -> sp.Expr:
    """An option that is a number."""
    value = expr.option(word, default)
    if isinstance(value, sp.Expr):
        return value
    assert isinstance(value, int | float), f"not a number: {value!r}"
    return sp.Integer(value) if isinstance(value, int) else sp.Float(value)


def timed(node: Node) -> bool:
    """Whether a value differs from token to token."""
    return any(leaf.role in (Role.TOKEN, Role.GATE) for leaf in inputs_of([node]))


def _has_features(expr: Expr) -> bool:
    """Whether a formula is over features without heads."""
    match expr:
        case Ref(kind="x"):
            return True
        case Apply(op="linear"):
            return bool(expr.option("size", 0))
        case Apply(op="param" | "contract" | "sum" | "mean" | "norm"):
            return False
        case Apply(args=args):
            return any(map(_has_features, args))
        case _:
            return False
