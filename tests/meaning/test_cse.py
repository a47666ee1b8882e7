"""Common subexpressions: repeated scalar terms become one node, and no value changes."""

from __future__ import annotations

import ast
from collections import Counter

import numpy as np
import pytest
import sympy as sp

from miras_dsl.codegen.passes.cse import eliminate_common_subexpressions, is_call, is_work
from miras_dsl.ir import (
    KEY,
    AxisSize,
    Contract,
    Input,
    Map,
    Node,
    Role,
    contract,
    elementwise,
    postorder,
)
from miras_dsl.ir.interpreter import evaluate
from miras_dsl.scalar import functions as scalars
from miras_dsl.scalar.functions import OPERANDS
from tests.meaning.derived import compiled, shipped_names

A, B = OPERANDS[:2]
X, Y = Input("x", (KEY,), Role.TOKEN), Input("y", (KEY,), Role.TOKEN)
LOG = Input("log_a", (), Role.TOKEN)


def maps(roots: list[Node]) -> list[sp.Expr]:
    return [n.formula for n in postorder(roots) if isinstance(n, Map)]


@pytest.mark.parametrize("worth", [is_call, is_work])
def test_a_function_of_two_formulas_is_one_node(worth) -> None:
    z = X * Y
    roots = [
        elementwise(A * scalars.erf(A), z) + 1.0,
        contract(elementwise(scalars.erf(A) ** 2 - B, z, Y), X, (KEY,)),
        elementwise(sp.exp(A) * B, LOG, X),
        elementwise(sp.exp(A) + A, LOG),
    ]
    made = eliminate_common_subexpressions(roots, worth)
    written = maps(made)
    assert sum(f.has(scalars.erf) for f in written) == sum(f.has(sp.exp) for f in written) == 1
    assert [n.axes for n in made] == [n.axes for n in roots]
    rng = np.random.default_rng(0)
    given = {X: rng.standard_normal(3), Y: rng.standard_normal(3), LOG: rng.standard_normal(())}
    for before, after in zip(evaluate(roots, given, {}), evaluate(made, given, {}), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-14)


def test_arithmetic_is_shared_only_where_asked() -> None:
    roots = [
        elementwise((A + B) * A, X, Y),
        contract(elementwise(sp.exp(A + B), X, Y), X, (KEY,)),
    ]
    assert len(maps(eliminate_common_subexpressions(roots, is_call))) == 2
    assert sum(f == A + B for f in maps(eliminate_common_subexpressions(roots, is_work))) == 1


def test_signs_scales_and_sizes_are_as_short_as_a_name() -> None:
    size = AxisSize(KEY)
    roots = [
        elementwise(sp.sin(-2 * A), X),
        contract(elementwise(sp.cos(-2 * A), X), Y, (KEY,)),
        elementwise(A / B, Y, size),
        contract(elementwise(sp.sin(A / B), X, size), Y, (KEY,)),
    ]
    assert eliminate_common_subexpressions(roots, is_work) == roots


def test_terms_of_different_parts_stay_apart() -> None:
    first, second = elementwise(sp.exp(A) + 1, X), elementwise(sp.exp(A) + 2, X)
    assert eliminate_common_subexpressions([first, second], is_work, [[first], [second]]) == [
        first,
        second,
    ]
    assert (
        len(maps(eliminate_common_subexpressions([first, second], is_work, [[first, second]]))) == 3
    )


def test_a_program_without_repetition_stays_as_it_is() -> None:
    root = Contract(X, elementwise(sp.exp(A), Y), (KEY,))
    assert eliminate_common_subexpressions([root], is_work) == [root]


@pytest.mark.parametrize("name", shipped_names())
def test_no_function_of_the_text_computes_a_term_twice(name: str) -> None:
    for function in ast.parse(compiled(name).text).body:
        if not isinstance(function, ast.FunctionDef):
            continue
        calls = [
            ast.unparse(node)
            for node in ast.walk(function)
            if isinstance(node, ast.Call) and ast.unparse(node.func) in COSTLY
        ]
        assert [call for call, count in Counter(calls).items() if count > 1] == []


COSTLY = {
    "torch.exp", "torch.log", "torch.erf", "torch.tanh", "torch.sigmoid", "torch.pow",
    "ops.exponential", "ops.sqrt", "ops.rsqrt", "ops.softplus", "ops.logcosh",
}  # fmt: skip
