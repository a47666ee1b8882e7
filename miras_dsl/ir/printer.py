"""Nodes and programs as text and as LaTeX: what `miras explain` prints.

A formula that is used once is written where it is used; one that is used more often gets a line and a
name of its own.  Axes over the tokens of a chunk are written `i`, `j` …; an
axis under a sum names what is summed, as in the program itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import assert_never, cast

import sympy as sp
from sympy.printing.latex import LatexPrinter
from sympy.printing.str import StrPrinter

from miras_dsl import ir
from miras_dsl.scalar.functions import OPERANDS
from miras_dsl.scalar.norms import displayed

from . import Axes, Axis, Node, Program, postorder
from .long_formulas import parts_to_name

PARTS = {
    "before": "before: every {piece} by itself",
    "loop": "loop: one {piece} after the other",
    "after": "after: every {piece} by itself",
}

LONG = 100
"""Characters above which a formula gets a name although it is used once."""

GREEK = {"eta", "alpha", "beta", "gamma", "delta", "mu", "lam", "theta", "tau", "rho"}


@dataclass(frozen=True, slots=True)
class Style:
    """How the parts of a formula are written: as text or as LaTeX.

    logs  inputs that are logarithms, each with what it is the logarithm of: LaTeX has log before it
    """

    latex: bool
    logs: tuple[tuple[str, str], ...] = ()

    def name(self, word: str) -> str:
        """A name that the spec gives, or the name of a line (`t3`)."""
        if not self.latex:
            return word
        if word.startswith("grad "):
            return f"\\nabla_{{{self.name(word.removeprefix('grad '))}}}"
        of = dict(self.logs).get(word)
        if of is not None:
            return f"\\log {self.name(of)}"
        if word[:1] == "t" and word[1:].isdecimal():
            return f"t_{{{word[1:]}}}"
        if word.endswith("'"):
            return f"{self.name(word[:-1])}'"
        head, *tail = word.replace(".", "_").split("_")
        spelled = "\\lambda" if head == "lam" else f"\\{head}" if head in GREEK else _roman(head)
        return f"{spelled}_{{\\mathrm{{{','.join(tail)}}}}}" if tail else spelled

    def axis(self, axis: Axis) -> str:
        """The name of an axis; in LaTeX in upright letters, but for `i`, `j` …, which count tokens."""
        plain = not self.latex or ir.is_token_axis(axis)
        return axis.name if plain else f"\\mathrm{{{axis.name}}}"

    def axes(self, axes: Axes) -> str:
        """Several axes."""
        return ",".join(self.axis(a) for a in axes)

    def call(self, function: str, axes: Axes, *arguments: str) -> str:
        """``function`` of ``arguments``, along ``axes``."""
        inside = ", ".join(arguments)
        if not self.latex:
            return f"{function}[{self.axes(axes)}]({inside})"
        return f"\\operatorname{{{function}}}_{{{self.axes(axes)}}}\\left({inside}\\right)"

    def sum(self, over: Axes, body: str) -> str:
        """A sum over axes."""
        if not self.latex:
            return f"sum[{self.axes(over)}]({body})"
        return f"\\sum_{{{self.axes(over)}}} {body}"

    def product(self, left: str, right: str) -> str:
        """Two factors under a sum."""
        return f"{left}\\,{right}" if self.latex else f"{left} * {right}"

    def exponential(self, a: str, b: str) -> str:
        """``e^(a - b)``."""
        return f"e^{{{a} - {b}}}" if self.latex else f"exp({a} - {b})"

    def where(self, triangle: ir.Triangle) -> str:
        """The triangle on which something is not zero."""
        sign = ">" if triangle.strict else "\\ge" if self.latex else ">="
        return f"[{self.axis(triangle.row)} {sign} {self.axis(triangle.col)}]"


TEXT, LATEX = Style(False), Style(True)


def _roman(word: str) -> str:
    return word if len(word) == 1 else f"\\mathrm{{{word}}}"


class _Text(StrPrinter):
    """Prints sympy expressions as the language writes them: `^` for powers."""

    def _as_ordered_terms(self, expr: sp.Add, order: str | None = None) -> list[sp.Expr]:
        """Terms in sympy's order, those with a minus sign behind the others."""
        terms = super()._as_ordered_terms(expr, order)
        return sorted(terms, key=lambda term: bool(term.could_extract_minus_sign()))

    def _print_Pow(self, expr: sp.Pow, rational: bool = False) -> str:
        return super()._print_Pow(expr, rational).replace("**", "^")


@dataclass(slots=True)
class Printer:
    """Writes nodes as formulas; a node in ``names`` is written as its name."""

    style: Style
    names: dict[Node, str] = field(default_factory=dict)

    def text(self, node: Node) -> str:
        """The formula of a node, written out even if the node has a name."""
        return self._sympy(self._formula(node, top=True))

    def _sympy(self, expr: sp.Expr) -> str:
        if self.style.latex:
            return LatexPrinter({"symbol_names": {s: str(s) for s in expr.free_symbols}}).doprint(
                expr
            )
        return _Text({"full_prec": False}).doprint(expr)

    def _formula(self, node: Node, top: bool = False) -> sp.Expr:
        """Nested elementwise formulas as one, so that sympy places the brackets."""
        if isinstance(node, ir.Map) and (top or node not in self.names):
            inner = {
                slot: self._formula(arg) for slot, arg in zip(OPERANDS, node.args, strict=False)
            }
            return displayed(cast(sp.Expr, node.formula.xreplace(inner)))
        if isinstance(node, ir.Number):
            return node.value
        return sp.Symbol(self._spelled(node, top), real=True)

    def _atom(self, node: Node) -> str:
        """An operand of something that is not elementwise, in brackets if it is a sum."""
        text = self.text(node) if node not in self.names else self.names[node]
        compound = isinstance(node, ir.Map) and node not in self.names
        if not compound:
            return text
        return f"\\left({text}\\right)" if self.style.latex else f"({text})"

    def _spelled(self, node: Node, top: bool) -> str:
        s, atom = self.style, self._atom
        if node in self.names and not top:
            return self.names[node]
        match node:
            case ir.Input(name):
                return s.name(name)
            case ir.AxisSize(axis):
                return f"|{s.axis(axis)}|"
            case ir.Contract(left, right, over):
                return s.sum(over, s.product(atom(left), atom(right)))
            case ir.Reduce("sum", x, over):
                return s.sum(over, atom(x))
            case ir.Reduce(kind, x, over):
                return s.call(kind, over, self.text(x))
            case ir.Broadcast(x, _):
                return self._spelled(x, False) if not isinstance(x, ir.Map) else atom(x)
            case ir.Rename(x, names):
                moved = ",".join(f"{s.axis(a)}→{s.axis(b)}" for a, b in names)
                arrow = moved.replace("→", "\\to ") if s.latex else moved
                return f"{{{atom(x)}}}_{{{arrow}}}" if s.latex else f"{atom(x)}[{arrow}]"
            case ir.Cumsum(x, axis, reverse):
                return s.call("cumsum_from_end" if reverse else "cumsum", (axis,), self.text(x))
            case ir.Shift(x, axis, by):
                return s.call("before" if by > 0 else "following", (axis,), self.text(x))
            case ir.TakeLast(x, axis):
                return s.call("last", (axis,), self.text(x))
            case ir.PlaceLast(x, axis):
                return s.call("put_last", (axis,), self.text(x))
            case ir.Split(x, axis, block, row, _):
                return s.call("split", (axis, block, row), self.text(x))
            case ir.Join(x, axis, block, row, _):
                return s.call("join", (block, row, axis), self.text(x))
            case ir.Mask(x, triangle):
                return f"{atom(x)} {s.where(triangle)}"
            case ir.Decay(a, b, triangle):
                return f"{s.exponential(atom(a), atom(b))} {s.where(triangle)}"
            case ir.GatedContract(x, y, a, b, over, triangle):
                decayed = s.product(s.product(atom(x), atom(y)), s.exponential(atom(a), atom(b)))
                return f"{s.sum((over,), decayed)} {s.where(triangle)}"
            case ir.GatedApply(m, y, a, b, _, triangle, over):
                decayed = s.product(s.product(atom(m), atom(y)), s.exponential(atom(a), atom(b)))
                return f"{s.sum((over,), decayed)} {s.where(triangle)}"
            case ir.GatedSpan(m, x, y, a, b, _, triangle, _):
                terms = s.product(s.product(atom(m), atom(x)), atom(y))
                decayed = s.product(terms, s.exponential(atom(a), atom(b)))
                return s.call("spanning", (triangle.row,), f"{decayed} {s.where(triangle)}")
            case ir.Inverse(x, row, col):
                return s.call("inverse", (row, col), f"1 + {atom(x)}")
            case ir.ForwardSubstitution():
                return self._rows(node)
            case ir.Map() | ir.Number():
                raise AssertionError("`_formula` writes elementwise formulas and numbers")
            case _:
                assert_never(node)

    def _rows(self, node: ir.ForwardSubstitution) -> str:
        """A forward substitution: the formula of a row ``g``, then that of ``r``, which it reads."""
        holes: Mapping[Node, str] = {hole: self._atom(row) for hole, row in node.rows}
        body = Printer(self.style, {**self.names, **holes, node.r: self.style.name("r")})
        order = "reverse_rows" if node.reverse else "rows"
        earlier = self.style.product(self._atom(node.a), self.style.name("g"))
        right = f"{self._atom(node.p)} + {self.style.sum((ir.J,), earlier)}"
        given = f"{self.style.name('r')} = {right}"
        said: list[str] = []
        for number, part in enumerate(parts_to_name(node.body, body.names), 1):
            name = self.style.name(f"u{number}")
            said.append(f"{name} = {body.text(part)}")
            body.names[part] = name
        row = f"{self.style.name('g')} = {body.text(node.body)}"
        return self.style.call(order, (ir.I,), row, given, *said)


def program_lines(program: Program, style: Style = TEXT) -> list[tuple[str, str, str]]:
    """A program as (part, name, formula), in an order in which it can be computed.

    part  where the line runs: "before", "loop" or "after" (`Program.parts`)
    """
    order = postorder(node for _, node in program.results)
    parts = program.parts()
    uses: dict[Node, int] = {}
    for node in order:
        for operand in dict.fromkeys(node.operands):
            uses[operand] = uses.get(operand, 0) + 1
    # A state's next value is written with a prime: the same letter without one is its old value.
    next_states = {name for _, name in program.carried}
    primed = {n: style.name(f"{n}'" if n in next_states else n) for n, _ in program.results}
    results = {node: primed[name] for name, node in program.results}
    writer, count = Printer(style), 0
    written: list[tuple[str, str, str]] = []
    for node in order:
        if isinstance(node, ir.Input | ir.Number | ir.AxisSize | ir.Broadcast | ir.Rename):
            continue
        lengthy = (
            isinstance(node, ir.Inverse | ir.ForwardSubstitution) or len(writer.text(node)) > LONG
        )
        if not (node in results or uses.get(node, 0) > 1 or lengthy):
            continue
        if node not in results:
            count += 1
        name = results.get(node) or style.name(f"t{count}")
        written.append((parts[node], name, writer.text(node)))
        writer.names[node] = name
    for name, node in program.results:
        if writer.names.get(node) != primed[name]:
            written.append((parts[node], primed[name], writer.text(node)))
    return written


def print_program(program: Program, style: Style = TEXT) -> str:
    """A program with its three parts under headings, one formula a line."""
    found = program_lines(program, style)
    if style.latex:
        body = " \\\\\n".join(f"  {name} &= {formula}" for _, name, formula in found)
        return f"\\begin{{aligned}}\n{body}\n\\end{{aligned}}"
    text: list[str] = []
    by_chunk = any(ir.is_token_axis(axis) for _, node in program.results for axis in node.axes)
    piece = "chunk" if by_chunk else "token"
    for part, title in PARTS.items():
        here = [(name, formula) for where, name, formula in found if where == part]
        if here:
            text.append(title.format(piece=piece))
            text += [f"  {name} = {formula}" for name, formula in here]
    return "\n".join(text)
