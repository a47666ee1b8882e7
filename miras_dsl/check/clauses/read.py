"""The `read` clause: the answer of the memory."""

from __future__ import annotations

from dataclasses import replace

from miras_dsl.check.formula.axis_sizes import AxisSizes
from miras_dsl.check.formula.complex_parts import real_formula
from miras_dsl.check.formula.elaborate import Scope, elaborate
from miras_dsl.check.formula.hoist_projections import Hoisted
from miras_dsl.check.formula.shapes import shown, to_axes
from miras_dsl.diagnostics import problem
from miras_dsl.spec import (
    Expr,
    Ref,
    iter_nodes,
)
from miras_dsl.syntax import tree as syntax

from .architecture import Architecture
from .tokens_and_gates import Bindings


def read(
    clause: syntax.Clause | None,
    scope: Scope,
    built: Architecture,
    bound: Bindings,
    hoisted: Hoisted,
    sizes: AxisSizes,
) -> Expr:
    """The answer of a memory, [value]; without the clause it is ``M(query)``.  Raises Problem."""
    assert built.network is not None
    if clause is None:
        query = bound.tokens["query"]
        return built.apply(
            Ref("query", "token", query.axes, built.network.input.span),
            sizes.sizes,
            built.network.input.span,
        )
    node: syntax.Formula = clause.content  # type: ignore[assignment]
    whole = real_formula(elaborate(node, replace(scope, place="a read")), "the answer of a memory")
    expr = hoisted.hoist(whole)
    paired = {n for n, item in (bound.tokens | bound.gates).items() if "pair" in item.axes}
    for part in iter_nodes(expr):
        if isinstance(part, Ref) and part.name in paired and part.kind in ("token", "gate"):
            raise problem(
                "M0203",
                f"`{part.name}` has several pairs and a read has none",
                part.span,
                "which pair?",
                help="read with `query`",
            )
    met = to_axes(expr, ("value",), sizes.sizes)
    if met is None or met.axes != ("value",):
        raise problem("M0203", "a read gives a [value]", node.span, f"{shown(expr.axes)} here")
    return met
