"""The axes of a memory and their sizes, as expressions of its size parameters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product
from keyword import iskeyword

import sympy as sp

from miras_dsl.diagnostics import Label, Problem, problem
from miras_dsl.source import Span
from miras_dsl.spec import Apply, Axis, Expr, Number, Ref, iter_nodes
from miras_dsl.suggestions import did_you_mean
from miras_dsl.syntax import tree as syntax

from .elaborate import Scope, elaborate

CLAUSES = frozenset(
    {"tokens", "architecture", "bias", "retention", "algorithm", "order", "read", "gates"}
)
RESERVED = CLAUSES | {
    "memory", "layer", "model", "space", "pattern", "write", "at", "decay", "bregman", "link",
    "penalty", "on", "carry", "repeat", "with", "and", "or", "not", "x", "param", "position",
    "grad", "keep", "M", "head", "heads",
}  # fmt: skip
LARGE = 4096
"""The largest value of a size parameter at which sizes made of it are tried."""
NAMED = ("key", "value", "pair", "row", "position")


def free_name(name: str, span: Span, what: str, words: frozenset[str] = RESERVED) -> None:
    """Raise Problem for ``words`` of the language, and for names that Python code cannot have."""
    if name in words or name.startswith("_") or iskeyword(name):
        raise problem(
            "M0108",
            f"`{name}` is reserved and cannot name {what}",
            span,
            "names do not begin with `_`" if name.startswith("_") else "a reserved word",
            help=f"take another name, such as `my_{name.strip('_') or 'gate'}`",
        )


@dataclass(slots=True)
class AxisSizes:
    """The sizes of all axes of a memory; hidden axes are added when a formula mentions their size.

    params      size parameter -> default
    sizes       axis -> size
    vector      the weights are vectors: all tokens have the axis `value`, and `key` means it too
    pairs       (key, value) pairs of a token
    single_row  the row axis of the only weight, which `row` means; None if there are several
    taken       name -> where it is defined and what it names
    layers      number of hidden axes so far
    """

    params: dict[str, int | None]
    sizes: dict[Axis, sp.Expr] = field(default_factory=dict)
    vector: bool = False
    pairs: int = 1
    single_row: Axis | None = None
    taken: dict[str, tuple[Span, str]] = field(default_factory=dict)
    layers: int = 0

    def claim(self, name: str, span: Span, what: str) -> None:
        """Define a name in the memory.  Raises Problem if it is taken or a word of the language."""
        free_name(name, span, what)
        if name in self.taken:
            where, other = self.taken[name]
            raise problem(
                "M0109",
                f"`{name}` is already {other}",
                span,
                "defined again",
                because=(Label(where, "first defined here"),),
                help="give one of them another name",
            )
        self.taken[name] = (span, what)

    def hidden(self, size: sp.Expr) -> Axis:
        """The hidden axis of this size, which is made if there is none."""
        for axis, known in self.sizes.items():
            if known == size and axis.startswith("h"):
                return axis
        return self.layer(size)

    def layer(self, size: object) -> Axis:
        """A new hidden axis."""
        assert isinstance(size, sp.Expr)
        self.layers += 1
        axis = f"h{self.layers}"
        self.sizes[axis] = size
        return axis

    def second(self, first: Axis, size: sp.Expr) -> Axis:
        """A hidden axis of the same size as ``first``, for a matrix from one to the other."""
        for axis, known in self.sizes.items():
            if known == size and axis.startswith("h") and axis != first:
                return axis
        return self.layer(size)

    def twins(self, a: Axis, b: Axis) -> bool:
        """Whether two axes have the same size."""
        return self.sizes.get(a) == self.sizes.get(b)

    def named(self, entries: Iterable[syntax.Formula]) -> bool:
        """Whether one of the axes is written by its name rather than by its size."""
        return any(isinstance(e, syntax.Name) and e.name in NAMED for e in entries)

    def entry(self, node: syntax.Formula, scope: Scope) -> Axis:
        """The axis that ``node`` denotes, by its name or by its size.  Raises Problem if there is none."""
        if isinstance(node, syntax.Name) and node.name in NAMED:
            return self._by_name(node)
        if isinstance(node, syntax.Name) and node.name not in self.params:
            raise _unknown_axis(node, scope)
        size = size_of(node, scope)
        own = next((a for a in scope.own if self.sizes.get(a) == size), None)
        if own is not None:
            return own
        if isinstance(node, syntax.Name) and self.pairs > 1 and size == self.pairs:
            return "pair"
        for axis in ("value", "key") if self.vector else ("key", "value"):
            if self.sizes.get(axis) == size:
                return axis
        if self.pairs > 1 and size == self.pairs:
            return "pair"
        if scope.place == "the architecture":
            return self.hidden(size)
        known = next((a for a, s in self.sizes.items() if s == size and a.startswith("h")), None)
        if known is None:
            raise _no_such_size(node, self)
        return known

    def _by_name(self, node: syntax.Name) -> Axis:
        match node.name:
            case "key" if self.vector:
                return "value"
            case "row" if self.single_row is not None:
                return self.single_row
            case "pair" if self.pairs <= 1:
                raise problem(
                    "M0208",
                    "this memory has one pair per token",
                    node.span,
                    "no axis of pairs",
                    help="add `pairs(n)` to the algorithm",
                )
            case name:
                return name


def size_of(node: syntax.Formula, scope: Scope) -> sp.Expr:
    """The size that is written: whole numbers and size parameters under + - * /.  Raises Problem."""
    return _size(elaborate(node, scope), node)


def _size(expr: Expr, node: syntax.Formula) -> sp.Expr:
    done: dict[int, sp.Expr] = {}
    for part in iter_nodes(expr):
        match part:
            case Number(value):
                done[id(part)] = value
            case Ref(name, "size"):
                done[id(part)] = sp.Symbol(name)
            case Apply("add", (a, b)):
                done[id(part)] = done[id(a)] + done[id(b)]
            case Apply("sub", (a, b)):
                done[id(part)] = done[id(a)] - done[id(b)]
            case Apply("mul", (a, b)):
                done[id(part)] = done[id(a)] * done[id(b)]
            case Apply("div", (a, b)):
                done[id(part)] = done[id(a)] / done[id(b)]
            case _:
                raise _unknown_axis(node)
    size = done[id(expr)]
    if size.has(sp.zoo, sp.nan, sp.oo):
        raise problem("M0215", "this size divides by zero", node.span, "no such size")
    if isinstance(size, sp.Number) and not (size.is_Integer and 1 <= int(size) <= 1 << 20):
        raise problem(
            "M0213", "a size is a whole number from 1 to 1048576", node.span, "not such a number"
        )
    if (small := _not_positive(size)) is not None:
        raise problem(
            "M0213",
            "a size is a whole number from 1 to 1048576",
            node.span,
            f"this is {small}",
            help="a size must be above 0 for every value of its parameters, as `4 * d` and `d + 1` are",
        )
    return size


def _not_positive(size: sp.Expr) -> str | None:
    """Values of the parameters at which a size is 0 or less, in words; None where none was found.

    A fraction is rounded down, so it must be 1 or more where the parameters are large.
    """
    names = sorted(size.free_symbols, key=str)
    for values in product((1, 2, 3, 7, 64, LARGE), repeat=min(len(names), 4)):
        given = {name: sp.Integer(value) for name, value in zip(names, values, strict=False)}
        found = size.xreplace(given)
        least = 1 if all(value == LARGE for value in values) else 0
        if not found.is_finite or found <= 0 or found < least:
            said = ", ".join(f"{name} = {value}" for name, value in given.items())
            return f"{found} at {said}" if found.is_finite else f"no number at {said}"
    return None


def _no_such_size(node: syntax.Formula, sizes: AxisSizes) -> Problem:
    """The problem of a token or gate with a size that no axis of the memory has."""
    said = [f"{axis} ({sizes.sizes[axis]})" for axis in ("key", "value") if axis in sizes.sizes]
    said += [f"a hidden axis ({s})" for a, s in sizes.sizes.items() if a.startswith("h")]
    return problem(
        "M0208",
        f"no axis of this memory has the size `{node.span.text}`",
        node.span,
        f"its axes are {', '.join(said)}",
        help="tokens and gates have axes of the weights: `memory M(dk, dv)` gives values a size of their "
        "own, and `pairs(n)` in the algorithm gives a token n keys and values",
    )


def _unknown_axis(node: syntax.Formula, scope: Scope | None = None) -> Problem:
    word = node.name if isinstance(node, syntax.Name) else ""
    return problem(
        "M0208",
        f"`{node.span.text}` is not an axis here",
        node.span,
        "not an axis",
        help=_axis_help(word, scope),
    )


def _axis_help(word: str, scope: Scope | None) -> str:
    if word in ("head", "heads"):
        return "every gate and token has one value for each head; `head` is its number in a formula"
    entries = scope.names.items() if scope else ()
    sizes = (n for n, e in entries if isinstance(e, Ref) and e.kind == "size")
    help = did_you_mean(word, (*NAMED[:4], *sizes)) if word else ""
    if help.startswith("did you mean"):
        return help
    if word and len(word) <= 8:
        head = f"memory M(d, {word} = 4)"
        return f"axes are key, value, row and pair, or a size that the head names: `{head}`"
    return "axes are key, value, row and pair, or a size made of whole numbers and size parameters"
