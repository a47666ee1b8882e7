"""The `algorithm` clause: rules, rates of terms, and modifiers (at which weights gradients are taken …)."""

from __future__ import annotations

from dataclasses import replace

import sympy as sp

from miras_dsl.check.clauses.weights import Architecture
from miras_dsl.check.formula.axis_sizes import AxisSizes
from miras_dsl.check.formula.elaborate import Scope, elaborate, integer_literal
from miras_dsl.check.formula.functions.call_arguments import arguments
from miras_dsl.check.formula.hoist_projections import Hoisted
from miras_dsl.check.formula.shapes import shown
from miras_dsl.check.library.call import resolve_library_call, usage
from miras_dsl.check.library.load import Library
from miras_dsl.diagnostics import Label, problem
from miras_dsl.spec import Algorithm, Anchored, Expr, Number, Ref, Term
from miras_dsl.suggestions import did_you_mean
from miras_dsl.syntax import tree as syntax

from .rules import ResolvedAlgorithm, references_in, rules_of

ONE = sp.Integer(1)

MODIFIERS = ("exact", "anchored", "window", "steps", "pairs", "implicit", "reset")
EXCLUSIVE = (
    ("exact", "anchored"), ("implicit", "anchored"), ("implicit", "window"), ("implicit", "steps"),
    ("implicit", "pairs"), ("steps", "anchored"), ("steps", "pairs"), ("steps", "window"),
    ("window", "pairs"), ("pairs", "anchored"),
)  # fmt: skip
"""Pairs of modifiers that exclude each other."""


def resolve_algorithm(
    clause: syntax.Clause,
    library: Library,
    scope: Scope,
    hoisted: Hoisted,
    names: list[str],
) -> ResolvedAlgorithm:
    """The rules of the algorithm with their arguments, and the rates of the terms ``names``.

    Raises Problem.
    """
    first = clause.content[0]  # type: ignore[index]
    if isinstance(first, syntax.Rules):
        return ResolvedAlgorithm(first, {}, True)
    assert isinstance(first, syntax.Name | syntax.Call | syntax.Index)
    if first.name in MODIFIERS and ("algorithm", first.name) not in library:
        raise problem(
            "M0601",
            f"`{first.name}` says how to learn, but not by which rule",
            first.span,
            "a rule must come first",
            help=f"write `gd(eta), {first.name}`",
        )
    named = [a.name for a in first.arguments if a.name] if isinstance(first, syntax.Call) else []
    rated = any(n in names for n in named)
    choice = resolve_library_call(
        "algorithm", "M0601", first, library, extra=tuple(names), optional=("eta",) if rated else ()
    )
    inner = replace(scope, place="the algorithm")
    values = {n: hoisted.hoist(elaborate(v, inner)) for n, v in choice.values.items()}
    rates = {n: hoisted.hoist(elaborate(v, inner)) for n, v in choice.extra.items()}
    if rated:
        missing = [n for n in names if n not in rates]
        if missing or "eta" in choice.written:
            what = f"the term `{missing[0]}` has no rate" if missing else "rates are given twice"
            raise problem(
                "M0402",
                what,
                first.span,
                "each term needs one rate",
                help=usage(choice.definition, [p.name for p in choice.definition.params], names),
            )
        values["eta"] = Number(ONE, first.span)
    for name, expr in {**values, **rates}.items():
        tokens = [n for n in references_in(expr) if n.kind in ("token", "state")]
        if tokens:
            raise problem(
                "M0603",
                f"`{name}` must be made of gates and numbers",
                tokens[0].span,
                f"`{tokens[0].name}` is not a gate",
                help="define a gate over the layer's input x",
            )
    body = choice.definition.body
    assert isinstance(body, syntax.Rules)
    return ResolvedAlgorithm(body, dict(values), False, rates)


def with_rates(terms: list[Term], choice: ResolvedAlgorithm) -> list[Term]:
    """The terms, with the rates that the algorithm gives them."""
    return [replace(t, rate=choice.rates.get(t.name, t.rate)) for t in terms]


def algorithm(
    clause: syntax.Clause,
    choice: ResolvedAlgorithm,
    scope: Scope,
    sizes: AxisSizes,
    hoisted: Hoisted,
    built: Architecture,
) -> Algorithm:
    """The algorithm: rules and modifiers.  Raises Problem."""
    found = rules_of(choice, scope, sizes, hoisted, built)
    made = Algorithm(found.rules, found.carry, found.by_weight, span=clause.span)
    seen: dict[str, syntax.Reference] = {}
    for part in clause.content[1:]:  # type: ignore[index]
        assert isinstance(part, syntax.Name | syntax.Call | syntax.Index)
        if part.name not in MODIFIERS:
            raise problem(
                "M0602",
                f"`{part.name}` says nothing about an algorithm",
                part.span,
                "unknown",
                help=did_you_mean(part.name, MODIFIERS),
            )
        if part.name in seen:
            first = (Label(seen[part.name].span, "first here"),)
            raise problem(
                "M0608", f"`{part.name}` is written twice", part.span, "again", because=first
            )
        for other in seen:
            if (part.name, other) in EXCLUSIVE or (other, part.name) in EXCLUSIVE:
                raise problem(
                    "M0608",
                    f"`{other}` and `{part.name}` mean nothing together",
                    part.span,
                    f"with `{other}`",
                    because=(Label(seen[other].span, "given here"),),
                    help="keep one of them",
                )
        seen[part.name] = part
        made = _with_modifier(made, part, replace(scope, place="the algorithm"), hoisted)
    if not seen.keys() & {"exact", "anchored", "implicit"}:
        raise problem(
            "M0604",
            "say at which weights the gradients are taken",
            clause.span,
            "neither `exact` nor `anchored(…)`",
            help="add `, exact` (newest weights) or `, anchored(64)` (those of a block's start)",
        )
    if made.implicit and (made.carry or len(made.rules) != 1):
        raise problem(
            "M0608",
            "an implicit step has one rule, for every weight, and no carried tensors",
            seen["implicit"].span,
            "with a carry" if made.carry else "with several rules",
        )
    return made


def _with_modifier(
    made: Algorithm, part: syntax.Reference, scope: Scope, hoisted: Hoisted
) -> Algorithm:
    call = (
        part if isinstance(part, syntax.Call) else syntax.Call(part.name, (), part.span, part.span)
    )
    signature: dict[str, object] = {
        "exact": {}, "implicit": {}, "steps": {"n": None}, "pairs": {"n": None},
        "reset": {"n": None},
        "window": {"n": None, "discount": None},
        "anchored": {"block": None, "sweeps": None, "reads": None, "scale": None},
    }[part.name]  # fmt: skip
    given = arguments(call, signature)
    first = next(iter(signature), None)
    if first is not None and first not in given:
        raise problem(
            "M0205",
            f"`{part.name}` needs a number",
            part.span,
            "no number",
            help=f"write `{part.name}(4)`",
        )
    match part.name:
        case "steps":
            return replace(
                made, steps=integer_literal(given["n"], scope, "the number of steps", 1, 64)
            )
        case "pairs":
            return replace(
                made, pairs=integer_literal(given["n"], scope, "the number of pairs", 1, 64)
            )
        case "reset":
            return replace(
                made, reset=integer_literal(given["n"], scope, "the length between resets")
            )
        case "window":
            width = integer_literal(given["n"], scope, "the width of a window", 1, 256)
            discount: Expr = Number(ONE, part.span)
            if "discount" in given:
                discount = hoisted.hoist(elaborate(given["discount"], scope))
            if discount.axes:
                raise problem(
                    "M0212",
                    "a discount is one number",
                    discount.span,
                    f"{shown(discount.axes)} here",
                )
            return replace(made, window=(width, discount))
        case "implicit":
            return replace(made, implicit=True)
        case "anchored":
            return replace(made, anchored=_anchored(given, scope, hoisted))
        case _:
            return made


def _anchored(given: dict[str, syntax.Formula], scope: Scope, hoisted: Hoisted) -> Anchored:
    block = integer_literal(given["block"], scope, "the length of a block", 1, 65536)
    sweeps = (
        integer_literal(given["sweeps"], scope, "the number of sweeps", 1, 64)
        if "sweeps" in given
        else 1
    )
    reads = "running"
    if "reads" in given:
        node = given["reads"]
        reads = node.name if isinstance(node, syntax.Name) else ""
        if reads not in ("running", "start"):
            raise problem("M0607", "`reads` is `running` or `start`", node.span, "neither")
    scale = None
    if "scale" in given:
        inner = scope.with_names(position=Ref("position", "position", ("position",)))
        expr = hoisted.hoist(elaborate(given["scale"], replace(inner, own=("position",))))
        if expr.axes not in ((), ("position",)):
            raise problem(
                "M0212", "the scale of a step is one number", expr.span, f"{shown(expr.axes)} here"
            )
        scale = expr
    return Anchored(block, sweeps, reads, scale)
