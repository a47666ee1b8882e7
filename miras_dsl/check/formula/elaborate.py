"""From written formulas (`syntax`) to typed formulas (`spec`): names resolved, shapes known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import assert_never

from miras_dsl.diagnostics import Problem, problem
from miras_dsl.source import NOWHERE, Span
from miras_dsl.spec import Apply, Axes, Axis, Expr, Number, Ref
from miras_dsl.suggestions import ALIASES, did_you_mean, is_absent
from miras_dsl.syntax import tree as syntax

from .constant_folding import fold_operation
from .expansion_limit import ExpandedSize, expanded_size
from .shapes import Sizes, contract

OPERATORS = {
    "+": "add", "-": "sub", "*": "mul", "/": "div", "^": "pow",
    "<": "lt", "<=": "le", ">": "gt", ">=": "ge", "==": "eq", "and": "and", "or": "or",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Operation:
    """A function that is an argument of a definition (`act = silu`)."""

    name: str


Entry = Expr | Operation | Callable[[Span], Expr]
Function = Callable[[syntax.Call, "Scope"], Expr]
GATED = frozenset(
    {"a bias", "a decay", "the algorithm", "a link", "a penalty", "a bregman", "a rule", "a read"}
)
"""Places in which an unknown name may be a gate that was not defined."""
LATER = frozenset(
    {
        "attend",
        "local",
        "gate",
        "lse",
        "product",
        "pooled",
        "blocks",
        "first",
        "mix",
    }
)


@dataclass(frozen=True, slots=True)
class Scope:
    """What a formula may use, which depends on where it is written.

    place          the clause, for messages: "a bias", "a gate"
    names          name -> what it means; a function is called with the span of each use
    sizes          axis -> size
    entry          from an axis written in brackets to its name
    own            the axes of what is being defined, which `linear` then has
    functions      name -> function
    features       whether learned maps of the layer's input are allowed
    network        M, applied to an argument
    network_names  the names of M
    indices        numbers that tell learned maps apart
    measured       sizes of formulas so far, for the limits
    elsewhere      names that are defined but not allowed here -> what to write instead
    """

    place: str
    names: Mapping[str, Entry]
    sizes: Sizes
    entry: Callable[[syntax.Formula, Scope], Axis]
    functions: Mapping[str, Function]
    own: Axes = ()
    features: bool = True
    network: Callable[[Expr, Span], Expr] | None = None
    network_names: tuple[str, ...] = ()
    indices: count[int] = field(default_factory=count)
    measured: dict[int, ExpandedSize] = field(default_factory=dict)
    elsewhere: Mapping[str, str] = field(default_factory=dict)

    def with_names(self, **names: Entry) -> Scope:
        """The same scope with more names, which replace others of the same name."""
        return replace(self, names={**self.names, **names})


def elaborate(node: syntax.Formula, scope: Scope) -> Expr:
    """The typed formula.  Raises Problem with the first mistake."""
    expr = _elaborate(node, scope)
    expanded_size(expr, node.span, scope.measured)
    return expr


def _elaborate(node: syntax.Formula, scope: Scope) -> Expr:
    match node:
        case syntax.Literal(value, span):
            return Number(value, span)
        case syntax.Name("param", span):
            return learned("param", (), (), (("init", 0.0),), scope, span)
        case syntax.Name(name, span):
            return resolve(name, span, scope)
        case syntax.Index("param", entries, span):
            return learned("param", (), axes_of(entries, scope), (("init", 0.0),), scope, span)
        case syntax.Index(name, _, span, name_span):
            resolve(name, name_span, scope)
            raise problem(
                "M0214",
                f"`{name}` cannot be indexed",
                span,
                "brackets name axes, they do not pick entries",
                help=f"write `{name}` alone; `param[key]` makes a learned vector",
            )
        case syntax.Call():
            return call(node, scope)
        case syntax.Unary("-", operand, span):
            return fold_operation("neg", (elaborate(operand, scope),), scope.sizes, span)
        case syntax.Unary("not", operand, span):
            return fold_operation("not", (elaborate(operand, scope),), scope.sizes, span)
        case syntax.Unary(_, operand, _):
            return elaborate(operand, scope)
        case syntax.Binary("@", left, right, span):
            return contract(elaborate(left, scope), elaborate(right, scope), scope.sizes, span)
        case syntax.Binary(op, left, right, span):
            args = (elaborate(left, scope), elaborate(right, scope))
            return fold_operation(OPERATORS[op], args, scope.sizes, span)
        case _:
            assert_never(node)


def resolve(name: str, span: Span, scope: Scope) -> Expr:
    """The meaning of a name.  Raises Problem for an unknown one, and for a function without arguments."""
    entry = scope.names.get(name)
    match entry:
        case Number() | Apply():
            return entry
        case Ref() if entry.span == NOWHERE:
            return replace(entry, span=span)
        case Ref():
            # An argument of a definition keeps its span: messages show what the caller wrote.
            return entry
        case Operation(function):
            raise problem(
                "M0201", f"`{name}` is the function `{function}`", span, "needs an argument"
            )
        case None:
            hint = scope.elsewhere.get(name) or did_you_mean(name, scope.names)
            if (
                scope.place in GATED
                and name.islower()
                and name not in scope.elsewhere
                and not is_absent(name)
                and name not in ALIASES
            ):
                close = hint.startswith("did you mean")
                define = f"efine it: `gates {{ {name} = sigmoid(linear(x)) }}`"
                hint = f"{hint} Or d{define}" if close else f"d{define}"
            if name in scope.functions or name in scope.network_names:
                hint = f"`{name}` is a function: write `{name}(…)`"
            raise problem(
                "M0201", f"`{name}` is not known in {scope.place}", span, "unknown", help=hint
            )
        case _:
            return entry(span)


def call(node: syntax.Call, scope: Scope) -> Expr:
    """A call of a function or of the network.  Raises Problem."""
    if node.name in scope.network_names and scope.network is not None:
        if len(node.arguments) != 1 or node.arguments[0].name:
            raise problem(
                "M0205", f"`{node.name}` takes one argument", node.span, "a vector to look up"
            )
        return scope.network(elaborate(node.arguments[0].value, scope), node.span)
    given = scope.names.get(node.name)
    name = given.name if isinstance(given, Operation) else node.name
    function = scope.functions.get(name)
    if function is None:
        raise _unknown_function(node, scope)
    return function(node, scope)


def axes_of(entries: tuple[syntax.Formula, ...], scope: Scope) -> Axes:
    """The axes written in brackets.  Raises Problem for an unknown one, and for one written twice."""
    axes = tuple(scope.entry(entry, scope) for entry in entries)
    if len(set(axes)) != len(axes):
        raise problem("M0208", "an axis stands here twice", entries[-1].span, "again")
    return axes


def learned(
    op: str,
    args: tuple[Expr, ...],
    axes: Axes,
    options: tuple[tuple[str, object], ...],
    scope: Scope,
    span: Span,
) -> Apply:
    """An operation with learned parameters, and an option ``index`` that tells it from others.

    Raises Problem where learned maps are not allowed.
    """
    if not scope.features:
        raise problem(
            "M0211",
            f"`{op}` is trained with the layer and cannot stand in {scope.place}",
            span,
            "a learned map",
            help="define a gate or a token with it, and use that here",
        )
    return Apply(op, args, axes, (*options, ("index", next(scope.indices))), span)


def integer_literal(
    node: syntax.Formula, scope: Scope, what: str, low: int = 1, high: int = 1 << 20
) -> int:
    """The value of a formula that must be a whole number from ``low`` to ``high``.  Raises Problem."""
    expr = elaborate(node, scope)
    if not (isinstance(expr, Number) and expr.value.is_Integer and low <= int(expr.value) <= high):
        raise problem(
            "M0213",
            f"{what} must be a whole number from {low} to {high}",
            node.span,
            "not such a number",
            help="write the number, or a parameter with a default such as `n = 2`",
        )
    return int(expr.value)


def constant(node: syntax.Formula, scope: Scope, what: str) -> Number:
    """The value of a formula that must be a constant.  Raises Problem."""
    expr = elaborate(node, scope)
    if not isinstance(expr, Number):
        raise problem(
            "M0213",
            f"{what} must be a number known when the file is read",
            node.span,
            "not a constant",
        )
    return expr


def _unknown_function(node: syntax.Call, scope: Scope) -> Problem:
    if node.name in LATER:
        what = f"`{node.name}(…)` is not part of this version of the language"
        return problem("M0105", what, node.span, "not yet a function")
    if node.name in scope.names:
        return problem(
            "M0202", f"`{node.name}` is not a function", node.name_span, "cannot be called"
        )
    hint = scope.elsewhere.get(node.name) or did_you_mean(node.name, scope.functions)
    return problem(
        "M0202",
        f"there is no function `{node.name}`",
        node.name_span,
        "unknown function",
        help=hint,
    )
