"""How names, numbers and brackets of printed formulas are written: as text or as LaTeX."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType

import sympy as sp

from miras_dsl.ir.axes import Axes, Axis, Triangle, is_token_axis

GREEK = {
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "kappa", "mu", "nu", "xi",
    "rho", "sigma", "tau", "phi", "chi", "psi", "omega",
}  # fmt: skip
ESCAPED = str.maketrans({c: f"\\{c}" for c in "#$%&_{}"} | {"^": "\\^{}", "~": "\\~{}"})


class Level(IntEnum):
    """How tight the outermost operation of a formula binds: what needs a tighter one brackets it."""

    CONDITION = 0
    SUM = 1
    CONTRACTION = 2
    PRODUCT = 3
    POWER = 4
    ATOM = 5


@dataclass(frozen=True, slots=True)
class Piece:
    """A printed part of a formula: its text, how tight it binds, and the axes of its value.

    scales  it is a gate or a learned constant, which stands first in a product
    """

    text: str
    level: Level = Level.ATOM
    axes: Axes = ()
    scales: bool = False


@dataclass(frozen=True, slots=True)
class Style:
    """How the parts of a formula are written.

    latex     as LaTeX, else as the language writes them
    logs      inputs that are logarithms, each with what it is the logarithm of
    matrices  axes of matrices as the spec writes them, rows first, by name
    sizes     what the spec calls the size of an axis
    aliases   what to call names that nobody wrote
    """

    latex: bool
    logs: tuple[tuple[str, str], ...] = ()
    matrices: Mapping[str, Axes] = field(default_factory=lambda: MappingProxyType({}))
    sizes: Mapping[Axis, str] = field(default_factory=lambda: MappingProxyType({}))
    aliases: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def name(self, word: str) -> str:
        """A name of the spec or of a line: in LaTeX with Greek letters, one index and a prime."""
        word = self.aliases.get(word, word)
        if not self.latex:
            return word.replace(" ", "_")
        if word == "grad" or word.startswith("grad "):
            of = word.removeprefix("grad").strip()
            return f"\\nabla_{{{self.name(of)}}}" if of else "\\nabla"
        if word.endswith("'"):
            return f"{self.name(word[:-1])}'"
        head, *tail = [part for part in word.replace(".", "_").split("_") if part] or ["x"]
        stem = head.rstrip("0123456789")
        if stem and stem != head:
            head, tail = stem, [head[len(stem) :], *tail]
        spelled = "\\lambda" if head == "lam" else f"\\{head}" if head in GREEK else _roman(head)
        return f"{spelled}_{{{','.join(_roman(part) for part in tail)}}}" if tail else spelled

    def axis(self, axis: Axis) -> str:
        """The name of an axis; in LaTeX in upright letters, but for `i`, `j` …, which count tokens."""
        plain = not self.latex or is_token_axis(axis)
        return axis.name if plain else _roman(axis.name)

    def axes(self, axes: Axes) -> str:
        """Several axes."""
        return ",".join(self.axis(a) for a in axes)

    def size(self, axis: Axis) -> str:
        """The size of an axis: as the spec says it, else between bars."""
        found = self.sizes.get(axis)
        if self.latex:
            return f"\\left|{self.axis(axis)}\\right|"
        return found if found is not None else f"|{axis.name}|"

    def number(self, value: sp.Expr) -> str:
        """A whole number, a decimal one, or pi."""
        if value == sp.pi:
            return "\\pi" if self.latex else "pi"
        if value.is_infinite:
            sign = "-" if value.is_negative else ""
            return f"{sign}\\infty" if self.latex else f"{sign}inf"
        if value.is_Integer:
            return str(int(value))
        digits, _, power = f"{float(value):.15g}".partition("e")
        if not power:
            return digits
        scaled = f"10^{{{int(power)}}}" if digits == "1" else f"{digits} \\cdot 10^{{{int(power)}}}"
        return scaled if self.latex else f"{digits}e{int(power)}"

    def bracketed(self, piece: Piece, level: Level) -> str:
        """The text of a piece, in brackets unless it binds at least as tight as ``level``."""
        return piece.text if piece.level >= level else self.brackets(piece.text)

    def brackets(self, text: str) -> str:
        """A text in round brackets."""
        return f"\\left({text}\\right)" if self.latex else f"({text})"

    def function(self, word: str) -> str:
        """The name of a function; a prime at its end stays one."""
        if not self.latex:
            return word
        bare = word.rstrip("'")
        primes = word[len(bare) :]
        return f"\\operatorname{{{bare.translate(ESCAPED)}}}{primes}"

    def call(self, function: str, *arguments: str, along: Axes = ()) -> Piece:
        """``function`` of ``arguments``, along axes where these are said."""
        inside = ", ".join(arguments)
        if self.latex:
            index = f"_{{{self.axes(along)}}}" if along else ""
            return Piece(f"{self.function(function)}{index}\\left({inside}\\right)")
        return Piece(f"{function}{f'[{self.axes(along)}]' if along else ''}({inside})")

    def transposed(self, text: str) -> str:
        """A matrix with rows and columns exchanged; ``text`` is an atom."""
        return f"{{{text}}}^{{\\top}}" if self.latex else f"{text}ᵀ"

    def indexed(self, text: str, axis: Axis) -> str:
        """The value of a token, in a formula of pairs of tokens; ``text`` is an atom."""
        return f"{{{text}}}_{{{axis.name}}}" if self.latex else f"{text}_{axis.name}"

    def triangle(self, triangle: Triangle) -> str:
        """The triangle on which something is not zero."""
        sign = ">" if triangle.strict else "\\geq" if self.latex else ">="
        return f"[{self.axis(triangle.row)} {sign} {self.axis(triangle.col)}]"


TEXT, LATEX = Style(False), Style(True)


def _roman(word: str) -> str:
    return word if len(word) == 1 or word.isdecimal() else f"\\mathrm{{{word.translate(ESCAPED)}}}"
