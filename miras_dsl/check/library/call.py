"""Resolves a call of a library definition: which definition it is, and its arguments by parameter."""

from __future__ import annotations

from dataclasses import dataclass, field

from miras_dsl.diagnostics import problem
from miras_dsl.suggestions import did_you_mean
from miras_dsl.syntax import tree as syntax

from .load import Library

IMPLICIT = {"bias": "r"}
"""Kind -> name of a first parameter that a call does not write: the error `r` of a bias."""


@dataclass(frozen=True, slots=True)
class ResolvedCall:
    """A definition and its arguments.

    values   parameter -> argument or default
    written  the parameters that the call gives
    extra    further arguments, which the caller allows
    """

    definition: syntax.Definition
    values: dict[str, syntax.Formula]
    written: frozenset[str]
    extra: dict[str, syntax.Formula] = field(default_factory=dict)


def resolve_library_call(
    kind: str,
    code: str,
    reference: syntax.Reference,
    library: Library,
    *,
    also: tuple[str, ...] = (),
    extra: tuple[str, ...] = (),
    optional: tuple[str, ...] = (),
) -> ResolvedCall:
    """The definition that ``reference`` names, and its arguments.

    code      of the diagnostic if there is no such definition
    also      further names to suggest then
    extra     names of further arguments that are allowed
    optional  parameters without a default that may be missing

    Raises Problem.
    """
    definition = library.get((kind, reference.name))
    if definition is None:
        known = (*(name for k, name in library if k == kind), *also)
        raise problem(
            code,
            f"there is no {kind} called `{reference.name}`",
            reference.span,
            "unknown",
            help=did_you_mean(reference.name, known),
        )
    params = list(definition.params)
    if params and IMPLICIT.get(kind) == params[0].name:
        params = params[1:]
    names = [p.name for p in params]
    given: dict[str, syntax.Formula] = {}
    passed: dict[str, syntax.Formula] = {}
    arguments = reference.arguments if isinstance(reference, syntax.Call) else ()
    for place, argument in enumerate(arguments):
        if argument.name is None and place >= len(names):
            raise problem(
                "M0205",
                f"`{reference.name}` takes {len(names)} argument{'' if len(names) == 1 else 's'}",
                argument.span,
                "one too many",
                help=usage(definition, names, [n for n in passed if n in extra]),
            )
        name = argument.name or names[place]
        if name in given or name in passed:
            raise problem("M0207", f"`{name}` is given twice", argument.span, "again")
        if name in names:
            given[name] = argument.value
        elif name in extra:
            passed[name] = argument.value
        else:
            raise problem(
                "M0206",
                f"`{reference.name}` has no argument `{name}`",
                argument.span,
                "unknown argument",
                help=did_you_mean(name, (*names, *extra)),
            )
    written = frozenset(given)
    for param in params:
        if param.name not in given and param.default is not None:
            given[param.name] = param.default
        elif param.name not in given and param.name not in optional:
            raise problem(
                "M0205",
                f"`{reference.name}` needs `{param.name}`",
                reference.span,
                "missing",
                help=usage(definition, names, [n for n in passed if n in extra]),
            )
    return ResolvedCall(definition, given, written, passed)


def usage(definition: syntax.Definition, names: list[str], rates: list[str] | None = None) -> str:
    """How a definition is called; ``rates``: named terms whose rates stand for its `eta`."""
    if rates:
        rest = [f"{n} = {n}" for n in names if n != "eta"]
        names = [*(f"{n} = …" for n in rates), *rest]
    return (
        f"write `{definition.name}({', '.join(names)})`"
        if names
        else f"write `{definition.name}` alone"
    )
