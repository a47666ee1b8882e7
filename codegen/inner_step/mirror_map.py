"""Retention from a potential: the weight as a formula of the carried dual, derived and verified."""

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
"""(weight, carried state) -> the weight that reads and gradients see."""

DUAL = sp.Symbol("a", real=True)


def link_function(model: MemoryModel) -> Link | None:
    """The link of a memory, or None when the carried state is the weight itself.

    Raises NoLink for a potential whose slope does not take every value exactly once.
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
    answers = {weight.name: _answer(model, weight.name) for weight in model.weights}

    def derived(weight: str, dual: Node) -> Node:
        formula, answer = answers[weight]
        return formula.placed(answer, {DUAL: dual})

    return derived


def _answer(model: MemoryModel, weight: str) -> tuple[ScalarEquation, sp.Expr]:
    formula, slope = potential_gradient(model, weight)
    return formula, solve(slope, DUAL)


def _on_simplex(model: MemoryModel) -> Link:
    """The softmax: with F' = c log w + b the rows of e^(a / c) are scaled to their total."""
    factors = {weight.name: entropy(model, weight.name) for weight in model.weights}

    def link(weight: str, dual: Node) -> Node:
        formulas = model.formulas_of(weight)
        assert formulas.mass is not None
        formula, factor = factors[weight]
        return (
            softmax(formula.placed(DUAL / factor, {DUAL: dual}), (formulas.column,)) * formulas.mass
        )

    return link
