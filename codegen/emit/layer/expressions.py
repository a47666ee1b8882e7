"""Expressions as text, with their axes; sizes, spelled in one way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum

import sympy as sp

from miras_dsl.codegen.emit.scalar_printer import ATOM
from miras_dsl.ir import Axes, AxisRole


class Layout(Enum):
    """Where the dimensions of a value are."""

    NUMBER = "a number of Python"
    FEATURES = "[B, T, features], or [features]"
    HEADS = "[B, T, H, *axes], or [H, *axes]; H is 1 for what is the same for all heads"


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression and what it is.

    axes    the axes behind that of heads which the tensor really has, in order
    timed   it has batch and time; a learned constant has neither
    headed  it has the axis of heads, not 1
    binds   how tight its outermost operation is, `scalar_printer.SUM` to `ATOM`
    """

    text: str
    layout: Layout
    axes: Axes = ()
    timed: bool = False
    headed: bool = False
    binds: int = ATOM

    @property
    def operand(self) -> str:
        """The text as an operand of any operation."""
        return self.text if self.binds == ATOM else f"({self.text})"


def united(expressions: Iterable[Expression]) -> Layout:
    """The layout in which values meet: features only where nothing has heads or axes of its own."""
    given = list(expressions)
    if all(x.layout is Layout.NUMBER for x in given):
        return Layout.NUMBER
    flat = any(x.layout is Layout.FEATURES for x in given)
    split = any(x.layout is Layout.HEADS and (x.headed or x.axes) for x in given)
    return Layout.FEATURES if flat and not split else Layout.HEADS


def feature_axes(axes: Axes) -> Axes:
    """The axes of features among some."""
    return tuple(axis for axis in axes if axis.role is AxisRole.FEATURE)


def size_text(size: sp.Expr, names: Mapping[str, str]) -> str:
    """A size over the memory's parameters as an integer expression, `4 * d`, `(d + 1) // 2`."""
    over, under = sp.fraction(sp.together(size))
    if under == 1:
        return _polynomial(sp.expand(over), names)
    above = _polynomial(sp.expand(over), names)
    above = f"({above})" if " + " in above else above
    below = _polynomial(sp.expand(under), names)
    return f"{above} // {below if below.isalnum() else f'({below})'}"


def _polynomial(size: sp.Expr, names: Mapping[str, str]) -> str:
    match size:
        case sp.Integer():
            return str(int(size))
        case sp.Symbol():
            return names[size.name]
        case sp.Add():
            terms = sorted(size.args, key=lambda t: (t.is_Number, str(t)))
            return " + ".join(_polynomial(t, names) for t in terms)
        case sp.Mul():
            return " * ".join(_polynomial(f, names) for f in size.args)
        case sp.Pow(args=(base, sp.Integer() as power)) if power > 0:
            return f"{_polynomial(base, names)} ** {int(power)}"
    raise AssertionError(f"a size is a quotient of polynomials, not {size}")


def broadcast_to(x: Expression, target: Axes, layout: Layout = Layout.HEADS) -> Expression:
    """A tensor with its axes in the order of ``target`` and a 1 for each that it lacks."""
    if x.layout is Layout.NUMBER or (x.axes == target and x.layout is layout):
        return x
    if x.layout is Layout.HEADS and layout is Layout.FEATURES:
        return x  # one number for all heads is one for all features
    if x.layout is Layout.FEATURES and layout is Layout.HEADS:
        # features of every head: a 1 for the heads comes before those of the axes
        x = replace(x, text=f"{x.operand}[..., None, :]", layout=Layout.HEADS, binds=ATOM)
        if x.axes == target:
            return x
    order = tuple(a for a in target if a in x.axes)
    text = x.operand
    if order != x.axes:
        moved = [x.axes.index(a) - len(x.axes) for a in order]
        for place, source in enumerate(_swaps(moved)):
            if source != place:
                first, second = place - len(order), source - len(order)
                text = f"{text}.transpose({first}, {second})"
    index = [":" if a in order else "None" for a in target]
    if "None" in index:  # what comes before the first 1 is part of the ellipsis
        text = f"{text}[..., {', '.join(index[index.index('None') :])}]"
    return Expression(text, x.layout, target, x.timed, x.headed)


def _swaps(moved: list[int]) -> list[int]:
    """Transpositions, place by place, that bring axes into the order ``moved`` (from the end)."""
    count = len(moved)
    now, swaps = list(range(count)), []
    for place, source in enumerate(moved):
        at = now.index(source + count)
        now[place], now[at] = now[at], now[place]
        swaps.append(at)
    return swaps
