"""Elementwise formulas as the language writes them, or as LaTeX.

sympy keeps a formula in its own order and in its own functions.  Here it is spelled with the functions
of the language (`max`, `where`, `silu`), quotients as quotients, and products of vectors with different
axes as `outer`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import sympy as sp

from miras_dsl.ir.axes import Axes, ordered
from miras_dsl.scalar import functions as scalars
from miras_dsl.scalar.monotone_inverse import UNKNOWN, monotone_inverse

from .named_functions import DEFINED, WORDS, Z
from .number_parts import common_number, decimal, negative, number_parts, power_of_number, quotient
from .style import Level, Piece, Style


@dataclass(slots=True)
class ScalarPrinter:
    """Writes sympy formulas whose symbols stand for printed pieces.

    used  functions met so far that have a definition in `DEFINED`
    """

    style: Style
    used: set[type[sp.Function]] = field(default_factory=set)

    def piece(self, expr: sp.Expr, pieces: Mapping[sp.Symbol, Piece]) -> Piece:
        """A formula as text."""
        return _Formula(self.style, pieces, self.used).piece(expr)


@dataclass(slots=True)
class _Formula:
    style: Style
    pieces: Mapping[sp.Symbol, Piece]
    used: set[type[sp.Function]]

    def axes(self, expr: sp.Basic) -> Axes:
        found = (self.pieces[s].axes for s in expr.free_symbols if s in self.pieces)
        return ordered(axis for axes in found for axis in axes)

    def piece(self, expr: sp.Expr) -> Piece:
        made = self._piece(expr)
        return replace(made, axes=self.axes(expr))

    def text(self, expr: sp.Expr, level: Level = Level.CONDITION) -> str:
        return self.style.bracketed(self.piece(expr), level)

    def place(self, expr: sp.Expr) -> tuple[int, ...]:
        """Where the first symbol of a part stands among all: parts keep the order of the spec."""
        order = {symbol: at for at, symbol in enumerate(self.pieces)}
        return tuple(sorted(order.get(s, len(order)) for s in expr.free_symbols))

    def _piece(self, expr: sp.Expr) -> Piece:
        if expr.is_Symbol and expr in self.pieces:
            return self.pieces[expr]
        if expr.is_Symbol:
            return Piece(self.style.name(str(expr)))
        if expr.is_Integer or expr.is_Float or expr == sp.pi or expr.is_infinite:
            level = Level.SUM if expr.is_negative else Level.ATOM
            return Piece(self.style.number(expr), level)
        if isinstance(expr, sp.Rational) and (ending := decimal(expr)) is not None:
            return self._piece(ending)
        if isinstance(expr, sp.Rational | sp.Mul):
            return self._product(expr)
        if isinstance(expr, sp.Add):
            return self._sum(expr)
        if isinstance(expr, sp.Pow):
            return self._power(expr)
        if isinstance(expr, sp.Function):
            return self._function(expr)
        raise AssertionError(f"no notation for {type(expr).__name__}")

    def _sum(self, expr: sp.Add) -> Piece:
        def key(term: sp.Expr) -> tuple[object, ...]:
            return (negative(term), term.is_number, self.place(term))

        common, rest = common_number(expr)
        if common != 1:
            above, below = number_parts(common)
            return self._fraction(above, below, last=self.piece(rest))
        parts = ""
        for term in sorted(expr.args, key=key):
            minus = negative(term)
            sign = ("-" if minus else "") if not parts else " - " if minus else " + "
            parts += sign + self.text(-term if minus else term, Level.CONTRACTION)
        return Piece(parts, Level.SUM)

    def _product(self, expr: sp.Expr) -> Piece:
        if negative(expr):
            inner = self.text(-expr, Level.CONTRACTION)
            return Piece(f"-{inner}", Level.SUM)
        number: sp.Expr = sp.Integer(1)
        above: list[sp.Expr] = []
        below: list[sp.Expr] = []
        for factor in sp.Mul.make_args(expr):
            for part, side, sign in (
                *((f, above, 1) for f in quotient(factor)[0]),
                *((f, below, -1) for f in quotient(factor)[1]),
            ):
                if isinstance(part, sp.Add):
                    common, part = common_number(part)
                    number = number * common**sign
                if isinstance(part, sp.Rational):
                    number = number * part**sign
                else:
                    side.append(part)
        over, under = number_parts(number)
        above, below = [*over, *above], [*under, *below]
        # A vector scales a matrix along its axis; two that meet first need their outer product.
        vectors = [f for f in (*above, *below) if len(self.axes(f)) <= 1]
        rows = self._outer_axes(vectors)
        if rows is None:
            return self._fraction(above, below)
        groups = []
        for axes in rows:
            sides = [[f for f in side if self.axes(f) == axes] for side in (above, below)]
            groups.append(self._fraction(*sides))
        scales = [[f for f in side if len(self.axes(f)) != 1] for side in (above, below)]
        made = self._outer(*groups)
        if not any(scales):
            return made
        return self._fraction(*scales, last=made)

    def _outer_axes(self, factors: list[sp.Expr]) -> tuple[Axes, Axes] | None:
        """The two axes of an outer product; None for an elementwise one."""
        found = {self.axes(f) for f in factors} - {()}
        whole = ordered(axis for axes in found for axis in axes)
        if len(whole) != 2 or any(len(axes) != 1 for axes in found):
            return None
        written = (axes for axes in self.style.matrices.values() if set(axes) == set(whole))
        row, column = next(written, whole)
        return (row,), (column,)

    def _outer(self, left: Piece, right: Piece) -> Piece:
        if not self.style.latex:
            return Piece(f"outer({left.text}, {right.text})")
        first = self.style.bracketed(left, Level.PRODUCT)
        second = self.style.bracketed(right, Level.ATOM)
        return Piece(f"{first}\\,{self.style.transposed(second)}", Level.PRODUCT)

    def _fraction(
        self, above: list[sp.Expr], below: list[sp.Expr], last: Piece | None = None
    ) -> Piece:
        """A product over another one; ``last`` is the last factor above."""

        def key(factor: sp.Expr) -> tuple[object, ...]:
            gate = factor in self.pieces and self.pieces[factor].scales  # type: ignore[index]
            return (not factor.is_number, not gate, len(self.axes(factor)), self.place(factor))

        pieces = [self.piece(f) for f in sorted(above, key=key)]
        pieces += [] if last is None else [last]
        under = [self.piece(f) for f in sorted(below, key=key)]
        if self.style.latex and under:
            inner = [self._joined(part) if part else Piece("1") for part in (pieces, under)]
            return Piece(f"\\frac{{{inner[0].text}}}{{{inner[1].text}}}", Level.PRODUCT)
        whole = self._joined(pieces) if pieces else Piece("1")
        if not under:
            return whole
        divisor = self._joined(under)
        level = Level.POWER if len(under) == 1 else Level.ATOM
        text = (
            f"{self.style.bracketed(whole, Level.PRODUCT)} / {self.style.bracketed(divisor, level)}"
        )
        return Piece(text, Level.PRODUCT)

    def _joined(self, pieces: list[Piece]) -> Piece:
        if len(pieces) == 1:
            return pieces[0]
        text, before = "", False
        for at, piece in enumerate(pieces):
            inner = self.style.bracketed(piece, Level.POWER if at else Level.PRODUCT)
            wide = bool(piece.axes)
            sign = " * "
            if self.style.latex:
                sign = " \\odot " if wide and before else "\\,"
                if text[-1:].isdigit() and inner[:1].isdigit():
                    sign = " \\cdot "
            text += sign + inner if at else inner
            before = before or wide
        return Piece(text, Level.PRODUCT)

    def _power(self, expr: sp.Pow) -> Piece:
        base, exponent = expr.args
        if exponent == sp.Rational(1, 2):
            return self._root(base)
        if base == sp.E:
            return self._function(sp.Function("exp")(exponent))
        if negative(exponent):
            return self._fraction(*map(list, quotient(expr)))
        inner = self.text(base, Level.ATOM)
        if self.style.latex:
            return Piece(f"{{{inner}}}^{{{self.text(exponent)}}}", Level.POWER)
        return Piece(f"{inner}^{self.text(exponent, Level.ATOM)}", Level.POWER)

    def _root(self, inside: sp.Expr) -> Piece:
        if self.style.latex:
            return Piece(f"\\sqrt{{{self.text(inside)}}}")
        return self.style.call("sqrt", self.text(inside))

    def _function(self, expr: sp.Function) -> Piece:
        given = expr.args
        if type(expr) in DEFINED:
            self.used.add(type(expr))
        match expr:
            case scalars.sqrt():
                return self._root(given[0])
            case scalars.rsqrt():
                return self._fraction([], [scalars.sqrt(given[0])])
            case scalars.logcosh():
                return self.style.call("log", self.style.call("cosh", self.text(given[0])).text)
            case scalars.ge0() | scalars.gt0():
                return self._condition(expr)
            case scalars.where():
                return self._choice(*given)
            case sp.exp() if (power := power_of_number(given[0])) is not None:
                return self._power_of(*power)
            case scalars.abs_pow():
                return self._power_of(scalars.absolute(given[0]), given[1])
            case scalars.pow_nonneg():
                return self._power_of(given[0], given[1])
            case scalars.signed_pow():
                size = self._power_of(scalars.absolute(given[0]), given[1])
                sign = self.piece(scalars.sign(given[0]))
                return self._joined([sign, size])
            case monotone_inverse():
                return self._inverse(expr)
            case sp.tanh() if given[0].as_coeff_Mul()[0] == 10:
                return self.style.call("sign", self.text(given[0] / 10))
            case _:
                word = WORDS.get(type(expr), type(expr).__name__)
                if self.style.latex and word in (
                    "exp",
                    "log",
                    "sin",
                    "cos",
                    "tanh",
                    "sinh",
                    "cosh",
                ):
                    return Piece(f"\\{word}\\left({self.text(given[0])}\\right)")
                return self.style.call(word, *map(self.text, given))

    def _power_of(self, base: sp.Expr, exponent: sp.Expr) -> Piece:
        inner, power = self.text(base, Level.ATOM), self.text(exponent)
        if self.style.latex:
            return Piece(f"{{{inner}}}^{{{power}}}", Level.POWER)
        return Piece(f"{inner}^{self.text(exponent, Level.ATOM)}", Level.POWER)

    def _condition(self, expr: sp.Function) -> Piece:
        """`a >= b`, the terms with a minus sign on the other side; as a factor it is 0 or 1."""
        sign = ">=" if isinstance(expr, scalars.ge0) else ">"
        terms = sp.Add.make_args(expr.args[0])
        right = sp.Add(*(-t for t in terms if negative(t)))
        left = sp.Add(*(t for t in terms if not negative(t)))
        if left == 0 or (left in self.pieces and self.pieces[left].scales):
            # A threshold stands on the right.
            left, right, sign = right, left, sign.replace(">", "<")
        if self.style.latex:
            sign = {">=": "\\geq", "<=": "\\leq"}.get(sign, sign)
        return Piece(f"{self.text(left)} {sign} {self.text(right)}", Level.CONDITION)

    def _choice(self, condition: sp.Expr, then: sp.Expr, otherwise: sp.Expr) -> Piece:
        for sign, word in ((1, "max"), (-1, "min")):
            if condition in (
                scalars.ge0(sign * (then - otherwise)),
                scalars.ge0(sp.expand(sign * (then - otherwise))),
            ):
                pair = (self.text(then), self.text(otherwise))
                if self.style.latex:
                    return Piece(f"\\{word}\\left({', '.join(pair)}\\right)")
                return self.style.call(word, *pair)
        return self.style.call("where", *map(self.text, (condition, then, otherwise)))

    def _inverse(self, expr: monotone_inverse) -> Piece:
        target, formula = expr.args[:2]
        text = f"{self.text(formula)} = {self.text(target)}"
        return self.style.call("solution", f"{self.style.name(str(UNKNOWN))}: {text}")


def defined_functions(used: Iterable[type[sp.Function]], style: Style) -> list[tuple[str, str]]:
    """(function of z, formula) for each function that has a definition, in the order of `DEFINED`."""
    wanted = set(used)
    lines = []
    for function, formula in DEFINED.items():
        if function in wanted:
            printer = ScalarPrinter(style)
            left = printer.piece(function(Z), {})
            lines.append((left.text, printer.piece(formula, {}).text))
    return lines
