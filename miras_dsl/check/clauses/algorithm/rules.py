"""The rules of a learning algorithm: the new value of every weight and carried tensor."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

import sympy as sp

from miras_dsl.check.clauses.weights import Architecture
from miras_dsl.check.formula.axis_sizes import AxisSizes, free_name
from miras_dsl.check.formula.complex_parts import real_formula
from miras_dsl.check.formula.elaborate import Entry, Scope, elaborate
from miras_dsl.check.formula.hoist_projections import Hoisted
from miras_dsl.check.formula.shapes import shown, to_axes
from miras_dsl.diagnostics import problem
from miras_dsl.spec import Apply, Axes, Expr, Number, Ref, State, iter_nodes
from miras_dsl.syntax import tree as syntax

from .weight_rules import rules_by_weight

ONE = sp.Integer(1)


@dataclass(slots=True)
class ResolvedAlgorithm:
    """The rules of an algorithm, before the formulas in them are read.

    names  parameter -> argument
    own    the rules are written in the memory itself and may use its names
    rates  named term -> rate, if the algorithm gives any
    """

    rules: syntax.Rules
    names: dict[str, Entry]
    own: bool
    rates: dict[str, Expr] = field(default_factory=dict)

    @property
    def eta(self) -> Expr | None:
        """The argument `eta`, the learning rate; None if the algorithm has no such parameter."""
        entry = self.names.get("eta")
        return entry if isinstance(entry, Number | Ref | Apply) else None


@dataclass(frozen=True, slots=True)
class CheckedRules:
    """Rules as (target, formula), the names of carried tensors, and whether each is for one weight."""

    rules: tuple[tuple[str, Expr], ...]
    carry: tuple[str, ...]
    by_weight: bool


def rules_of(
    choice: ResolvedAlgorithm,
    scope: Scope,
    sizes: AxisSizes,
    hoisted: Hoisted,
    built: Architecture,
) -> CheckedRules:
    """The rules of an algorithm, for every weight or each for one.  Raises Problem."""
    rules, axes = choice.rules, weight_axes(built.states)
    weights = {state.name for state in built.states} | set(built.complex)
    named = {t.name for b in rules.bindings for t in b.targets} & weights
    if choice.own and len(built.states) > 1 and named:
        return CheckedRules(rules_by_weight(rules, scope, sizes, hoisted, built), (), True)
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
        elsewhere={**scope.elsewhere, **_elsewhere_in_rules(weights, scope)},
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
                    help=f"write `{{ carry {target.name}  {target.name} = …  W = … }}`"
                    if binding.value is not None and not target.entries
                    else f"write `{target.name} = …`, a formula of the weight's shape",
                )
            if any(name == target.name for name, _ in made):
                raise problem("M0605", f"`{target.name}` is set twice", target.span, "again")
            expr = hoisted.hoist(real_formula(elaborate(binding.value, inner), "a rule"))
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
    return CheckedRules(tuple(made), rules.carry, False)


def weight_axes(states: list[State]) -> Axes:
    """The axes of `W` in a rule: those of the weights, or ("row", "column") where these differ."""
    return states[0].axes if len({s.axes for s in states}) == 1 else ("row", "column")


def _elsewhere_in_rules(weights: set[str], scope: Scope) -> dict[str, str]:
    tokens = "a rule sees no tokens: it is about `grad`, `keep(W)`, carried tensors and gates"
    found = dict.fromkeys(("query", "key", "value", "r", "M"), tokens)
    return {
        **found,
        **dict.fromkeys(weights - {"W"}, "in a rule `W` stands for each weight in turn"),
    }


def _keep(node: syntax.Call, scope: Scope, axes: Axes) -> Expr:
    value = node.arguments[0].value if len(node.arguments) == 1 else None
    if not (isinstance(value, syntax.Name) and value.name == "W"):
        raise problem(
            "M0605",
            "`keep` takes W: the weight after its retention",
            node.span,
            "not so here",
            help="write `keep(W)`; in a rule `W` stands for each weight in turn",
        )
    return Ref("W", "keep", axes, node.span)


def references_in(expr: Expr) -> list[Ref]:
    """Every name in a formula, as often as it occurs."""
    return [n for n in iter_nodes(expr) if isinstance(n, Ref)]
