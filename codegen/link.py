"""Retention from a potential: the weight as a formula of the carried dual, derived and verified."""

from __future__ import annotations

from collections.abc import Callable

import sympy as sp

from miras_dsl import scalars
from miras_dsl.ir import Extent, Input, Map, Node, Number, pointwise
from miras_dsl.lower import lower, softmax
from miras_dsl.model import MemoryModel
from miras_dsl.scalars import SLOTS
from miras_dsl.spec import Ref

from .model import axes_of, stand_in
from .refused import Refused

Link = Callable[[str, Node], Node]
"""(weight, carried state) -> the weight that reads and gradients see."""

W, DUAL = sp.Symbol("w", positive=True), sp.Symbol("a", real=True)


class NoLink(Refused):
    """A potential that cannot be inverted in closed form."""

    code = "M0512"
    help = "write the weight as a formula of the carried state instead: `link … at token`"


class NoStep(Refused):
    """A penalty that cannot be minimised in closed form."""

    code = "M0513"
    help = "use squares and absolute values of w, or a `link` or `bregman` retention"


def link_of(model: MemoryModel) -> Link | None:
    """The link of a memory, or None when the carried state is the weight itself.

    Raises NoLink for a potential whose derivative has no inverse that we can derive and verify.
    """
    retention = model.retention
    if retention.link is not None:
        formula = retention.link

        def given(weight: str, dual: Node) -> Node:
            axes = axes_of(model.spec, weight)
            return lower(formula, lambda ref: dual if ref.kind == "dual" else stand_in(ref, model.spec, weight), axes)

        return given
    if retention.bregman is None:
        return None
    hole = Input("w", (), "hole")

    def name(ref: Ref) -> Node:
        return hole if ref.kind == "dual" else stand_in(ref, model.spec)

    potential, others = inline(lower(retention.bregman, name), hole)
    slope = sp.simplify(potential.diff(W))
    if retention.simplex is not None:
        constant = slope - sp.log(W)
        if constant.has(W):
            raise NoLink(
                f"on the simplex the potential's derivative must be log(w) plus a constant; here it is {slope}"
            )
        mass = lower(retention.simplex, lambda ref: stand_in(ref, model.spec))
        columns = {w.name: w.axes[-1] for w in model.spec.states}
        return lambda weight, dual: softmax(dual, (columns[weight],)) * mass
    inverse = inverted(slope)
    return lambda weight, dual: pointwise(
        inverse.xreplace({DUAL: SLOTS[0]} | dict(zip(_names(len(others)), SLOTS[1:], strict=False))), dual, *others
    )


def _names(count: int) -> list[sp.Symbol]:
    return [sp.Symbol(f"c{n}", positive=True) for n in range(count)]


def inline(node: Node, hole: Input) -> tuple[sp.Expr, list[Node]]:
    """A pointwise formula of one unknown as sympy over `W` and constants c0, c1 …, with their nodes."""
    others: list[Node] = []

    def visit(part: Node) -> sp.Expr:
        if part is hole:
            return W
        match part:
            case Number(value):
                return value
            case Map(formula, args):
                return formula.xreplace({s: visit(a) for s, a in zip(SLOTS, args, strict=False)})
            case Input() | Extent():
                if part not in others:
                    others.append(part)
                return sp.Symbol(f"c{others.index(part)}", positive=True)
            case _:
                raise NoLink("a potential is a formula of each weight by itself")

    return visit(node), others


def inverted(slope: sp.Expr) -> sp.Expr:
    """The inverse of an increasing function of `W`, as a formula of `DUAL`.

    The outer functions are peeled off one by one, so that there is one branch and it is the right one;
    the result is then checked at points of the domain.  Raises NoLink when nothing can be peeled.
    """
    left, right = slope, DUAL
    for _ in range(32):
        if left == W:
            _verify(slope, right)
            return right
        left = sp.logcombine(sp.together(left), force=True)
        if isinstance(left, sp.Add):
            free = [t for t in left.args if not t.has(W)]
            if free:
                left, right = left - sp.Add(*free), right - sp.Add(*free)
                continue
        if isinstance(left, sp.Mul):
            free = [t for t in left.args if not t.has(W)]
            if free:
                left, right = left / sp.Mul(*free), right / sp.Mul(*free)
                continue
        if isinstance(left, sp.log):
            inside = left.args[0]
            top, bottom = sp.fraction(sp.together(inside))
            if _is_line(top) and _is_line(bottom) and bottom.has(W):
                return _logistic(slope, top, bottom, right)
            left, right = inside, sp.exp(right)
            continue
        if isinstance(left, sp.exp):
            left, right = left.args[0], sp.log(right)
            continue
        if isinstance(left, sp.Pow) and not left.exp.has(W) and left.base.has(W):
            power = 1 / left.exp
            left, right = left.base, scalars.spow(right, power) if power.is_positive else right**power
            continue
        if isinstance(left, sp.sinh):
            left, right = left.args[0], sp.log(right + sp.sqrt(right**2 + 1))
            continue
        break
    return _by_newton(slope)


def _by_newton(slope: sp.Expr) -> sp.Expr:
    """The inverse as Newton steps, where the slope is seen to increase."""
    result = scalars.inverted(DUAL, slope.xreplace({W: scalars.UNKNOWN}))
    points = (0.01, 0.2, 0.7, 1.3, 3.0, 9.0)
    constants = {symbol: sp.Float(1.5) for symbol in slope.free_symbols - {W}}
    steep = slope.diff(W).xreplace(constants)
    for point in points if result.positive else (*points, 0.0, *(-x for x in points)):
        value = complex(steep.xreplace({W: sp.Float(point)}).evalf())
        if value.imag or not value.real > 0:
            raise NoLink(
                f"the potential's derivative {slope} does not increase, so it has no inverse"
            )
    return result


def _is_line(expr: sp.Expr) -> bool:
    return sp.diff(expr, W, 2) == 0


def _logistic(slope: sp.Expr, top: sp.Expr, bottom: sp.Expr, right: sp.Expr) -> sp.Expr:
    """Solve ``log((p w) / (q + s w)) = a`` stably: a sigmoid."""
    p, rest = top.coeff(W, 1), top.coeff(W, 0)
    q, s = bottom.coeff(W, 0), bottom.coeff(W, 1)
    if rest != 0:
        raise NoLink(f"cannot invert the potential's derivative {slope}")
    limit = -q / s
    result = limit * scalars.sigmoid(right + sp.log(sp.simplify(-s / p)))
    _verify(slope, result)
    return result


def _verify(slope: sp.Expr, inverse: sp.Expr) -> None:
    """Check ``slope(inverse(a)) = a`` where the inverse is defined."""
    constants = {symbol: sp.Float(1.5) for symbol in slope.free_symbols - {W}}
    checked = 0
    for point in (-1.3, -0.4, 0.2, 0.9, 1.7):
        value = inverse.xreplace(constants).xreplace({DUAL: sp.Float(point)})
        number = complex(value.replace(scalars.sigmoid, lambda x: 1 / (1 + sp.exp(-x))).replace(
            scalars.spow, lambda x, p: sp.sign(x) * sp.Abs(x) ** p).evalf())
        if number.imag or number.real <= 0:
            continue
        back = complex(slope.xreplace(constants).xreplace({W: sp.Float(number.real)}).evalf())
        if abs(back - point) > 1e-9 * (1 + abs(point)):
            raise NoLink(f"the inverse of {slope} that was derived does not hold at {point}")
        checked += 1
    if checked < 2:
        raise NoLink(f"the inverse of {slope} that was derived could not be checked on its domain")


def proximal(model: MemoryModel, weight: str, gradient_: Node, before: Node) -> Node:
    """``argmin_w <grad, w> + P(w, w0)`` for a penalty of squares and absolute values; the learning
    rate is what the penalty makes of it, as in ``(w - w0)^2 / (2 eta)``.

    Raises NoStep for any other penalty.
    """
    penalty = model.retention.penalty
    assert penalty is not None
    if model.algorithm.carry:
        raise NoStep("a penalty takes the place of the step, which leaves no use for a momentum")
    hole, start = Input("w", (), "hole"), Input("w0", (), "hole")

    def name(ref: Ref) -> Node:
        if ref.kind == "dual":
            return hole if ref.name == "w" else start
        return stand_in(ref, model.spec, weight)

    formula, others = inline(lower(penalty, name), hole)
    size = sp.Symbol("s", nonnegative=True)
    flat = sp.expand(formula.replace(scalars.absolute, lambda x: size * (x / W)).xreplace({}))
    poly = sp.Poly(flat, W, size) if flat.is_polynomial(W, size) else None
    if poly is None or poly.total_degree() > 2 or poly.coeff_monomial(size**2) != 0:
        raise NoStep("a penalty may hold squares and absolute values of w; this one has no closed step")
    quadratic, slope, threshold = (
        poly.coeff_monomial(W**2),
        poly.coeff_monomial(W),
        poly.coeff_monomial(size),
    )
    gradient = SLOTS[0]
    symbols = {s: SLOTS[n + 2] for n, s in enumerate(_names(len(others)))}
    quadratic, slope, threshold = (e.xreplace(symbols) for e in (quadratic, slope, threshold))
    where_start = others.index(start) if start in others else -1
    pulled = -(slope + gradient) / (2 * quadratic)
    shrink = threshold / (2 * quadratic)
    result = scalars.signum(pulled) * scalars.larger(scalars.absolute(pulled) - shrink, sp.Integer(0))
    nodes = [before if n == where_start else other for n, other in enumerate(others)]
    return pointwise(result, gradient_, before, *nodes)
