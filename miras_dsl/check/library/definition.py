"""Definitions of a file: their heads always, their names too when no memory uses them."""

from __future__ import annotations

from collections.abc import Iterator

from miras_dsl.check.formula.builtins import FUNCTIONS
from miras_dsl.diagnostics import Label, did_you_mean, problem
from miras_dsl.syntax import tree as syntax

GIVEN = {
    "bias": ("r", "key", "value", "query"),
    "retention": ("w", "w0", "a", "eta", "rows"),
    "algorithm": ("W", "grad"),
    "architecture": (),
}
"""What each kind of definition can name besides its parameters."""
CALLS = {"bias": ("M",), "retention": ("simplex",), "algorithm": ("keep",), "architecture": ()}


def check_definition(item: syntax.Definition, used: bool) -> None:
    """Refuse a parameter that stands twice and, when nobody will read the body, unknown names."""
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
    """The definitions, by kind and name, that a memory may use."""
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


def _own(body: object) -> set[str]:
    match body:
        case syntax.Rules(carry):
            return set(carry)
        case syntax.NetworkBody(weights, _, argument):
            return {argument, *(n for w in weights for n in w.names)}
        case _:
            return set()


def _names(body: object) -> Iterator[syntax.Name | syntax.Call]:
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
        case syntax.Form(word, value, on) if word != "at":
            yield from _names(value)
            yield from _names(on)
        case tuple():
            for form in body:
                yield from _names(form)
        case _:
            return
