"""The `algorithm` clause: rules, rates, and what is meant by when gradients are taken."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

import sympy as sp

from miras_dsl.check.formula.axis_sizes import AxisSizes, free_name
from miras_dsl.check.formula.builtins import arguments
from miras_dsl.check.formula.elaborate import Entry, Scope, elaborate, integer_literal
from miras_dsl.check.formula.hoist_projections import Hoisted
from miras_dsl.check.formula.shapes import shown, to_axes
from miras_dsl.check.library.call import resolve_library_call
from miras_dsl.check.library.load import Library
from miras_dsl.diagnostics import Label, did_you_mean, problem
from miras_dsl.spec import Algorithm, Anchored, Apply, Axes, Expr, Number, Ref, Term, iter_nodes
from miras_dsl.syntax import tree as syntax

ONE = sp.Integer(1)

MODIFIERS = ("exact", "anchored", "window", "steps", "pairs", "implicit", "reset")
APART = (
    ("exact", "anchored"), ("implicit", "anchored"), ("implicit", "window"), ("implicit", "steps"),
    ("implicit", "pairs"), ("steps", "anchored"), ("steps", "pairs"), ("steps", "window"),
    ("window", "pairs"), ("pairs", "anchored"),
)  # fmt: skip
"""Modifiers that mean nothing together."""


@dataclass(slots=True)
class ResolvedAlgorithm:
    """The first part of the clause, read before the rest of the memory.

    values  the arguments by parameter;  rates  the rate of each named term, if rates were given
    """

    rules: syntax.Rules
    names: dict[str, Entry]
    own: bool
    rates: dict[str, Expr] = field(default_factory=dict)

    @property
    def eta(self) -> Expr | None:
        """The learning rate, where the algorithm has a parameter of that name."""
        entry = self.names.get("eta")
        return entry if isinstance(entry, Number | Ref | Apply) else None


def resolve_algorithm(
    clause: syntax.Clause,
    library: Library,
    scope: Scope,
    moved: Hoisted,
    names: list[str],
) -> ResolvedAlgorithm:
    """The algorithm's own part and the rates of the terms called ``names``."""
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
    values = {n: moved.out(elaborate(v, inner)) for n, v in choice.values.items()}
    rates = {n: moved.out(elaborate(v, inner)) for n, v in choice.extra.items()}
    if rated:
        missing = [n for n in names if n not in rates]
        if missing or "eta" in choice.written:
            what = f"the term `{missing[0]}` has no rate" if missing else "rates are given twice"
            raise problem(
                "M0402",
                what,
                first.span,
                "each term needs one rate",
                help="write `gd(erase = a, store = b)`",
            )
        values["eta"] = Number(ONE, first.span)
    for name, expr in {**values, **rates}.items():
        tokens = [n for n in _refs(expr) if n.kind in ("token", "state")]
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
    """The terms with their rates."""
    return [replace(t, rate=choice.rates.get(t.name, t.rate)) for t in terms]


def algorithm(
    clause: syntax.Clause,
    choice: ResolvedAlgorithm,
    scope: Scope,
    sizes: AxisSizes,
    moved: Hoisted,
    axes: Axes,
) -> Algorithm:
    """Rules and modifiers; ``axes`` are those of a weight inside a rule."""
    rules, carry = _rules(choice, scope, sizes, moved, axes)
    made = Algorithm(rules, carry, span=clause.span)
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
            if (part.name, other) in APART or (other, part.name) in APART:
                raise problem(
                    "M0608",
                    f"`{other}` and `{part.name}` mean nothing together",
                    part.span,
                    f"with `{other}`",
                    because=(Label(seen[other].span, "given here"),),
                    help="keep one of them",
                )
        seen[part.name] = part
        made = _modified(made, part, replace(scope, place="the algorithm"), moved)
    if not seen.keys() & {"exact", "anchored", "implicit"}:
        raise problem(
            "M0604",
            "say at which weights the gradients are taken",
            clause.span,
            "neither `exact` nor `anchored(…)`",
            help="add `, exact` (newest weights) or `, anchored(64)` (those of a block's start)",
        )
    if made.implicit and (carry or len(rules) != 1):
        raise problem(
            "M0608",
            "an implicit step has no carried tensors",
            seen["implicit"].span,
            "with a carry",
        )
    return made


def _modified(made: Algorithm, part: syntax.Reference, scope: Scope, moved: Hoisted) -> Algorithm:
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
                discount = moved.out(elaborate(given["discount"], scope))
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
            return replace(made, anchored=_anchored(given, scope, moved))
        case _:
            return made


def _anchored(given: dict[str, syntax.Formula], scope: Scope, moved: Hoisted) -> Anchored:
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
        expr = moved.out(elaborate(given["scale"], replace(inner, own=("position",))))
        if expr.axes not in ((), ("position",)):
            raise problem(
                "M0212", "the scale of a step is one number", expr.span, f"{shown(expr.axes)} here"
            )
        scale = expr
    return Anchored(block, sweeps, reads, scale)


def _rules(
    choice: ResolvedAlgorithm, scope: Scope, sizes: AxisSizes, moved: Hoisted, axes: Axes
) -> tuple[tuple[tuple[str, Expr], ...], tuple[str, ...]]:
    rules = choice.rules
    for name in rules.carry:
        free_name(name, rules.span, "a carried tensor")
        if name == "W" or rules.carry.count(name) > 1:
            raise problem(
                "M0109", f"`{name}` cannot be carried again", rules.span, "already a name here"
            )
    names: dict[str, Entry] = {**scope.names} if choice.own else {}
    names |= choice.names
    names |= {name: Ref(name, "carry", axes) for name in rules.carry}
    names |= {"W": Ref("W", "weight", axes), "grad": Ref("grad", "grad", axes)}
    inner = replace(
        scope,
        names=names,
        place="a rule",
        functions={**scope.functions, "keep": partial(_keep, axes=axes)},
        network=None,
        network_names=(),
    )
    made: list[tuple[str, Expr]] = []
    for binding in rules.bindings:
        for target in binding.targets:
            if target.name not in ("W", *rules.carry) or target.entries or binding.value is None:
                raise problem(
                    "M0605",
                    f"a rule sets W or a carried tensor, not `{target.name}`",
                    target.span,
                    "neither",
                    help="name it after `carry` first",
                )
            if any(name == target.name for name, _ in made):
                raise problem("M0605", f"`{target.name}` is set twice", target.span, "again")
            expr = moved.out(elaborate(binding.value, inner))
            met = to_axes(expr, axes, sizes.sizes)
            if met is None or set(met.axes) != set(axes):
                raise problem(
                    "M0203",
                    f"`{target.name}` has the weight's shape, its rule has not",
                    binding.value.span,
                    f"{shown(expr.axes)} here",
                )
            made.append((target.name, met))
    missing = [n for n in ("W", *rules.carry) if n not in dict(made)]
    if missing:
        raise problem(
            "M0605",
            f"no rule sets `{missing[0]}`",
            rules.span,
            "missing",
            help=f"add `{missing[0]} = …`",
        )
    return tuple(made), rules.carry


def _keep(node: syntax.Call, scope: Scope, axes: Axes) -> Expr:
    value = node.arguments[0].value if len(node.arguments) == 1 else None
    if not (isinstance(value, syntax.Name) and value.name == "W"):
        raise problem(
            "M0605", "`keep` takes W: the weight after its retention", node.span, "not so here"
        )
    return Ref("W", "keep", axes, node.span)


def _refs(expr: Expr) -> list[Ref]:
    return [n for n in iter_nodes(expr) if isinstance(n, Ref)]
