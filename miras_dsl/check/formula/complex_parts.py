"""Complex numbers in formulas: every formula becomes two real ones, its real and its imaginary part.

`complex(a, b)`, `polar(r, t)`, `conj(z)`, `real(z)`, `imag(z)` and the names of complex weights are
operations of formulas while these are read; nothing later knows of them.
"""

from __future__ import annotations

from dataclasses import replace

import sympy as sp

from miras_dsl.diagnostics import Problem, problem
from miras_dsl.source import Span
from miras_dsl.spec import Apply, Expr, Number, Ref, iter_nodes

from .shapes import Sizes, broadcast_operands

Parts = tuple[Expr, Expr | None]
"""A real part and an imaginary part, which is None for a real formula."""
OPERATIONS = frozenset({"complex", "real", "imag", "conj"})
LINEAR = frozenset({"neg", "sum", "mean", "retag"})
BILINEAR = frozenset({"mul", "contract", "outer"})


def complex_of(a: Expr, b: Expr, sizes: Sizes, span: Span) -> Apply:
    """`a + i b` of two real formulas.  Raises Problem if their shapes do not meet."""
    args, axes = broadcast_operands(span.text, (a, b), sizes, span)
    return Apply("complex", args, axes, (), span)


def holds_complex(expr: Expr) -> bool:
    """Whether complex numbers occur in a formula."""
    return any(isinstance(n, Apply) and n.op in OPERATIONS for n in iter_nodes(expr))


def real_formula(expr: Expr, what: str) -> Expr:
    """A formula without complex numbers, equal to ``expr``.

    what  the formula in words, for the Problem that is raised if its value is complex
    """
    if not holds_complex(expr):
        return expr
    real, imaginary = parts(expr)
    if imaginary is not None:
        raise problem(
            "M0216",
            f"{what} is real, and this is complex",
            expr.span,
            "a complex number",
            help="take one part of it: `real(…)` or `imag(…)`",
        )
    return real


def parts(expr: Expr) -> Parts:
    """The real and the imaginary part of a formula.  Raises Problem for what is not defined."""
    done: dict[int, Parts] = {}
    for node in iter_nodes(expr):
        done[id(node)] = _parts(node, [done[id(a)] for a in getattr(node, "args", ())])
    return done[id(expr)]


def _parts(node: Expr, below: list[Parts]) -> Parts:
    match node:
        case Number() | Ref():
            return node, None
        case Apply("complex", _):
            if any(imaginary is not None for _, imaginary in below):
                raise _undefined(node, "takes two real numbers")
            return below[0][0], below[1][0]
        case Apply("real", _):
            return below[0][0], None
        case Apply("imag", _):
            return below[0][1] or _zero(node), None
        case Apply("conj", _):
            real, imaginary = below[0]
            return real, imaginary and _apply("neg", (imaginary,), node)
        case Apply(op, args) if all(imaginary is None for _, imaginary in below):
            reals = tuple(real for real, _ in below)
            same = all(a is b for a, b in zip(args, reals, strict=True))
            return node if same else replace(node, args=reals), None
        case Apply(op, _) if op in LINEAR:
            real, imaginary = below[0]
            assert imaginary is not None
            return replace(node, args=(real,)), replace(node, args=(imaginary,))
        case Apply("add" | "sub" as op, _):
            return _sum(op, node, below)
        case Apply(op, _) if op in BILINEAR:
            return _product(node, below)
        case Apply("div", _) if below[1][1] is None:
            by = below[1][0]
            real, imaginary = below[0]
            assert imaginary is not None
            return replace(node, args=(real, by)), replace(node, args=(imaginary, by))
        case Apply("abs", _):
            return _size(node, below[0]), None
        case Apply("exp", _):
            real, angle = below[0]
            assert angle is not None
            size = _apply("exp", (real,), node)
            cos, sin = _apply("cos", (angle,), node), _apply("sin", (angle,), node)
            return _apply("mul", (size, cos), node), _apply("mul", (size, sin), node)
        case Apply("where", _) if below[0][1] is None:
            chosen = below[0][0]
            (a, a_im), (b, b_im) = below[1:]
            zero = _zero(node)
            imaginary = (chosen, a_im or zero, b_im or zero)
            return replace(node, args=(chosen, a, b)), replace(node, args=imaginary)
        case Apply(op, _):
            raise _undefined(node, "is not defined for complex numbers")
    raise AssertionError(f"unknown formula {node}")


def _sum(op: str, node: Apply, below: list[Parts]) -> Parts:
    (a, a_im), (b, b_im) = below
    real = replace(node, args=(a, b))
    if a_im is not None and b_im is not None:
        return real, replace(node, args=(a_im, b_im))
    if a_im is not None:
        return real, _wide(a_im, node)
    assert b_im is not None
    return real, b_im if op == "add" and b_im.axes == node.axes else _wide(b_im, node, op == "sub")


def _wide(part: Expr, node: Apply, negative: bool = False) -> Expr:
    """A part with the shape of the whole formula, which the other operand may give."""
    return replace(node, op="sub" if negative else "add", args=(_zero(node), part))


def _product(node: Apply, below: list[Parts]) -> Parts:
    (a, a_im), (b, b_im) = below

    def times(x: Expr, y: Expr) -> Expr:
        return replace(node, args=(x, y))

    if b_im is None:
        assert a_im is not None
        return times(a, b), times(a_im, b)
    if a_im is None:
        return times(a, b), times(a, b_im)
    real = _apply("sub", (times(a, b), times(a_im, b_im)), node)
    return real, _apply("add", (times(a, b_im), times(a_im, b)), node)


def _size(node: Apply, of: Parts) -> Expr:
    real, imaginary = of
    assert imaginary is not None
    two = Number(sp.Integer(2), node.span)
    squares = (_apply("pow", (x, two), node) for x in (real, imaginary))
    return _apply("sqrt", (_apply("add", tuple(squares), node),), node)


def _apply(op: str, args: tuple[Expr, ...], node: Apply) -> Apply:
    return Apply(op, args, node.axes, (), node.span)


def _zero(node: Expr) -> Number:
    return Number(sp.Integer(0), node.span)


def _undefined(node: Apply, why: str) -> Problem:
    return problem(
        "M0216",
        f"`{node.span.text}` {why}",
        node.span,
        "complex here",
        help="complex numbers are added, multiplied, summed and divided by real ones; of others take "
        "`real(…)`, `imag(…)` or `abs(…)`",
    )
