"""The `retention` clause: decay, potential, link or penalty, and where it acts."""

from __future__ import annotations

from dataclasses import replace

from miras_dsl.check.formula.elaborate import Entry, Scope, elaborate
from miras_dsl.check.formula.hoist_projections import Hoisted, gate_of
from miras_dsl.check.formula.shapes import shown
from miras_dsl.check.library.call import resolve_library_call
from miras_dsl.check.library.load import Library
from miras_dsl.diagnostics import Label, problem
from miras_dsl.spec import Axes, Decay, Expr, Number, Ref, Retention, State, Turn
from miras_dsl.suggestions import did_you_mean
from miras_dsl.syntax import tree as syntax

from .algorithm.rules import weight_axes
from .decay import decays_of, row_decay_axes
from .weights import Architecture

PLACES = ("token", "chunk")


def retention(
    clause: syntax.Clause,
    library: Library,
    scope: Scope,
    hoisted: Hoisted,
    built: Architecture,
    eta: Expr | None,
) -> Retention:
    """How the memory keeps its weights.  Raises Problem.

    eta  the learning rate of the algorithm, which a penalty may use; None if it has none
    """
    parts: tuple = clause.content  # type: ignore[assignment]
    if isinstance(parts[0], syntax.KeptWeight):
        return _by_weight(parts, clause, library, scope, hoisted, built, eta)
    return _of_weights(parts, clause, library, scope, hoisted, built, built.states, eta)


def _by_weight(
    parts: tuple[syntax.KeptWeight, ...],
    clause: syntax.Clause,
    library: Library,
    scope: Scope,
    hoisted: Hoisted,
    built: Architecture,
    eta: Expr | None,
) -> Retention:
    """The retention where it is written for each weight: decays, each with its weight."""
    written: dict[str, syntax.KeptWeight] = {}
    decays: list[Decay] = []
    turns: list[Turn] = []
    for part in parts:
        own = built.named(part.name)
        if not own:
            names = [*(s.name for s in built.states), *built.complex]
            raise problem(
                "M0514",
                f"`{part.name}` is not a weight of this memory",
                part.name_span,
                "unknown",
                help=did_you_mean(part.name, names),
            )
        if part.name in written:
            first = (Label(written[part.name].name_span, "first here"),)
            raise problem(
                "M0509", f"`{part.name}` is kept twice", part.name_span, "again", because=first
            )
        written[part.name] = part
        kept = _of_weights(part.parts, clause, library, scope, hoisted, built, own, eta, named=True)
        if kept.at is not None:
            raise problem(
                "M0514",
                "a potential, a link or a penalty holds for every weight",
                part.span,
                f"for `{part.name}` alone",
                help="weights may differ in their decays: `retention A: decay a, B: none`; another "
                "retention makes two memories, which a layer adds: `layer L = First + Second`",
            )
        decays += kept.decays
        turns += kept.turns
    covered = {state.name for name in written for state in built.named(name)}
    for state in built.states:
        if state.name not in covered:
            raise problem(
                "M0514",
                f"the retention says nothing about `{state.name}`",
                clause.span,
                f"no `{state.name}: …`",
                because=(Label(state.span, "a weight of this memory"),),
                help=f"add `, {state.name}: none` for a weight that is kept as it is",
            )
    return Retention(tuple(decays), tuple(turns), span=clause.span)


def _of_weights(
    parts: tuple[syntax.Form | syntax.Reference, ...],
    clause: syntax.Clause,
    library: Library,
    scope: Scope,
    hoisted: Hoisted,
    built: Architecture,
    states: list[State],
    eta: Expr | None,
    named: bool = False,
) -> Retention:
    first, inner = parts[0], scope
    forms = [p for p in parts if isinstance(p, syntax.Form)]
    if not isinstance(first, syntax.Form):
        if isinstance(first, syntax.Name) and first.name == "none":
            if forms:
                raise problem(
                    "M0509",
                    "`none` keeps everything; nothing can follow it",
                    forms[0].span,
                    "too much",
                )
            return Retention(span=clause.span)
        choice = resolve_library_call("retention", "M0501", first, library, also=("none",))
        values = choice.values.items()
        names: dict[str, Entry] = {n: hoisted.hoist(elaborate(v, scope)) for n, v in values}
        rate = scope.names.get("eta") if eta is None else eta
        if rate is not None:
            names.setdefault("eta", rate)
        inner = replace(scope, names=names, place=f"the retention `{choice.definition.name}`")
        body = choice.definition.body
        assert isinstance(body, tuple)
        for form in forms:
            if form.word != "at":
                raise problem(
                    "M0509",
                    f"`{form.word}` cannot be added to `{first.name}`",
                    form.span,
                    "too much",
                    help="only `at token` or `at chunk` follows a name from the library",
                )
        forms = [*body, *forms]
    elif eta is not None:
        inner = scope.with_names(**{n: e for n, e in {"eta": eta}.items() if n not in scope.names})
    return _build(forms, clause, inner, hoisted, built, states, named)


def _build(
    forms: list[syntax.Form],
    clause: syntax.Clause,
    inner: Scope,
    hoisted: Hoisted,
    built: Architecture,
    states: list[State],
    named: bool,
) -> Retention:
    found: dict[str, syntax.Form] = {}
    for form in forms:
        if form.word in found:
            first = (Label(found[form.word].span, "first here"),)
            raise problem(
                "M0509", f"`{form.word}` is written twice", form.span, "again", because=first
            )
        found[form.word] = form
    nonlinear = [found[w] for w in ("bregman", "link", "penalty") if w in found]
    if len(nonlinear) > 1:
        raise problem(
            "M0509",
            "a potential, a link and a penalty exclude each other",
            nonlinear[1].span,
            "the second of them",
            because=(Label(nonlinear[0].span, "the first"),),
        )
    axes = weight_axes(states)
    decays, turns = (
        decays_of(found["decay"], inner, hoisted, states, named, tuple(built.complex.values()))
        if "decay" in found
        else ((), ())
    )
    made = Retention(decays, turns, at=_place(found, nonlinear, clause), span=clause.span)
    for word, names in (("bregman", ("w",)), ("link", ("a",)), ("penalty", ("w", "w0"))):
        if word in found:
            expr = _formula(found[word], names, axes, inner, hoisted)
            made = replace(made, **{word: expr})
    on = found["bregman"].on if "bregman" in found else None
    if on is not None:
        made = replace(made, simplex=_simplex(on, inner, hoisted))
        _simplex_rules(made, found, on, states)
    return made


def _formula(
    form: syntax.Form, names: tuple[str, ...], axes: Axes, inner: Scope, hoisted: Hoisted
) -> Expr:
    duals: dict[str, Entry] = {n: Ref(n, "dual", axes) for n in names}
    scope = replace(inner.with_names(**duals), place=f"a {form.word}")
    expr = hoisted.hoist(elaborate(form.value, scope))
    if form.word == "link" and expr.axes != axes:
        raise problem(
            "M0203",
            "a link gives the whole weight",
            form.value.span,
            f"{shown(expr.axes)} here",
            help="it is a formula of `a`, which has the weight's shape",
        )
    return expr


def _place(
    found: dict[str, syntax.Form], nonlinear: list[syntax.Form], clause: syntax.Clause
) -> str | None:
    at = found.get("at")
    if at is None:
        if nonlinear:
            word = nonlinear[0].word
            raise problem(
                "M0504",
                f"say where this {'potential' if word == 'bregman' else word} acts",
                clause.span,
                "no `at token` or `at chunk`",
                help="add `at token` (after every write) or `at chunk` (at the ends of blocks)",
            )
        return None
    if not nonlinear:
        raise problem(
            "M0505",
            "`at` needs a potential, a link or a penalty",
            at.span,
            "nothing acts here",
            help="a decay acts where `order` puts it; leave `at` out",
        )
    word = at.value.name if isinstance(at.value, syntax.Name) else ""
    if word not in PLACES:
        raise problem("M0504", "`at` is followed by `token` or `chunk`", at.value.span, "neither")
    return word


def _simplex(on: syntax.Reference, inner: Scope, hoisted: Hoisted) -> Expr:
    shape = isinstance(on, syntax.Call) and on.name == "simplex" and len(on.arguments) == 2
    if not shape:
        raise problem(
            "M0506", "a domain is written `simplex(rows, total = c)`", on.span, "not a known domain"
        )
    assert isinstance(on, syntax.Call)
    rows, total = on.arguments
    if not (
        isinstance(rows.value, syntax.Name) and rows.value.name == "rows"
    ) or total.name not in (None, "total"):
        raise problem(
            "M0506", "a domain is written `simplex(rows, total = c)`", on.span, "not so here"
        )
    expr = elaborate(total.value, inner)
    gate = gate_of(expr, hoisted, "the total of a simplex", "M0506", total.value.span)
    if gate.axes or (isinstance(gate, Number) and gate.value <= 0):
        raise problem(
            "M0506", "the total of a simplex is one positive number", total.value.span, "not so"
        )
    return gate


def _simplex_rules(
    made: Retention, found: dict[str, syntax.Form], on: syntax.Reference, states: list[State]
) -> None:
    for state in states:
        if len(state.axes) != 2 or state.init != "positive":
            raise problem(
                "M0506",
                "rows on a simplex need weights that begin positive",
                on.span,
                "the simplex",
                because=(Label(state.span, f"`{state.name}` begins {state.init}"),),
                help="say `init = positive` in the mlp, or `W: matrix[value, key] = positive`",
            )
    if (axes := row_decay_axes(made, states)) is not None:
        raise problem(
            "M0507",
            "on a simplex a decay must be the same along each row",
            found["decay"].span,
            f"{shown(axes)} here",
            help="declare the gate as `[row]` or without axes",
        )
