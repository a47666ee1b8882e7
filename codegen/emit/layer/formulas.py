"""Formulas of tokens and gates as torch expressions over [B, T, H, *axes].

Operands meet by the names of their axes: one that lacks an axis gets a 1 there, so the generated
text is ordinary broadcasting.  Every learned operation of a formula becomes a declared part of the
layer, named after the token or gate it stands in.  A part that a gate and its logarithm share is
declared once: parts belong to nodes of the formula.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NoReturn

import sympy as sp

from miras_dsl.codegen.emit.line_wrap import assignment
from miras_dsl.spec import POINTWISE, Apply, Axes, Axis, Expr, Number, Ref

from .decay_init import decay_init
from .elementwise import pointwise
from .expressions import Expression, broadcast_to, number_text, size_text

LONG = 40
"""An operand longer than this gets a line of its own where an operation would become too long."""
WIDE = 74


def constant_of(option: object) -> sp.Expr:
    """An option of a formula as a sympy number or size; only numbers and sizes are options."""
    if isinstance(option, sp.Expr):
        return option
    assert isinstance(option, int | float), f"not a number: {option!r}"
    return sp.Integer(option) if isinstance(option, int) else sp.Float(option)


@dataclass
class FormulaWriter:
    """Writes formulas; collects the parts that they declare and the lines that come first.

    size_text  axis -> its size as text, in `__init__` (False) or in a method (True)
    names      a Ref of a token or gate -> what it is called here
    parameters size parameter -> its name in `__init__`
    parts      (owner, name, constructor) of what the formulas declare
    lines      statements that the formulas need first
    computed   expression -> the name that a statement gave it
    made       node -> the part that it declared
    starts     id of a learned constant -> what makes its first value
    """

    size_text: Callable[[Axis, bool], str]
    size_name: Callable[[str], str]
    names: Callable[[Ref, str | None], Expression]
    fresh: Callable[[str], str]
    parameters: dict[str, str]
    parts: list[tuple[str, str, str]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    computed: dict[str, str] = field(default_factory=dict)
    made: dict[tuple[object, ...], str] = field(default_factory=dict)
    starts: dict[int, str] = field(default_factory=dict)
    held: list[Expr] = field(default_factory=list)

    def write(self, expr: Expr, owner: str, weight: str | None, rows: Axes) -> Expression:
        """``expr`` as text; ``rows`` is what the axis `row` means for ``weight``."""
        self.held.append(expr)  # identities of nodes are names here: keep the nodes alive
        self.starts.update(decay_init(expr))
        return _Formula(self, owner, weight, rows).text(expr)


@dataclass
class _Formula:
    book: FormulaWriter
    owner: str
    weight: str | None
    rows: Axes

    def axes(self, axes: Axes) -> Axes:
        return tuple(a for axis in axes for a in (self.rows if axis == "row" else (axis,)))

    def text(self, expr: Expr, flat: str = "") -> Expression:
        """``flat`` is the number of features where the surroundings are flat, else empty."""
        match expr:
            case Number(value=value):
                return number_text(value)
            case Ref(kind="x"):
                return Expression("x", "flat", timed=True, size="width")
            case Ref(kind="size", name=name):
                return Expression(self.book.size_name(name), "number")
            case Ref():
                return self.book.names(expr, self.weight)
            case Apply(op="linear" | "shift" | "conv" | "normalize" | "param"):
                return self.feature(expr, flat)
        flat = flat or next((t for t in map(self.flat_size, expr.args) if t), "")
        args = [self.text(arg, flat) for arg in expr.args]
        return self.short(expr, args)

    def flat_size(self, expr: Expr) -> str:
        """The number of features of a formula over features; empty for one over heads."""
        match expr:
            case Ref(kind="x"):
                return "width"
            case Apply(op="linear"):
                return self.size_option(expr, "size")
            case Apply(op="param") | Number() | Ref():
                return ""
            case Apply(op="contract" | "sum" | "mean" | "norm"):
                return ""
            case Apply(args=args):
                return next((t for t in map(self.flat_size, args) if t), "")

    def short(self, expr: Apply, args: list[Expression]) -> Expression:
        """The operation on its operands, long operands on lines of their own first."""
        made = self.operation(expr, args)
        while len(made.text) > WIDE and any(len(arg.text) > LONG for arg in args):
            longest = max(range(len(args)), key=lambda n: len(args[n].text))
            args[longest] = self.named(args[longest])
            made = self.operation(expr, args)
        return made

    def named(self, value: Expression, name: str = "") -> Expression:
        """The value under a name of its own, the same for the same expression."""
        if value.text not in self.book.computed:
            name = self.book.computed[value.text] = self.book.fresh(name or f"{self.owner}_part")
            self.book.lines += assignment(name, value.text)
        return replace(value, text=self.book.computed[value.text], binds=5)

    def operation(self, expr: Apply, args: list[Expression]) -> Expression:
        op = expr.op
        if op in POINTWISE:
            return pointwise(op, args, self.axes(expr.axes), bool(expr.option("floor")))
        over = self.axes(_axes_option(expr))
        match op:
            case "contract":
                both = self.union(args, tuple(a for x in args for a in x.axes), over)
                product = pointwise("mul", args, both, False)
                return self.reduce(f"({product.text}).sum({self.dims(both, over)})", product, over)
            case "outer":
                return pointwise("mul", args, self.axes(expr.axes), False)
            case "sum" | "mean":
                [x] = args
                return self.reduce(f"{x.inside(5)}.{op}({self.dims(x.axes, over, x)})", x, over)
            case "norm":
                [x] = args
                order = number_text(constant_of(expr.option("p", 2))).text
                dims = self.dims(x.axes, over, x)
                return self.reduce(f"torch.linalg.vector_norm({x.text}, {order}, {dims})", x, over)
            case "softmax":
                [x] = args
                axis = "-1" if x.kind == "flat" else self.dims(x.axes, over)
                return _like(x, f"torch.softmax({x.text}, {axis})")
            case "orthogonal":
                [x] = args
                return _like(x, f"orthogonal({x.text}, {int(str(expr.option('steps', 5)))})")
            case "layernorm":
                x, *affine = args
                if x.kind == "heads":  # the axis of the mean goes last
                    x = broadcast_to(x, (*(a for a in x.axes if a not in over), *over))
                size = "x.shape[-1]" if x.kind == "flat" else self.book.size_text(x.axes[-1], True)
                made = _like(x, f"F.layer_norm({x.text}, ({size},), eps=1e-6)")
                for step, operand in zip(("mul", "add"), affine, strict=False):
                    made = pointwise(step, [made, operand], x.axes, False)
                return made
            case "retag":
                return self.retag(expr, args[0])
        return _refuse(expr)

    def union(self, args: list[Expression], axes: Axes, over: Axes) -> Axes:
        kept = dict.fromkeys(a for a in axes if a not in over)
        return (*kept, *(a for a in over if a in axes))

    def reduce(self, text: str, x: Expression, over: Axes) -> Expression:
        """A reduction of features leaves one number for all heads: [.., 1]."""
        if x.kind == "flat":
            return Expression(text, "heads", (), x.timed, False)
        return Expression(
            text, x.kind, tuple(a for a in x.axes if a not in over), x.timed, x.headed
        )

    def dims(self, axes: Axes, over: Axes, x: Expression | None = None) -> str:
        """The dimensions of axes, counted from the end; a reduced feature axis stays as a 1."""
        if x is not None and x.kind == "flat":
            return "-1, keepdim=True"
        places = [axes.index(a) - len(axes) for a in over if a in axes]
        return str(places[0]) if len(places) == 1 else f"({', '.join(map(str, places))})"

    def retag(self, expr: Apply, x: Expression) -> Expression:
        pairs = dict(expr.option("axes", ()))  # type: ignore[call-overload]
        renamed = tuple(pairs.get(a, a) for a in x.axes)
        same = replace(x, axes=renamed)
        return broadcast_to(same, self.axes(expr.axes)) if x.kind == "heads" else same

    def feature(self, expr: Apply, flat: str) -> Expression:
        if expr.op == "param":
            return self.param(expr, flat)
        x = self.text(expr.args[0], flat)
        if len(x.text) > LONG:
            x = self.named(x)
        match expr.op:
            case "linear":
                return self.linear(expr, x)
            case "shift":
                shape = self.part_shape(x)
                # every shift of the layer's input is the same one
                key = "x" if x.text == "x" else None
                name = self.declare(expr, "shift", lambda n: f'Shift("{n}", {shape})', key)
                before = f"{x.text}_before" if x.text.isidentifier() else ""
                return self.named(_like(x, f"{name}({x.text}, past)"), before)
            case "conv":
                width, shape = self.size_option(expr, "width"), self.part_shape(x)
                name = self.declare(expr, "conv", lambda n: f'CausalConv("{n}", {width}, {shape})')
                return _like(x, f"{name}({x.text}, past)")
            case "normalize":
                over = self.axes(_axes_option(expr)) or x.axes[-1:]
                dims = "-1" if x.kind == "flat" else self.dims(x.axes, over)
                return _like(x, f"unit({x.text}, {dims})")
        return _refuse(expr)

    def linear(self, expr: Apply, x: Expression) -> Expression:
        size, rank = self.size_option(expr, "size"), self.size_option(expr, "rank")
        axes = self.axes(expr.axes)
        shape = [size] if size else ["heads", *(self.book.size_text(a, False) for a in axes)]
        inputs = x.size if x.kind == "flat" else " * ".join(self.factors(x))
        options = f", rank={rank}" if rank else ""
        made = f"Linear({inputs}, {', '.join(shape)}{options})"
        name = self.declare(expr, "linear", lambda _: made)
        source = x.text if x.kind == "flat" else f"{x.inside(5)}.flatten(2)"
        text = f"upcast({name}({source}))"
        if size:
            return Expression(text, "flat", timed=True, size=size)
        return Expression(text, "heads", axes, timed=True, headed=True)

    def size_option(self, expr: Apply, name: str) -> str:
        """A size among the options, as text for `__init__`; empty for none."""
        value = constant_of(expr.option(name, 0) or 0)
        return size_text(value, self.book.parameters) if value != 0 else ""

    def param(self, expr: Apply, flat: str) -> Expression:
        axes = self.axes(expr.axes)
        shape = ["heads", *(self.book.size_text(a, False) for a in axes if not flat)]
        if flat:  # among features a constant is for all heads
            shape = [flat if axes else "1"]
        init, sizes = float(expr.option("init", 0) or 0), ", ".join(shape)  # type: ignore[arg-type]
        made = f"learned_constant({init!r}, {sizes})"
        if not init and not flat and id(expr) in self.book.starts:
            made = f"{self.book.starts[id(expr)]}({sizes})"
        name = self.declare(expr, "param", lambda _: made)
        kind, size = ("flat", flat) if flat else ("heads", "")
        return Expression(f"upcast({name})", kind, axes, False, True, 5, size)

    def part_shape(self, x: Expression) -> str:
        return x.size if x.kind == "flat" else ", ".join(self.factors(x))

    def factors(self, x: Expression) -> list[str]:
        return ["heads", *(_in_product(self.book.size_text(a, False)) for a in x.axes)]

    def declare(
        self, expr: Expr, what: str, made: Callable[[str], str], key: str | None = None
    ) -> str:
        """The part of the layer for this node, declared the first time it is met."""
        # the checker numbers learned parts: equal nodes are one part, wherever they stand
        numbered = isinstance(expr, Apply) and expr.option("index") is not None
        identity = (key or (expr if numbered else id(expr)), what, self.weight if not key else None)
        if identity not in self.book.made:
            base = f"{key}_{what}" if key else f"{self.owner}_{what}"
            name = self.book.fresh(base)
            self.book.parts.append((self.owner, name, made(name)))
            self.book.made[identity] = name
        return f"self.{self.book.made[identity]}"


def _like(x: Expression, text: str) -> Expression:
    return replace(x, text=text, binds=5)


def _axes_option(expr: Apply) -> Axes:
    over = expr.option("over", ())
    return (over,) if isinstance(over, str) else tuple(over)  # type: ignore[call-overload]


def _in_product(size: str) -> str:
    return size if size.isidentifier() or size.isdecimal() or "*" in size else f"({size})"


def _refuse(expr: Apply) -> NoReturn:
    raise AssertionError(f"unknown operation {expr.op} at {expr.span.place}")
