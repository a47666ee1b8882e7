"""Definitions of a file that no memory uses yet: their heads are checked, their bodies on use."""

from __future__ import annotations

from . import syntax
from .diagnostics import Label, problem
from .library import Library


def definition(item: syntax.Definition, library: Library) -> None:
    """Refuse parameters with the same name and parts that stand twice."""
    assert (item.kind, item.name) in library
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
