"""The `bias` clause: losses and given writes, with the library inlined."""

from __future__ import annotations

from dataclasses import replace

from miras_dsl.check.formula.axis_sizes import free_name
from miras_dsl.check.formula.complex_parts import real_formula
from miras_dsl.check.formula.constant_folding import fold_operation
from miras_dsl.check.formula.elaborate import Entry, Scope, elaborate, resolve
from miras_dsl.check.formula.hoist_projections import Hoisted
from miras_dsl.check.formula.shapes import shown, to_axes
from miras_dsl.check.library.call import ResolvedCall, resolve_library_call
from miras_dsl.check.library.load import Library
from miras_dsl.diagnostics import problem
from miras_dsl.source import Span
from miras_dsl.spec import Expr, Loss, Number, Ref, Term, Write, iter_nodes
from miras_dsl.syntax import tree as syntax


def terms(
    clause: syntax.Clause, library: Library, scope: Scope, hoisted: Hoisted, one: Number
) -> list[Term]:
    """The terms of the bias.  Raises Problem.

    one  the rate of every term, until the algorithm has given it another
    """
    written: tuple[syntax.Term, ...] = clause.content  # type: ignore[assignment]
    if len(written) > 1:
        for term in written:
            if term.name is None:
                raise problem(
                    "M0405",
                    "several terms of a bias need names",
                    term.span,
                    "no name",
                    help="write `erase: …, store: …`",
                )
    names = [t.name for t in written if t.name]
    for place, term in enumerate(written):
        if term.name is not None:
            free_name(term.name, term.span, "a term")
        if term.name in names[:place] and term.name:
            raise problem("M0109", f"two terms are called `{term.name}`", term.span, "again")
    return [_term(term, library, scope, hoisted, one) for term in written]


def _term(term: syntax.Term, library: Library, scope: Scope, hoisted: Hoisted, one: Number) -> Term:
    body = term.body
    name = term.name or ""
    if isinstance(body, syntax.Name | syntax.Call) and ("bias", body.name) in library:
        choice = resolve_library_call("bias", "M0401", body, library)
        scope = _inside(choice, scope, hoisted)
        body = choice.definition.body  # type: ignore[assignment]
    elif _is_unknown_library_name(body, scope):
        assert isinstance(body, syntax.Name | syntax.Call)
        resolve_library_call("bias", "M0401", body, library)
    if "r" not in scope.names:
        scope = scope.with_names(r=_error(scope))
    match body:
        case syntax.WriteForm(error, place, span):
            wanted = ("value",)
            place_ = hoisted.hoist(real_formula(elaborate(place, scope), "the place of a write"))
            written = real_formula(elaborate(error, scope), "what is written")
            met = to_axes(hoisted.hoist(written), wanted, scope.sizes)
            if met is None or met.axes != wanted:
                raise problem(
                    "M0404",
                    "a write puts a [value] at a place",
                    error.span,
                    "not a [value]",
                    help="`write E at K` adds outer(E, K); E is what the memory gets wrong",
                )
            assert scope.network is not None
            answer = scope.network(place_, span)
            return Write(name, met, place_, answer, one, term.span)
        case formula:
            assert not isinstance(formula, tuple | syntax.Rules | syntax.NetworkBody)
            loss = hoisted.hoist(real_formula(elaborate(formula, scope), "a bias"))
            return Loss(name, _checked(loss, term), one, term.span)


def _checked(loss: Expr, term: syntax.Term) -> Expr:
    if loss.axes:
        raise problem(
            "M0212",
            "a bias is one number, to be made small",
            term.span,
            f"{shown(loss.axes)} here",
            help="write `sum(…)` around it",
        )
    if not any(isinstance(n, Ref) and n.kind == "state" for n in iter_nodes(loss)):
        raise problem(
            "M0403",
            "this bias does not depend on the memory, so nothing would be learned",
            term.span,
            "no weight and no `M(…)` here",
            help="compare the memory's answer with the value: `sum((M(key) - value)^2) / 2`",
        )
    return loss


def _inside(choice: ResolvedCall, scope: Scope, hoisted: Hoisted) -> Scope:
    """The scope of a library bias: its parameters, key, value, query and M; no other name of the spec."""
    own = {k: v for k, v in scope.names.items() if k in ("key", "value", "query")}
    values = choice.values.items()
    given: dict[str, Entry] = {
        name: hoisted.hoist(elaborate(value, scope)) for name, value in values
    }
    return replace(scope, names={**own, **given}, place=f"the bias `{choice.definition.name}`")


def _is_unknown_library_name(body: syntax.Formula | syntax.WriteForm, scope: Scope) -> bool:
    match body:
        case syntax.Name(name):
            return name not in scope.names and name != "r"
        case syntax.Call(name):
            return name not in scope.functions and name not in scope.network_names
        case _:
            return False


def _error(scope: Scope) -> Entry:
    """`r`, the error ``M(key) - value``, made anew at each use so that it has its span."""

    def error(span: Span) -> Expr:
        assert scope.network is not None
        key, value = resolve("key", span, scope), resolve("value", span, scope)
        return fold_operation("sub", (scope.network(key, span), value), scope.sizes, span)

    return error
