"""Logarithms and quotients of sums of exponentials, written so that nothing large arises on the way.

`log(sum(exp(r)))` subtracts the largest exponent, `log(1 + exp(r))` is a softplus, and
`exp(r) / (1 + exp(r))` a sigmoid.  Without this a bias of bounded slope is no number from 89 on in
single precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce

import sympy as sp

from miras_dsl.check.formula.exponentials import (
    Term,
    Terms,
    exponential_sum,
    stable_logarithm,
    stable_sum,
)
from miras_dsl.ir import (
    ZERO,
    Axes,
    AxisSize,
    Node,
    Number,
    Reduce,
    elementwise,
    reduce_sum,
)
from miras_dsl.scalar import functions as scalars
from miras_dsl.scalar.functions import OPERANDS
from miras_dsl.scalar.norms import fixed
from miras_dsl.spec import Apply, Expr, iter_nodes
from miras_dsl.spec import Number as Numeral

X, Y = OPERANDS[:2]
SUMS = frozenset({"sum", "mean", "contract", "softmax"})


class StableForms:
    """Writes formulas of exponentials as nodes.

    visit  the node of any formula
    axes   the axes that words stand for; None: only formulas that sum over none are written
    """

    def __init__(
        self, visit: Callable[[Expr], Node], axes: Callable[[Iterable[str]], Axes] | None = None
    ) -> None:
        self.visit, self._axes = visit, axes

    def axes(self, words: Iterable[str]) -> Axes:
        """The axes that words stand for."""
        if not (words := tuple(words)):
            return ()
        assert self._axes is not None
        return self._axes(words)

    def form(self, expr: Expr) -> Node | None:
        """A logarithm, a quotient or a negative power as a stable node; None for any other formula."""
        if self._axes is None and any(
            isinstance(part, Apply) and part.op in SUMS for part in iter_nodes(expr)
        ):
            return None
        match expr:
            case Apply("log", (x,)) if stable_logarithm(x) and not isinstance(x, Numeral):
                return self.logarithm(x)
            case Apply("div", (a, b)) if (below := stable_sum(b)) is not None:
                alone = len(below) == 1 and not below[0].over
                return None if alone else self._quotient(a, below)
            case Apply("pow", (x, Numeral(power))) if power < 0 and (below := stable_sum(x)):
                return elementwise(sp.exp(power * X), self._log_of_sum(below))
            case _:
                return None

    def logarithm(self, expr: Expr) -> Node:
        """The logarithm of a formula that has a stable one."""
        if (terms := stable_sum(expr)) is not None:
            return self._log_of_sum(terms)
        match expr:
            case Apply("mul" | "div" as op, (a, b)):
                sign = 1 if op == "mul" else -1
                return elementwise(X + sign * Y, self.logarithm(a), self.logarithm(b))
            case Apply("softmax", (x,)):
                over = expr.option("over", ())
                over = (over,) if isinstance(over, str) else tuple(over)  # type: ignore[arg-type]
                whole = self._log_of_sum((Term(sp.Integer(1), sp.Integer(1), x, over),))
                return elementwise(X - Y, self.visit(x), whole)
            case Numeral(value):
                return Number(sp.log(value))
        raise AssertionError("this formula has no stable logarithm")

    def _log_of_sum(self, terms: Terms) -> Node:
        """log(Σ c e^x), c > 0."""
        if any(term.over for term in terms):
            return self._log_of_long_sum(terms)
        # The number 1 stands last, so that log(1 + e^x) is a softplus and nothing else.
        ordered = sorted(terms, key=lambda term: term.base is None)
        if len(ordered) == 2 and _opposite(*ordered):
            first, factor = ordered[0], sp.log(2 * ordered[0].factor)
            return elementwise(scalars.logcosh(X) + factor, self._exponent(first))
        logs = [elementwise(X + sp.log(term.factor), self._exponent(term)) for term in ordered]
        return reduce(lambda a, b: elementwise(Y + scalars.softplus(X - Y), a, b), logs)

    def _log_of_long_sum(self, terms: Terms) -> Node:
        exponents = [self._exponent(term) for term in terms]
        tops: list[Node] = []
        for term, exponent in zip(terms, exponents, strict=True):
            over = tuple(a for a in self.axes(term.over) if a in exponent.axes)
            tops.append(Reduce("max", exponent, over) if over else exponent)
        largest = reduce(lambda a, b: elementwise(scalars.maximum(X, Y), a, b), tops)
        largest = elementwise(fixed(X), largest)
        parts = [
            self._reduced(term, elementwise(term.factor * sp.exp(X - Y), exponent, largest))
            for term, exponent in zip(terms, exponents, strict=True)
        ]
        total = reduce(lambda a, b: a + b, parts)
        return elementwise(X + sp.log(Y), largest, total)

    def _reduced(self, term: Term, x: Node) -> Node:
        """The sum or mean over the axes of a term."""
        found = reduce_sum(x, self.axes(term.over))
        for axis in self.axes(term.mean):
            found = elementwise(X / Y, found, AxisSize(axis))
        return found

    def _exponent(self, term: Term) -> Node:
        return ZERO if term.base is None else elementwise(term.rate * X, self.visit(term.base))

    def _quotient(self, above: Expr, below: Terms) -> Node:
        terms = exponential_sum(above)
        if terms is not None:
            return self._quotient_of_sums(terms, below)
        match above:
            case Apply("add" | "sub" as op, (a, b)):
                sign = 1 if op == "add" else -1
                left, right = self._quotient(a, below), self._quotient(b, below)
                return elementwise(X + sign * Y, left, right)
            case Apply("neg", (a,)):
                return elementwise(-X, self._quotient(a, below))
            case Apply("mul", (a, b)) if exponential_sum(b) is not None:
                return elementwise(X * Y, self.visit(a), self._quotient(b, below))
            case Apply("mul", (a, b)) if exponential_sum(a) is not None:
                return elementwise(X * Y, self._quotient(a, below), self.visit(b))
            case _:
                return elementwise(X * sp.exp(-Y), self.visit(above), self._log_of_sum(below))

    def _quotient_of_sums(self, above: Terms, below: Terms) -> Node:
        if len(below) == 2 and not any(term.over for term in (*above, *below)):
            first, second = below
            apart = elementwise(X - Y, self._exponent(first), self._exponent(second))
            shares = {_key(first): sp.Integer(1), _key(second): sp.Integer(-1)}
            if all(_key(term) in shares for term in above):
                factors = {_key(term): term.factor for term in above}
                a, b = (factors.get(_key(t), sp.Integer(0)) / t.factor for t in below)
                shift = sp.log(first.factor / second.factor)
                if a == -b:
                    return elementwise(a * sp.tanh((X + shift) / 2), apart)
                near, far = scalars.sigmoid(X + shift), scalars.sigmoid(-X - shift)
                return elementwise(a * near + b * far, apart)
        whole = self._log_of_sum(below)
        parts = [
            self._reduced(
                term, elementwise(term.factor * sp.exp(X - Y), self._exponent(term), whole)
            )
            for term in above
        ]
        return reduce(lambda a, b: a + b, parts)


def _key(term: Term) -> tuple[sp.Expr, Expr | None]:
    return term.rate, term.base


def _opposite(a: Term, b: Term) -> bool:
    """Whether two terms are e^x and e^-x with one factor."""
    return a.base is not None and a.base == b.base and a.rate == -b.rate and a.factor == b.factor
