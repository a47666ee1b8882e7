"""Expressions as text, with their axes; numbers and sizes, spelled in one way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sympy as sp

from miras_dsl.spec import Axes


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression and what it is.

    kind   "number" (no tensor), "heads" ([.., H, *axes]) or "flat" (features [.., size])
    axes   the axes that the tensor really has, in order
    timed  it has batch and time; a learned constant [H, *axes] has neither
    headed it has the axis of heads (not 1)
    binds  how tight its outermost operation is: 1 sum, 2 product, 3 sign, 4 power, 5 call
    size   number of features, if flat
    """

    text: str
    kind: str
    axes: Axes = ()
    timed: bool = False
    headed: bool = False
    binds: int = 5
    size: str = ""

    def inside(self, strength: int) -> str:
        """The text as an operand of an operation of that strength."""
        return self.text if self.binds >= strength else f"({self.text})"


def number_text(value: sp.Expr) -> Expression:
    """A number, canonical: an integer, else the shortest decimal of its double."""
    text = str(int(value)) if value.is_Integer else repr(float(value))
    return Expression(text, "number", binds=3 if text.startswith("-") else 5)


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


def broadcast_to(x: Expression, target: Axes) -> Expression:
    """A tensor with its axes in the order of ``target`` and a 1 for each that it lacks."""
    if x.kind == "number" or x.axes == target:
        return x
    order = tuple(a for a in target if a in x.axes)
    text = x.inside(5)
    if order != x.axes:
        moved = [x.axes.index(a) - len(x.axes) for a in order]
        for place, source in enumerate(_swaps(moved)):
            if source != place:
                first, second = place - len(order), source - len(order)
                text = f"{text}.transpose({first}, {second})"
    index = [":" if a in order else "None" for a in target]
    if "None" in index:  # what comes before the first 1 is part of the ellipsis
        text = f"{text}[..., {', '.join(index[index.index('None') :])}]"
    return Expression(text, x.kind, target, x.timed, x.headed)


def _swaps(moved: list[int]) -> list[int]:
    """Transpositions, place by place, that bring axes into the order ``moved`` (from the end)."""
    count = len(moved)
    now, swaps = list(range(count)), []
    for place, source in enumerate(moved):
        at = now.index(source + count)
        now[place], now[at] = now[at], now[place]
        swaps.append(at)
    return swaps
