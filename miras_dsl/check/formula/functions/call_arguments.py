"""The arguments of a function in a formula, by name."""

from __future__ import annotations

from miras_dsl.diagnostics import problem
from miras_dsl.spec import Axes, Expr
from miras_dsl.suggestions import argument_help
from miras_dsl.syntax import tree as syntax

REQUIRED = object()
"""Stands for an argument that must be given."""


def arguments(node: syntax.Call, signature: dict[str, object]) -> dict[str, syntax.Formula]:
    """Name -> written argument.  Raises Problem for one that is missing, unknown or given twice.

    signature  all names in order, with REQUIRED for those that must be given
    """
    names = list(signature)
    found: dict[str, syntax.Formula] = {}
    for place, argument in enumerate(node.arguments):
        if argument.name is None and place >= len(names):
            raise problem(
                "M0205",
                f"`{node.name}` takes {_counted(len(names), 'argument')}",
                argument.span,
                f"here are {len(node.arguments)}",
                help=f"`{node.name}({', '.join(names)})`",
            )
        name = argument.name or names[place]
        if name not in signature:
            raise problem(
                "M0206",
                f"`{node.name}` has no argument `{name}`",
                argument.span,
                "unknown argument",
                help=argument_help(node.name, name, names),
            )
        if name in found:
            raise problem("M0207", f"`{name}` is given twice", argument.span, "again")
        found[name] = argument.value
    missing = [n for n, kind in signature.items() if kind is REQUIRED and n not in found]
    if missing:
        raise problem(
            "M0205",
            f"`{node.name}` needs `{missing[0]}`",
            node.span,
            f"{_counted(len(found), 'argument')} here",
            help=f"`{node.name}({', '.join(names)})`",
        )
    return found


def vector(x: Expr, node: syntax.Call) -> None:
    """Raise Problem unless an argument is a vector."""
    if not x.axes:
        raise problem(
            "M0212",
            f"`{node.name}` takes a vector",
            x.span,
            "one number",
            help="a vector has an axis, such as [key]; a number has none",
        )


def left_of(x: Expr, over: Axes) -> Axes:
    """The axes that are left when some are summed over."""
    return tuple(a for a in x.axes if a not in over)


def _counted(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"
