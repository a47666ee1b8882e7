"""Shapes: which axes the result of an operation has, and which operands fit together.

Axes are names.  Operands of an elementwise operation have equal axes, or some of them have fewer: a
number, a gate or a learned constant is broadcast.  If axes differ in name but not in size (key and value
in `memory X(d)`), one operand is renamed by a `retag`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sympy as sp

from miras_dsl.diagnostics import Label, Problem, problem
from miras_dsl.source import Span
from miras_dsl.spec import Apply, Axes, Axis, Expr, Ref, iter_nodes

Sizes = Mapping[Axis, sp.Expr]
WHOLE = frozenset({"token", "state", "input", "x"})
"""Kinds of names that are not broadcast: a vector of these kinds does not scale a matrix."""


def shown(axes: Axes) -> str:
    """Axes in words: `one number`, `[key]`."""
    return f"[{', '.join(axes)}]" if axes else "one number"


def retag(expr: Expr, old: Axis, new: Axis) -> Expr:
    """The same numbers with axis ``old`` called ``new``."""
    if old == new:
        return expr
    axes = tuple(new if a == old else a for a in expr.axes)
    return Apply("retag", (expr,), axes, (("axes", ((old, new),)),), expr.span)


def equal_size(a: Axis, b: Axis, sizes: Sizes) -> bool:
    """Whether two axes have the same size for every choice of parameters."""
    return a == b or (a in sizes and b in sizes and sizes[a] == sizes[b])


def to_axes(expr: Expr, axes: Axes, sizes: Sizes) -> Expr | None:
    """``expr`` with its axes renamed so that all are among ``axes``; None where sizes differ."""
    extra = [a for a in expr.axes if a not in axes]
    free = [a for a in axes if a not in expr.axes]
    for old in extra:
        new = next((a for a in free if equal_size(old, a, sizes)), None)
        if new is None:
            return None
        free.remove(new)
        expr = retag(expr, old, new)
    return expr


def broadcast_operands(
    what: str, args: Sequence[Expr], sizes: Sizes, span: Span, *, product: bool = False
) -> tuple[tuple[Expr, ...], Axes]:
    """The operands of an elementwise operation, with axes renamed to match, and the result's axes.

    product  the operation is `*`, for which a message suggests `@`

    Raises Problem if the shapes do not fit.
    """
    widest = max((a.axes for a in args), key=lambda axes: (len(axes), _rank(axes)))
    met = [to_axes(arg, widest, sizes) for arg in args]
    if all(m is not None for m in met):
        for arg in args:
            if _too_narrow(arg, widest):
                wide = next(a for a in args if a.axes == widest)
                raise _narrow(what, arg, wide, span, product)
        return tuple(m for m in met if m is not None), widest
    culprit = next(a for a, m in zip(args, met, strict=True) if m is None)
    other = next(a for a in args if a.axes == widest)
    raise problem(
        "M0203",
        f"shapes do not meet in `{what}`",
        culprit.span if culprit.span.source == span.source else span,
        f"{shown(culprit.axes)} here",
        because=(Label(other.span, f"{shown(other.axes)} here"),),
        help=_way_out(culprit.axes, widest),
    )


def _too_narrow(arg: Expr, widest: Axes) -> bool:
    """Whether an operand may not be broadcast to ``widest``: it is a vector that is no gate or constant.

    Only the axis `pair` is always broadcast.
    """
    axes, full = ([a for a in x if a != "pair"] for x in (arg.axes, widest))
    if not axes or len(axes) == len(full):
        return False
    return any(isinstance(n, Ref) and n.kind in WHOLE for n in iter_nodes(arg))


def _narrow(what: str, arg: Expr, wide: Expr, span: Span, product: bool) -> Problem:
    """The problem of a vector beside a matrix; suggests the matrix product if that fits."""
    inside = arg.span.source == span.source == wide.span.source
    help = "sum each by itself, as in `sum(a) + sum(b)`, or give both the same axes"
    if product and inside and arg.axes in (wide.axes[-1:], wide.axes[:1]):
        left, right = (wide, arg) if wide.axes[-1:] == arg.axes else (arg, wide)
        meant = f"`{_operand(left)} @ {_operand(right)}` sums over {arg.axes[0]}"
        help = f"`*` multiplies entry by entry; {meant}"
    return problem(
        "M0203",
        f"a vector and a matrix do not combine in `{what}`",
        arg.span if inside else span,
        f"{shown(arg.axes)} here",
        because=(Label(wide.span, f"{shown(wide.axes)} here"),),
        help=help,
    )


def _operand(expr: Expr) -> str:
    text = _text(expr)
    return text if text.isidentifier() or text.endswith(")") else f"({text})"


def contract(a: Expr, b: Expr, sizes: Sizes, span: Span) -> Apply:
    """`a @ b`: the sum of products over the last axis of ``a``.  Raises Problem if ``b`` lacks it."""
    for side in (a, b):
        if not side.axes:
            raise problem(
                "M0204",
                f"`@` sums over an axis, but `{_text(side)}` is one number",
                side.span,
                "one number",
                help="write `*` to multiply by a number",
            )
    over = a.axes[-1]
    met: Expr | None = b
    if over not in b.axes:
        old = next(
            (x for x in reversed(b.axes) if x not in a.axes and equal_size(x, over, sizes)), None
        )
        old = old or next((x for x in reversed(b.axes) if equal_size(x, over, sizes)), None)
        met = retag(b, old, over) if old else None
    if met is None:
        raise problem(
            "M0204",
            f"shapes do not meet in `{span.text}`",
            b.span,
            f"{shown(b.axes)} here",
            because=(Label(a.span, f"{shown(a.axes)}: sums over {over}"),),
            help=f"`@` needs an operand with the axis {over} on its right",
        )
    axes = (*a.axes[:-1], *(x for x in met.axes if x != over))
    if len(set(axes)) != len(axes):
        raise problem("M0204", f"`{span.text}` would have an axis twice", span, f"{shown(axes)}")
    return Apply("contract", (a, met), axes, (("over", (over,)),), span)


def _rank(axes: Axes) -> int:
    # If key and value have the same size, the result is an answer, which has the axis value.
    return 2 if "value" in axes else 1 if "key" in axes else 0


def _way_out(axes: Axes, other: Axes) -> str:
    if {*axes, *other} == {"key", "value"}:
        return "key and value differ in size here: give the memory one size, `(d)`, or use `W @ …`"
    return "only equal shapes, or a number and anything, combine elementwise"


def _text(expr: Expr) -> str:
    return expr.span.text if len(expr.span.text) <= 40 else expr.span.text[:37] + "…"
