"""The operations of a layer as torch calls, and the parts of the layer that they use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol, assert_never

import sympy as sp

from miras_dsl.codegen.emit.line_wrap import assignment
from miras_dsl.codegen.emit.scalar_printer import ATOM, print_number
from miras_dsl.codegen.model.module_types import HEAD, HEAD_COUNT, LayerOp, LayerOperation, X
from miras_dsl.ir import HEADS, Axes, Axis, Broadcast, Input, Map, Node, Number, Rename, Role
from miras_dsl.scalar.functions import OPERANDS

from .elementwise import elementwise_text, recognised
from .expressions import Expression, Layout, broadcast_to, feature_axes

LONG = 40
"""An operand longer than this gets a line of its own where an operation would become too long."""
WIDE = 74


class Sizes(Protocol):
    """Sizes as text and names that are still free, for one class of the file."""

    def size_text(self, axis: Axis, in_method: bool) -> str: ...

    def size_name(self, name: str) -> str: ...

    def fresh(self, name: str) -> str: ...


@dataclass
class Parts:
    """Parts of a layer: (owner, name, constructor) in the order in which formulas meet them."""

    declared: list[tuple[str, str, str]] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Formula:
    """An elementwise formula that has not been written yet, and what its symbols stand for."""

    formula: sp.Expr
    operands: dict[sp.Symbol, Expression]

    @property
    def text(self) -> Expression:
        return elementwise_text(self.formula, self.operands)


@dataclass
class FormulaWriter:
    """Writes formulas in one method; collects the lines that come first.

    operations  the operation that makes each result
    named       a token, gate or constant -> what it is called here
    lines       statements so far
    """

    operations: dict[Input, LayerOperation]
    sizes: Sizes
    parts: Parts
    named: Callable[[Input], Expression]
    lines: list[str]
    owner: str = ""
    computed: dict[str, str] = field(default_factory=dict)
    symbols: dict[Expression, sp.Symbol] = field(default_factory=dict)
    done: dict[Node, Formula] = field(default_factory=dict)

    def write(self, node: Node, owner: str) -> Expression:
        """A formula as text; parts that it declares are named after ``owner``."""
        before, self.owner = self.owner, owner
        made = self.formula(node).text
        self.owner = before
        return made

    # -------------------------------------------------------- elementwise

    def formula(self, node: Node) -> Formula:
        if node not in self.done:
            self.done[node] = self.make(node)
        return self.done[node]

    def make(self, node: Node) -> Formula:
        match node:
            case Number(value):
                return Formula(value, {})
            case Map(formula, args):
                return self.map(recognised(formula), [self.formula(arg) for arg in args])
            case Broadcast(x):  # entries that are equal are written once
                return self.formula(x)
            case Rename(x, names):
                inner = self.formula(x).text
                axes = tuple(dict(names).get(axis, axis) for axis in inner.axes)
                return self.leaf(replace(inner, text=inner.operand, axes=axes, binds=ATOM))
            case Input():
                return self.leaf(self.input(node))
            case _:
                raise AssertionError(f"{type(node).__name__} is no formula of a layer")

    def map(self, outer: sp.Expr, args: list[Formula]) -> Formula:
        """A formula of formulas; where the text becomes too long, operands get lines of their own."""
        while True:
            operands = {symbol: x for arg in args for symbol, x in arg.operands.items()}
            slots = dict(zip(OPERANDS, (arg.formula for arg in args), strict=False))
            made = Formula(outer.xreplace(slots), operands)
            texts = [arg.text for arg in args]
            longest = max(range(len(args)), key=lambda n: len(texts[n].text))
            if len(made.text.text) <= WIDE or len(texts[longest].text) <= LONG:
                return made
            args[longest] = self.leaf(self.name(texts[longest]))

    def leaf(self, x: Expression) -> Formula:
        """A value that formulas take as it is."""
        if x not in self.symbols:
            # numbered with leading zeros: sums are printed in the order of their symbols
            self.symbols[x] = sp.Symbol(f"v{len(self.symbols):04}", real=True)
        return Formula(self.symbols[x], {self.symbols[x]: x})

    def name(self, value: Expression, name: str = "") -> Expression:
        """The value under a name of its own, the same for the same expression."""
        if value.text not in self.computed:
            name = self.computed[value.text] = self.sizes.fresh(name or f"{self.owner}_part")
            self.lines += assignment(name, value.text)
        return replace(value, text=self.computed[value.text], binds=ATOM)

    def input(self, node: Input) -> Expression:
        if node is X:
            return Expression("x", Layout.FEATURES, X.shape, timed=True)
        if node is HEAD:
            return Expression("head_numbers(self)", Layout.HEADS, headed=True)
        if node is HEAD_COUNT:
            return Expression("self.heads", Layout.NUMBER)
        if node.role is Role.SIZE:
            return Expression(self.sizes.size_name(node.name), Layout.NUMBER)
        operation = self.operations.get(node)
        return self.named(node) if operation is None else self.operation(operation)

    # -------------------------------------------------------- operations

    def operation(self, operation: LayerOperation) -> Expression:
        op, result = operation.op, operation.result
        if operation.x is None:
            return self.constant(operation)
        x = self.formula(operation.x).text
        if len(x.text) > LONG:
            x = self.name(x)
        match op:
            case LayerOp.LINEAR:
                return self.linear(operation, self.complete(x, operation.x))
            case LayerOp.SHIFT:
                x = self.every_token(self.complete(x, operation.x), result)
                shape = self.shape(x)
                base = "x" if x.text == "x" else self.owner
                part = self.declare(operation, base, lambda n: f'Shift("{n}", {shape})')
                before = f"{x.text}_before" if x.text.isidentifier() else ""
                return self.name(_call(x, f"{part}({x.text}, past)"), before)
            case LayerOp.CONV:
                x = self.every_token(self.complete(x, operation.x), result)
                made = f"{operation.width}, {self.shape(x)}"
                part = self.declare(operation, self.owner, lambda n: f'CausalConv("{n}", {made})')
                return _call(x, f"{part}({x.text}, past)")
            case LayerOp.SUM | LayerOp.MEAN:
                x = self.complete(x, operation.x)
                return self.reduced(
                    x, operation, f"{x.operand}.{op.value}({self.dims(x, operation)})"
                )
            case LayerOp.NORM:
                x = self.complete(x, operation.x)
                assert operation.power is not None, "a norm has a power"
                order, dims = print_number(operation.power), self.dims(x, operation)
                return self.reduced(
                    x, operation, f"torch.linalg.vector_norm({x.text}, {order}, {dims})"
                )
            case LayerOp.NORMALIZE:
                return _call(x, f"unit({x.text}, {self.dim(x, operation)})")
            case LayerOp.SOFTMAX:
                return _call(x, f"torch.softmax({x.text}, {self.dim(x, operation)})")
            case LayerOp.LARGEST:
                x = self.complete(x, operation.x)
                dim, count = self.dim(x, operation), operation.count
                return _call(x, f"largest_entries({x.text}, {dim}, {count})")
            case LayerOp.ORTHOGONAL:
                return _call(x, f"orthogonal({x.text}, {operation.steps})")
            case LayerOp.STANDARDIZE:
                return self.standardized(x, operation)
            case LayerOp.CONSTANT:
                raise AssertionError("a learned constant has no operand")
        assert_never(op)

    def constant(self, operation: LayerOperation) -> Expression:
        axes = operation.result.axes
        headed = HEADS in axes
        inner = tuple(axis for axis in axes if axis is not HEADS)
        sizes = [self.sizes.size_text(axis, False) for axis in inner]
        shape = ", ".join(["heads", *sizes] if headed else sizes or ["1"])
        start = f"{operation.start}({shape})"
        made = start if operation.start else f"learned_constant({operation.init!r}, {shape})"
        name = self.declare(operation, self.owner, lambda _: made)
        layout = Layout.FEATURES if feature_axes(axes) else Layout.HEADS
        return Expression(f"upcast({name})", layout, inner, False, headed)

    def linear(self, operation: LayerOperation, x: Expression) -> Expression:
        axes = operation.result.axes
        headed = HEADS in axes
        inner = tuple(axis for axis in axes if axis is not HEADS)
        sizes = [self.sizes.size_text(axis, False) for axis in inner]
        shape = ", ".join(["heads", *sizes] if headed else sizes)
        rank = f", rank={operation.rank}" if operation.rank else ""
        inputs = "1" if x.layout is Layout.NUMBER else " * ".join(self.factors(x))
        name = self.declare(operation, self.owner, lambda _: f"Linear({inputs}, {shape}{rank})")
        source = x.text
        if x.layout is Layout.NUMBER:
            source = f"like_parameters(self).new_tensor([{x.text}])"
        elif x.layout is Layout.HEADS and (x.axes or not x.timed):
            source = f"{x.operand}.flatten({2 if x.timed else 0})"
        layout = Layout.HEADS if headed else Layout.FEATURES
        return Expression(f"upcast({name}({source}))", layout, inner, x.timed, headed)

    def standardized(self, x: Expression, operation: LayerOperation) -> Expression:
        over = operation.over
        if x.layout is Layout.FEATURES:
            size = "x.shape[-1]" if x.axes == X.shape else self.sizes.size_text(x.axes[0], True)
        else:  # the axis of the mean goes last
            x = broadcast_to(x, (*(a for a in x.axes if a not in over), *over))
            size = self.sizes.size_text(x.axes[-1], True)
        return _call(x, f"F.layer_norm({x.text}, ({size},), eps=1e-6)")

    def complete(self, x: Expression, node: Node) -> Expression:
        """A value with all axes that its formula has, also those along which it is the same."""
        missing = set(node.axes) - {HEADS} - set(x.axes)
        if not missing and (x.headed or HEADS not in node.axes):
            return x
        axes = (*x.axes, *(axis for axis in node.axes if axis in missing))
        return self.expanded(x, axes, HEADS in node.axes, x.timed)

    def every_token(self, x: Expression, result: Input) -> Expression:
        """A value for every token, were it a constant."""
        return x if x.timed else self.expanded(x, x.axes, HEADS in result.axes, True)

    def expanded(self, x: Expression, axes: Axes, headed: bool, timed: bool) -> Expression:
        shaped = broadcast_to(x, axes)
        sizes = ["*x.shape[:2]"] if timed else []
        sizes += ["self.heads" if headed else "1"]
        sizes += [self.sizes.size_text(axis, True) for axis in axes]
        text = f"expand_to({shaped.text}, like_parameters(self), {', '.join(sizes)})"
        return Expression(text, Layout.HEADS, axes, timed, headed)

    def reduced(self, x: Expression, operation: LayerOperation, text: str) -> Expression:
        """A sum over features leaves one number for all heads, [B, T, 1]."""
        if x.layout is Layout.FEATURES:
            return Expression(text, Layout.HEADS, (), x.timed, False)
        rest = tuple(a for a in x.axes if a not in operation.over)
        return Expression(text, x.layout, rest, x.timed, x.headed)

    def dims(self, x: Expression, operation: LayerOperation) -> str:
        """The dimensions of axes, counted from the end; a summed axis of features stays as a 1."""
        if x.layout is Layout.FEATURES:
            return "-1, keepdim=True"
        places = [x.axes.index(a) - len(x.axes) for a in operation.over if a in x.axes]
        return str(places[0]) if len(places) == 1 else f"({', '.join(map(str, places))})"

    def dim(self, x: Expression, operation: LayerOperation) -> str:
        return "-1" if x.layout is Layout.FEATURES else self.dims(x, operation)

    def shape(self, x: Expression) -> str:
        return ", ".join(self.factors(x))

    def factors(self, x: Expression) -> list[str]:
        """The sizes of a value's axes, heads first, as factors of a product."""
        sizes = [_in_product(self.sizes.size_text(a, False)) for a in x.axes]
        if x.layout is Layout.FEATURES:
            return sizes
        return ["heads", *sizes] if x.headed else sizes or ["1"]

    def declare(self, operation: LayerOperation, owner: str, made: Callable[[str], str]) -> str:
        """The part of the layer for an operation, declared the first time it is met."""
        part = operation.part
        assert part is not None, f"{operation.op.value} has no part"
        if part not in self.parts.names:
            name = self.sizes.fresh(f"{owner}_{operation.op.value}")
            self.parts.declared.append((self.owner, name, made(name)))
            self.parts.names[part] = name
        return f"self.{self.parts.names[part]}"


def _call(x: Expression, text: str) -> Expression:
    return replace(x, text=text, binds=ATOM)


def _in_product(size: str) -> str:
    return size if size.isidentifier() or size.isdecimal() or "*" in size else f"({size})"
