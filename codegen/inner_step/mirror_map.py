"""Retention from a potential: the weight as a formula of the carried dual, derived and verified."""

from __future__ import annotations

from collections.abc import Callable

import sympy as sp

from miras_dsl.codegen.model.build import program_input, row_and_column
from miras_dsl.codegen.model.lower import lower, softmax
from miras_dsl.codegen.model.types import MemoryModel
from miras_dsl.ir import Node
from miras_dsl.spec import Expr, MemorySpec

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
    retention = model.retention
    if retention.link is not None:
        formula = retention.link

        def given(weight: str, dual: Node) -> Node:
            return lower(
                formula,
                lambda ref: dual if ref.kind == "dual" else program_input(ref, model.spec, weight),
                row_and_column(model.spec, weight),
            )

        return given
    if retention.bregman is None:
        return None
    for state in model.spec.states:
        if state.init == "positive":
            initial_dual(model.spec, state.name)
    if retention.simplex is not None:
        return _on_simplex(model, retention.bregman, retention.simplex)
    answers = {weight.name: _answer(model.spec, weight.name) for weight in model.weights}

    def derived(weight: str, dual: Node) -> Node:
        formula, answer = answers[weight]
        return formula.placed(answer, {DUAL: dual})

    return derived


def _answer(spec: MemorySpec, weight: str) -> tuple[ScalarEquation, sp.Expr]:
    formula, slope = potential_gradient(spec, weight)
    return formula, solve(slope, DUAL)


def _on_simplex(model: MemoryModel, potential: Expr, simplex: Expr) -> Link:
    """The softmax: with F' = c log w + b the rows of e^(a / c) are scaled to their total."""
    factors = {weight.name: entropy(model.spec, weight.name) for weight in model.weights}

    def link(weight: str, dual: Node) -> Node:
        column = row_and_column(model.spec, weight)[-1]
        formula, factor = factors[weight]
        mass = lower(simplex, lambda ref: program_input(ref, model.spec, weight))
        return softmax(formula.placed(DUAL / factor, {DUAL: dual}), (column,)) * mass

    return link
