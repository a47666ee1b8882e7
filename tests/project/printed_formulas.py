"""Reads printed formulas back with the language's own parser, and computes them in float64."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import sympy as sp

from miras_dsl.check.formula.elaborate import Scope, elaborate
from miras_dsl.check.formula.functions.builtins import FUNCTIONS
from miras_dsl.codegen.analysis.function_calls import DEFINITIONS
from miras_dsl.codegen.model.lower import lower
from miras_dsl.ir import Axis, Input, Node, Role, axes_of, axis_names, inputs_of, ordered
from miras_dsl.ir.interpreter import Array, evaluate
from miras_dsl.ir.notation.scalar_printer import defined_functions
from miras_dsl.ir.notation.style import TEXT
from miras_dsl.source import Source
from miras_dsl.spec import Expr, Number, Ref
from miras_dsl.syntax import tree as syntax
from miras_dsl.syntax.parser import parse


@dataclass
class Reader:
    """Computes assignments in the language, one after the other.

    sizes   of every axis; `spelled` has them over the size parameters, `words` the values of these
    kinds   of names, as `Ref` has them: gates and constants scale, other vectors do not
    values  arrays by name, with their axes in the spec's order
    """

    sizes: Mapping[Axis, int]
    spelled: Mapping[Axis, sp.Expr]
    words: Mapping[str, int]
    kinds: dict[str, str] = field(default_factory=dict)
    axes: dict[str, tuple[Axis, ...]] = field(default_factory=dict)
    values: dict[str, Array] = field(default_factory=dict)

    def put(self, name: str, axes: tuple[Axis, ...], value: Array, kind: str) -> None:
        """Give a name a value, whose axes stand in the order of `ordered`."""
        self.axes[name], self.values[name], self.kinds[name] = axes, value, kind

    def assign(self, name: str, text: str) -> Array:
        """Compute a formula and keep it under a name."""
        expr = self.expr(text)
        node = lower(expr, self._node)
        given: dict[Input, Array] = {}
        for x in inputs_of([node]):
            given[x] = self.values[x.name]
        (value,) = evaluate([node], given, self.sizes)
        axes = self.axes.get(name, axes_of(expr.axes))
        self.put(name, axes, _broadcast(value, node, axes, self.sizes), "newest")
        return self.values[name]

    def expr(self, text: str) -> Expr:
        """A formula as the checker reads it."""
        return elaborate(formula_of(text), self.scope())

    def scope(self) -> Scope:
        names: dict[str, Expr] = {
            n: Ref(n, kind, axis_names(self.axes[n])) for n, kind in self.kinds.items()
        }
        names["pi"] = Number(sp.Float(sp.pi))
        for word, size in self.words.items():
            names.setdefault(word, Number(sp.Integer(size)))
        sizes = {axis.name: size for axis, size in self.spelled.items()}
        functions = {**FUNCTIONS, **{n: _defined(*d) for n, d in primed().items()}}
        return Scope("a rule", names, sizes, _no_brackets, functions, features=False)

    def _node(self, ref: Ref) -> Node:
        return Input(ref.name, ordered(self.axes[ref.name]), Role.WEIGHT)


def _no_brackets(node: syntax.Formula, scope: Scope) -> str:
    raise AssertionError(f"brackets in a printed formula: {node}")


def _broadcast(
    value: Array, node: Node, axes: tuple[Axis, ...], sizes: Mapping[Axis, int]
) -> Array:
    if node.axes == ordered(axes):
        return value
    shape = [sizes[a] if a in node.axes else 1 for a in ordered(axes)]
    return np.broadcast_to(np.reshape(value, shape), [sizes[a] for a in ordered(axes)])


def formula_of(text: str) -> syntax.Formula:
    """A formula through the parser: as the body of a bias."""
    file = parse(Source("printed.mem", f"bias printed = {_unprimed(text)}"))
    (item,) = file.items
    return item.body


def _unprimed(text: str) -> str:
    return re.sub(r"([a-z_]+)'\(", r"\1_prime(", text)


def primed() -> dict[str, tuple[tuple[str, ...], str]]:
    """Functions that are printed with a prime -> their arguments and printed definition."""
    from miras_dsl.ir.notation.named_functions import DEFINED

    lines = [f"{left} = {right}" for left, right in defined_functions(DEFINED, TEXT)]
    lines.append(DEFINITIONS["layernorm'"])
    found = {}
    for line in lines:
        left, _, right = line.partition(" = ")
        name, _, given = left.partition("(")
        body, _, inner = right.partition(", where n = ")
        if inner:
            body = re.sub(r"\bn\b", f"({inner})", body)
        if name.endswith("'") or name == "asinh":
            key = name.replace("'", "_prime")
            found[key] = (tuple(given.rstrip(")").split(", ")), body)
    return found


def _defined(parameters: tuple[str, ...], body: str):
    def function(node: syntax.Call, scope: Scope) -> Expr:
        given = [elaborate(a.value, scope) for a in node.arguments]
        inner = scope.with_names(**dict(zip(parameters, given, strict=True)))
        return elaborate(formula_of(body), inner)

    return function
