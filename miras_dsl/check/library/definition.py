"""Checks definitions of a file: their parameters, and the names in those that no memory uses.

The body of a definition that is used is checked where it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from miras_dsl.check.formula.functions.complex_functions import ALL_FUNCTIONS as FUNCTIONS
from miras_dsl.diagnostics import Label, problem
from miras_dsl.suggestions import did_you_mean
from miras_dsl.syntax import tree as syntax

GIVEN = {
    "bias": ("r", "key", "value", "query"),
    "retention": ("w", "w0", "a", "eta", "rows"),
    "algorithm": ("W", "grad"),
    "architecture": (),
}
"""Kind of definition -> names that it may use besides its parameters."""
CALLS = {"bias": ("M",), "retention": ("simplex",), "algorithm": ("keep",), "architecture": ()}


def check_definition(item: syntax.Definition, used: bool) -> None:
    """Raise Problem for a parameter given twice and, if ``used`` is False, for unknown names."""
    seen: dict[str, syntax.Parameter] = {}
    for param in item.params:
        if param.name in seen:
            raise problem(
                "M0109",
                f"`{param.name}` is a parameter twice",
                param.span,
                "again",
                because=(Label(seen[param.name].span, "first here"),),
            )
        seen[param.name] = param
    if used:
        return
    known = {*seen, *GIVEN[item.kind], *_own(item.body)}
    for node in _names(item.body):
        if isinstance(node, syntax.Call):
            if node.name not in {*FUNCTIONS, *CALLS[item.kind], *seen}:
                help = did_you_mean(node.name, FUNCTIONS)
                what = f"there is no function `{node.name}`"
                raise problem("M0202", what, node.name_span, "unknown function", help=help)
        elif node.name != "param" and node.name not in known:
            help = did_you_mean(node.name, known)
            what = f"`{node.name}` is not known in the {item.kind} `{item.name}`"
            raise problem("M0201", what, node.span, "unknown", help=help)


def references(item: syntax.Item) -> set[tuple[str, str]]:
    """(kind, name) of the definitions that a memory refers to."""
    if not isinstance(item, syntax.Memory):
        return set()
    found: set[tuple[str, str]] = set()
    for clause in item.clauses:
        parts = clause.content if isinstance(clause.content, tuple) else (clause.content,)
        for part in parts:
            head = part.body if isinstance(part, syntax.Term) else part
            if clause.word in GIVEN and isinstance(head, syntax.Name | syntax.Call):
                found.add((clause.word, head.name))
    return found


Body = (
    syntax.Formula | syntax.WriteForm | tuple[syntax.Form, ...] | syntax.Rules | syntax.NetworkBody
)


def _own(body: Body) -> set[str]:
    """The names that a body itself defines."""
    match body:
        case syntax.Rules(carry):
            return set(carry)
        case syntax.NetworkBody(weights, _, argument):
            return {argument, *(n for w in weights for n in w.names)}
        case _:
            return set()


def _names(body: Body | syntax.Form | None) -> Iterator[syntax.Name | syntax.Call]:
    """The names and calls in a body, in order."""
    match body:
        case syntax.Name():
            yield body
        case syntax.Call(_, arguments):
            yield body
            for argument in arguments:
                yield from _names(argument.value)
        case syntax.Unary(_, operand):
            yield from _names(operand)
        case syntax.Binary(_, left, right):
            yield from _names(left)
            yield from _names(right)
        case syntax.WriteForm(error, place):
            yield from _names(error)
            yield from _names(place)
        case syntax.Rules(_, bindings):
            for binding in bindings:
                yield from _names(binding.value)
        case syntax.NetworkBody():
            yield from _names(body.body)
        case syntax.Form(word, value, on):
            if word != "at":
                yield from _names(value)
                yield from _names(on)
        case tuple():
            for form in body:
                yield from _names(form)
        case syntax.Literal() | syntax.Index() | None:
            return
        case _:
            assert_never(body)
