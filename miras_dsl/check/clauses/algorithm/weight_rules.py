"""Rules of an algorithm that are written for single weights, by their names.

`algorithm { A = beta * keep(A) + key^2   W = keep(W) - eta * grad }`: a rule sees every weight, by its
name as the rules before have left it and with `keep(…)` as the retention has left it, and the tokens
and gates of the memory; `grad` is the gradient of the bias for its own weight.  `W` stands for each
weight that has no rule of its own.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from miras_dsl.check.formula.axis_sizes import AxisSizes
from miras_dsl.check.formula.elaborate import Entry, Scope, elaborate
from miras_dsl.check.formula.hoist_projections import Hoisted
from miras_dsl.check.formula.shapes import shown, to_axes
from miras_dsl.diagnostics import Label, problem
from miras_dsl.spec import Axes, Expr, Ref, State
from miras_dsl.suggestions import did_you_mean
from miras_dsl.syntax import tree as syntax


def rules_by_weight(
    rules: syntax.Rules,
    scope: Scope,
    sizes: AxisSizes,
    hoisted: Hoisted,
    states: list[State],
) -> tuple[tuple[str, Expr], ...]:
    """(weight, formula of its new value) in order.  Raises Problem."""
    known = {state.name: state for state in states}
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
                expr = _rule(binding.value, name, scope, sizes, hoisted, known)
                made.append((name, expr))
    missing = [state for state in states if state.name not in dict(made)]
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


def _written(rules: syntax.Rules, known: dict[str, State]) -> set[str]:
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
    known: dict[str, State],
) -> Expr:
    own = known[name]
    names: dict[str, Entry] = {n: _of_weight(e, own.axes) for n, e in scope.names.items()}
    names |= {state.name: Ref(state.name, "newest", state.axes) for state in known.values()}
    names.setdefault("W", Ref(name, "newest", own.axes))
    names["grad"] = Ref(name, "grad", own.axes)
    inner = replace(
        scope,
        names=names,
        place="a rule",
        own=own.axes,
        functions={**scope.functions, "keep": partial(_keep, own=own, known=known)},
        network=None,
        network_names=(),
        elsewhere={
            **scope.elsewhere,
            **dict.fromkeys(("r", "M"), "in a rule the weights stand by their names: `W @ key`"),
        },
    )
    expr = hoisted.hoist(elaborate(value, inner))
    met = to_axes(expr, own.axes, sizes.sizes)
    if met is None or set(met.axes) != set(own.axes):
        raise problem(
            "M0203",
            f"`{name}` has the weight's shape, its rule has not",
            value.span,
            f"{shown(expr.axes)} here",
            because=(Label(own.span, f"{shown(own.axes)}"),),
        )
    return met


def _of_weight(entry: Entry, axes: Axes) -> Entry:
    """A gate per row with the row axis of the weight in its place."""
    if isinstance(entry, Ref) and entry.kind == "gate" and "row" in entry.axes:
        real = tuple(a for old in entry.axes for a in (axes[:1] if old == "row" else (old,)))
        return replace(entry, axes=real)
    return entry


def _keep(node: syntax.Call, scope: Scope, own: State, known: dict[str, State]) -> Expr:
    value = node.arguments[0].value if len(node.arguments) == 1 else None
    name = value.name if isinstance(value, syntax.Name) else ""
    if name == "W" and "W" not in known:
        name = own.name
    if name not in known:
        raise problem(
            "M0605",
            "`keep` takes a weight: its value after its retention",
            node.span,
            "not so here",
            help=f"write `keep({own.name})`",
        )
    return Ref(name, "keep", known[name].axes, node.span)
