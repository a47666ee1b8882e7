"""Mirror descent: the weight as the inverse of its potential's slope, derived and verified.

With a potential F the memory carries the dual ``a = F'(w)``, and the weight is ``w = F'^-1(a)``.
"""

from __future__ import annotations

from collections.abc import Callable

import sympy as sp

from miras_dsl.codegen.model.lower import softmax
from miras_dsl.codegen.model.types import MemoryModel
from miras_dsl.ir import Node, substitute

from .closed_form_inverse import solve
from .initial_dual import initial_dual
from .potential import entropy, potential_gradient
from .scalar_equation import ScalarEquation

Link = Callable[[str, Node], Node]
"""(name of a weight, its carried state) -> the value of the weight in reads and gradients."""

DUAL = sp.Symbol("a", real=True)


def link_function(model: MemoryModel) -> Link | None:
    """The link of a memory; None when what it carries is the weight itself.

    Raises NoLink for a potential whose slope does not take every value exactly once, or whose first
    dual is undefined (`initial_dual`).
    """
    if all(formulas.link is not None for _, formulas in model.formulas):

        def given(weight: str, dual: Node) -> Node:
            formulas = model.formulas_of(weight)
            assert formulas.link is not None
            return substitute([formulas.link], {formulas.dual: dual})[0]

        return given
    if any(formulas.potential is None for _, formulas in model.formulas):
        return None
    for weight in model.weights:
        if weight.init == "positive":
            initial_dual(model, weight.name)
    if all(formulas.mass is not None for _, formulas in model.formulas):
        return _on_simplex(model)
    inverses = {weight.name: _inverse(model, weight.name) for weight in model.weights}

    def derived(weight: str, dual: Node) -> Node:
        formula, inverse = inverses[weight]
        return formula.as_node(inverse, {DUAL: dual})

    return derived


def _inverse(model: MemoryModel, weight: str) -> tuple[ScalarEquation, sp.Expr]:
    formula, slope = potential_gradient(model, weight)
    return formula, solve(slope, DUAL)


def _on_simplex(model: MemoryModel) -> Link:
    """The link of ``F = c w log(w) + b w`` on a simplex: mass * softmax(a / c), by rows."""
    factors = {weight.name: entropy(model, weight.name) for weight in model.weights}

    def link(weight: str, dual: Node) -> Node:
        formulas = model.formulas_of(weight)
        mass, column = formulas.mass, formulas.column
        assert mass is not None and column is not None
        formula, factor = factors[weight]
        return softmax(formula.as_node(DUAL / factor, {DUAL: dual}), (column,)) * mass

    return link
