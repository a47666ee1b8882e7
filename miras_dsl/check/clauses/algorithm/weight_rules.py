"""Rules of an algorithm that are written for single weights, by their names.

`algorithm { A = beta * keep(A) + key^2   W = keep(W) - eta * grad }`: a rule sees every weight, by its
name as the rules before have left it and with `keep(…)` as the retention has left it, and the tokens
and gates of the memory; `grad` is the gradient of the bias for its own weight.  `W` stands for each
weight that has no rule of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import sympy as sp

from miras_dsl.check.clauses.weights import Architecture, weight_entries
from miras_dsl.check.formula.axis_sizes import AxisSizes
from miras_dsl.check.formula.complex_parts import parts, real_formula
from miras_dsl.check.formula.elaborate import Entry, Scope, elaborate
from miras_dsl.check.formula.hoist_projections import Hoisted
from miras_dsl.check.formula.shapes import shown, to_axes
from miras_dsl.diagnostics import Label, problem
from miras_dsl.spec import Apply, Axes, Expr, Number, Ref, State, iter_nodes
from miras_dsl.suggestions import did_you_mean
from miras_dsl.syntax import tree as syntax


def rules_by_weight(
    rules: syntax.Rules,
    scope: Scope,
    sizes: AxisSizes,
    hoisted: Hoisted,
    built: Architecture,
) -> tuple[tuple[str, Expr], ...]:
    """(weight, formula of its new value) in order.  Raises Problem."""
    known = weights_of(built)
    if rules.carry:
        raise problem(
            "M0605",
            f"`{rules.carry[0]}` is carried for every weight, and these rules are for single ones",
            rules.span,
            "rules by name",
            help=f"make it a weight, `{rules.carry[0]}: matrix[value, key] = zero`, with a rule of its own",
        )
    written = _written(rules, known)
    made: list[tuple[str, Expr]] = []
    for binding in rules.bindings:
        for target in binding.targets:
            own = [target.name] if target.name in known else [n for n in known if n not in written]
            assert binding.value is not None
            for name in own:
                made += _rule(binding.value, name, scope, sizes, hoisted, built)
    missing = [state for state in built.states if state.name not in dict(made)]
    if missing:
        raise problem(
            "M0605",
            f"no rule sets `{missing[0].name}`",
            rules.span,
            "missing",
            because=(Label(missing[0].span, "a weight of this memory"),),
            help=f"add `{missing[0].name} = …`, or one rule for all others: "
            "`W = keep(W) - eta * grad`",
        )
    return tuple(made)


def weights_of(built: Architecture) -> dict[str, list[State]]:
    """The weights that a rule may set: name -> the weight, or the two parts of a complex one."""
    parts = {state.name for pair in built.complex.values() for state in pair}
    real = {state.name: [state] for state in built.states if state.name not in parts}
    return {**real, **{name: list(pair) for name, pair in built.complex.items()}}


def _written(rules: syntax.Rules, known: Mapping[str, list[State]]) -> set[str]:
    """The weights with a rule of their own.  Raises Problem for other targets and for one set twice."""
    written: set[str] = set()
    for binding in rules.bindings:
        for target in binding.targets:
            name = target.name
            if name not in (*known, "W") or target.entries or binding.value is None:
                raise problem(
                    "M0605",
                    f"a rule sets a weight, not `{name}`",
                    target.span,
                    "not so",
                    help=did_you_mean(name, known)
                    or "write `W = …`, a formula of the weight's shape",
                )
            if name in written:
                raise problem("M0605", f"`{name}` is set twice", target.span, "again")
            written.add(name)
    return written


def _rule(
    value: syntax.Formula,
    name: str,
    scope: Scope,
    sizes: AxisSizes,
    hoisted: Hoisted,
    built: Architecture,
) -> list[tuple[str, Expr]]:
    """The rule of one weight; of a complex one, a rule for each part."""
    states = weights_of(built)[name]
    axes = states[0].axes
    names: dict[str, Entry] = {n: _of_weight(e, axes) for n, e in scope.names.items()}
    names |= weight_entries(built.states, built.complex, "newest")
    names.setdefault("W", names[name])
    pairs = {name: (states[0], states[1])} if len(states) > 1 else {}
    names["grad"] = weight_entries(states, pairs, "grad")[name]
    inner = replace(
        scope,
        names=names,
        place="a rule",
        own=axes,
        functions={**scope.functions, "keep": partial(_keep, own=name, built=built)},
        network=None,
        network_names=(),
        elsewhere={
            **scope.elsewhere,
            **dict.fromkeys(("r", "M"), "in a rule the weights stand by their names: `W @ key`"),
        },
    )
    found = elaborate(value, inner)
    sides: tuple[Expr | None, ...]
    if len(states) > 1:
        real, imaginary = parts(found)
        sides = (real, Number(sp.Integer(0), value.span) if imaginary is None else imaginary)
    else:
        sides = (real_formula(found, f"`{name}`"),)
    made = []
    for state, side in zip(states, sides, strict=True):
        assert side is not None
        expr = hoisted.hoist(side)
        met = to_axes(expr, axes, sizes.sizes)
        if met is None or not (set(met.axes) == set(axes) or isinstance(side, Number)):
            raise problem(
                "M0203",
                f"`{name}` has the weight's shape, its rule has not",
                value.span,
                f"{shown(expr.axes)} here",
                because=(Label(state.span, f"{shown(axes)}"),),
            )
        # Both parts of a complex weight are set at once: neither rule sees what the other has set.
        own = {s.name for s in states} if len(states) > 1 else set()
        made.append((state.name, _before(met, own)))
    return made


def _before(expr: Expr, own: set[str]) -> Expr:
    """A formula in which some weights stand as the retention has left them."""
    done: dict[int, Expr] = {}
    for node in iter_nodes(expr):
        if isinstance(node, Ref) and node.kind == "newest" and node.name in own:
            done[id(node)] = replace(node, kind="keep")
        elif isinstance(node, Apply):
            done[id(node)] = replace(node, args=tuple(done[id(a)] for a in node.args))
        else:
            done[id(node)] = node
    return done[id(expr)]


def _of_weight(entry: Entry, axes: Axes) -> Entry:
    """A gate per row with the row axis of the weight in its place."""
    if isinstance(entry, Ref) and entry.kind == "gate" and "row" in entry.axes:
        real = tuple(a for old in entry.axes for a in (axes[:1] if old == "row" else (old,)))
        return replace(entry, axes=real)
    return entry


def _keep(node: syntax.Call, scope: Scope, own: str, built: Architecture) -> Expr:
    value = node.arguments[0].value if len(node.arguments) == 1 else None
    name = value.name if isinstance(value, syntax.Name) else ""
    kept = weight_entries(built.states, built.complex, "keep")
    if name == "W" and "W" not in kept:
        name = own
    if name not in kept:
        raise problem(
            "M0605",
            "`keep` takes a weight: its value after its retention",
            node.span,
            "not so here",
            help=f"write `keep({own})`",
        )
    found = kept[name]
    return found(node.span) if callable(found) else replace(found, span=node.span)  # type: ignore
