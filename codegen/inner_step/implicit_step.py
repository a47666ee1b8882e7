"""The implicit step: argmin loss + |W - kept|² / (2 rate), exactly.

At its end ``W = kept - rate * gradient(W)``.  For a matrix with ``gradient = φ(W k) kᵀ`` only the
prediction ``u = W k`` is unknown: ``u + s φ(u) = p`` for each row, with p the prediction before the
step and ``s = Σ rate k²``.  A vector is its own prediction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sympy as sp

from miras_dsl.codegen.errors import ConflictingClauses, DerivationError
from miras_dsl.codegen.model.types import MemoryModel
from miras_dsl.codegen.passes.affine_state import NotChunkable, to_affine_state
from miras_dsl.codegen.passes.inline_maps import affine_coefficients
from miras_dsl.ir import (
    ONE,
    ZERO,
    Contract,
    Input,
    Node,
    Role,
    contract,
    elementwise,
    inputs_of,
    postorder,
    substitute,
)
from miras_dsl.scalar.functions import OPERANDS
from miras_dsl.scalar.interval import Interval
from miras_dsl.scalar.monotone_inverse import UNKNOWN

from .closed_form_inverse import solve
from .domain import numbers
from .monotone import (
    MonotoneFunction,
    NotMonotone,
    analyze_monotone,
    discontinuous_points,
    samples,
)
from .scalar_equation import NotScalar, ScalarEquation, cheap_to_simplify, scalar_equation

BEFORE = sp.Symbol("p", real=True)
STEP = sp.Symbol("s", real=True)


class NoImplicitStep(DerivationError):
    """The implicit step of a memory cannot be reduced to one equation of one number with one answer."""

    code = "M0610"
    help = "leave `implicit` out, or take a convex bias of each error by itself, such as `sum(r^2)`"


@dataclass(frozen=True, slots=True)
class _Equation:
    """``u + s φ(u) = p``, elementwise.

    slope    φ(u), a formula of ``unknown``
    unknown  the part of ``slope`` that is u: the prediction, or the vector itself
    key      the gradient is ``φ keyᵀ``; None for a vector
    """

    slope: Node
    unknown: Node
    key: Node | None


def implicit_step(model: MemoryModel, weights: Mapping[str, Node]) -> dict[str, Node]:
    """weight -> its gradient at the point where the step ends.

    weights  weight -> its value before the step

    Raises NoImplicitStep where the step is not an equation of one number with one answer, and
    ConflictingClauses beside a link or a potential.
    """
    _require_compatible_clauses(model)
    if len(model.gradients) != 1:
        raise NoImplicitStep("`implicit` needs a memory of one matrix or vector")
    ((name, gradient),) = model.gradients
    rate, base = _rule(model, name)
    (start,) = substitute([base], {model.formulas_of(name).kept: weights[name]})
    point = Input(name, model.weights[0].axes, Role.WEIGHT)
    equation = _equation(gradient, point)
    if equation is None:
        return {name: gradient}
    _require_nonnegative(model, rate)
    formula = _increasing(model, equation)
    (before,) = substitute([equation.unknown], {point: start})
    size = (
        rate
        if equation.key is None
        else contract(rate * equation.key, equation.key, equation.key.axes)
    )
    derivative = formula.formula.diff(UNKNOWN)
    derivative = sp.expand(derivative) if cheap_to_simplify(derivative) else derivative
    if not derivative.has(UNKNOWN):
        (at_end,) = substitute([equation.slope], {equation.unknown: before})
        at_end = at_end * elementwise(
            1 / (1 + OPERANDS[0] * OPERANDS[1]), size, formula.as_node(derivative, {})
        )
    else:
        left = UNKNOWN + STEP * formula.formula
        constants = samples({**formula.ranges, STEP: Interval(low=0.0)})
        line = MonotoneFunction(left, sp.S.NegativeInfinity, sp.S.Infinity, constants)
        answer = solve(line, BEFORE)
        end = formula.as_node(answer, {BEFORE: before, STEP: size})
        (at_end,) = substitute([equation.slope], {equation.unknown: end})
    return {name: at_end if equation.key is None else at_end * equation.key}


def _require_compatible_clauses(model: MemoryModel) -> None:
    if model.given_write:
        raise NoImplicitStep(
            "a given write is not the gradient of a loss, so no step ends at its smallest value"
        )
    if any(f.link is not None or f.potential is not None for _, f in model.formulas):
        raise ConflictingClauses(
            "an implicit step moves the weight itself, and a link or a potential carries something else"
        )


def _equation(gradient: Node, point: Input) -> _Equation | None:
    """The gradient as an equation for one number; None where it does not depend on the weights."""
    if point not in inputs_of([gradient]):
        return None
    if len(point.axes) == 1:
        return _Equation(gradient, point, None)
    try:
        writes = to_affine_state(gradient, point.axes, frozenset()).writes
    except NotChunkable:
        raise NoImplicitStep("`implicit` needs a bias with one prediction, `W @ key`") from None
    keys = {write.x for write in writes}
    slope: Node = ZERO
    for write in writes:
        slope = slope + write.u * write.scale
    reads = [
        n for n in postorder([slope]) if isinstance(n, Contract) and point in (n.left, n.right)
    ]
    key = next(iter(keys))
    if len(keys) != 1 or len(reads) != 1 or key is None:
        raise NoImplicitStep("`implicit` needs a bias with one prediction, `W @ key`")
    if key not in (reads[0].left, reads[0].right):
        raise NoImplicitStep("`implicit` needs the same key for the prediction and the write")
    return _Equation(slope, reads[0], key)


def _increasing(model: MemoryModel, equation: _Equation) -> ScalarEquation:
    """φ as a sympy formula of u.  Raises NoImplicitStep where it does not increase with u."""
    try:
        formula = scalar_equation(equation.slope, equation.unknown, model.ranges)
        slope = analyze_monotone(formula.formula, formula.ranges, onto=False, strict=False)
    except NotScalar:
        raise NoImplicitStep(
            "`implicit` needs a bias that takes each error by itself; this one joins them"
        ) from None
    except NotMonotone:
        raise NoImplicitStep(
            "`implicit` needs a convex bias; the gradient of this one does not always grow "
            "with the prediction"
        ) from None
    if discontinuous_points(slope):
        raise NoImplicitStep(
            "`implicit` needs a bias whose gradient does not jump; this one has a kink"
        )
    return formula


def _require_nonnegative(model: MemoryModel, rate: Node) -> None:
    try:
        formula = scalar_equation(rate, Input("none", (), Role.HOLE), model.ranges)
    except NotScalar:
        raise NoImplicitStep("`implicit` needs a rate that is a number for each weight") from None
    if not (numbers(formula.formula, samples(formula.ranges)) >= 0).all():
        raise NoImplicitStep(
            "`implicit` needs a rate that is never negative: it looks for a smallest value"
        )


def _rule(model: MemoryModel, weight: str) -> tuple[Node, Node]:
    """(rate, rest) of a rule ``W = rest - rate * grad``, as formulas of the weight that is kept.

    Raises NoImplicitStep for a rule of another form.
    """
    formulas = model.formulas_of(weight)
    grad, kept = formulas.grad, formulas.kept
    rules = [rule for target, rule in formulas.rules if target not in model.carry]
    (rule,) = substitute(rules[-1:], {formulas.newest: kept})
    found = affine_coefficients(rule, grad)
    held = set(inputs_of([rule])) & {hole for _, hole in formulas.carried}
    if held or found is None or {grad, kept} & set(inputs_of([found[0]])):
        raise NoImplicitStep("`implicit` goes with plain gradient descent")
    return -found[0] * ONE, found[1]


def is_pure_retention(model: MemoryModel, weight: str) -> bool:
    """Whether the rule for W adds a multiple of the gradient to what is kept, and nothing else."""
    try:
        return _rule(model, weight)[1] is model.formulas_of(weight).kept
    except NoImplicitStep:
        return False
