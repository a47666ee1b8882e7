"""Nodes as formulas, in the notation of the language and as LaTeX.

Values of one token are written as the language writes formulas: `W @ key` sums over the last axis of
`W`, nothing is transposed.  Values of all tokens of a chunk are matrices with a row for every token, so
there a transpose is written; `i`, `j` … count tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import assert_never, cast

import sympy as sp

from miras_dsl import ir
from miras_dsl.ir import Axes, Node
from miras_dsl.scalar.functions import OPERANDS, sqrt
from miras_dsl.scalar.norms import displayed, fixed

from .contractions import contraction
from .named_functions import with_named_functions
from .norms import channels, shares, squared, summed, token_axes, with_length
from .style import Level, Piece
from .token_sums import decay, gated_sum, in_triangle, rows
from .writer import Writer


@dataclass(slots=True)
class Printer(Writer):
    """Writes every node as a formula."""

    # ------------------------------------------------------------ elementwise

    def piece(self, node: Node, top: bool = False) -> Piece:
        """A node as part of a formula; ``top`` writes it out even if it has a name."""
        if node in self.names and not top:
            return Piece(self.names[node], Level.ATOM, node.axes)
        if node in self.pieces:
            return self.pieces[node]
        if node in self.calls:
            found = self.calls[node]
            given = (self.piece(x).text for x in found.args)
            made = self.style.call(found.function, *given, along=found.along)
        elif isinstance(node, ir.Map):
            made = self._map(node)
        elif isinstance(node, ir.Number):
            made = self.scalar.piece(node.value, {})
        else:
            made = self._tensor(node)
        result = Piece(made.text, made.level, node.axes)
        if self.final is not None and self.final(node):
            self.pieces[node] = result
        return result

    def _map(self, node: ir.Map) -> Piece:
        """Nested elementwise formulas as one, so that signs and numbers meet."""
        symbols: dict[Node, sp.Symbol] = {}
        pairs = token_axes(node.axes)

        def flat(part: Node, top: bool = False) -> sp.Expr:
            if isinstance(part, ir.Number):
                return part.value
            whole = isinstance(part, ir.Map) and part not in self.calls
            whole = whole and (top or not isinstance(part.formula, fixed))
            if whole and (top or part not in self.names):
                inner = {s: flat(a) for s, a in zip(OPERANDS, part.args, strict=False)}
                named = with_named_functions(part.formula)
                return cast(sp.Expr, named.xreplace(inner))
            if isinstance(part, ir.Input) and part.name in dict(self.style.logs):
                return sp.log(symbol(part))
            return symbol(part)

        def symbol(part: Node) -> sp.Symbol:
            if part not in symbols:
                # What has a logarithm is positive, so that e^(log alpha) is alpha.
                logged = isinstance(part, ir.Input) and part.name in dict(self.style.logs)
                positive = logged or isinstance(part, ir.AxisSize) or None
                symbols[part] = sp.Dummy(f"n{len(symbols)}", real=True, positive=positive)
            return symbols[part]

        formula = flat(node, top=True)
        pieces: dict[sp.Symbol, Piece] = {}
        formula = self._sums(formula, symbols, pieces)
        for part, mark in symbols.items():
            pieces.setdefault(mark, self._leaf(part, pairs))
        return self.scalar.piece(displayed(formula), pieces)

    def _leaf(self, part: Node, tokens: Axes) -> Piece:
        """A part of an elementwise formula; in one of pairs of tokens it says whose value it is."""
        scales = isinstance(part, ir.Input) and part.role in (ir.Role.GATE, ir.Role.CONSTANT)
        if isinstance(part, ir.Input) and part.name in dict(self.style.logs):
            name = self.style.name(dict(self.style.logs)[part.name])
            return Piece(name, Level.ATOM, part.axes, scales)
        return replace(self.indexed(part, tokens), scales=scales)

    def _sums(
        self, formula: sp.Expr, symbols: Mapping[Node, sp.Symbol], pieces: dict[sp.Symbol, Piece]
    ) -> sp.Expr:
        """A formula with means, lengths and norms in it named: ``pieces`` takes their texts."""
        sizes = {part.axis: mark for part, mark in symbols.items() if isinstance(part, ir.AxisSize)}
        for part, mark in symbols.items():
            powers = shares(part)
            if powers is not None:
                x, p, scale = powers
                if scale in symbols:
                    length = sp.Dummy("length", positive=True)
                    pieces[length] = self._norm(x, p)
                    formula = with_length(formula, mark, symbols[scale], length, p)
                continue
            over = summed(part)
            if not over or part in self.names:
                continue
            for root in formula.atoms(sqrt):
                if root.args[0] == mark and (x := squared(part)) is not None:
                    length = sp.Dummy("length", positive=True)
                    pieces[length] = self._norm(x, sp.Integer(2))
                    formula = formula.xreplace({root: length})
            if len(over) == 1 and over[0] in sizes and not channels(part.axes):
                mean = sp.Dummy("mean", real=True)
                changed = formula.subs(mark, mean * sizes[over[0]])
                if changed.count(sizes[over[0]]) < formula.count(sizes[over[0]]):
                    pieces[mean] = self._mean(part)
                    formula = changed
        return formula

    def _norm(self, x: Node, p: sp.Expr) -> Piece:
        power = [] if p == 2 else [self.scalar.piece(p, {}).text]
        return self.over("norm", x, channels(x.axes), *power)

    def _mean(self, part: Node) -> Piece:
        match part:
            case ir.Contract(left, right, over):
                inside = ir.Map(OPERANDS[0] ** 2, (left,)) if left is right else left * right
                return self.over("mean", inside, over)
            case ir.Reduce(_, x, over):
                return self.over("mean", x, over)
            case _:
                raise AssertionError("only sums have a mean")

    # ------------------------------------------------------------ tensors

    def _tensor(self, node: Node) -> Piece:
        s, call = self.style, self.style.call
        match node:
            case ir.Input(name):
                of = dict(s.logs).get(name)
                return Piece(s.name(name)) if of is None else call("log", s.name(of))
            case ir.AxisSize(axis):
                compound = (
                    not s.latex and not s.size(axis).isidentifier() and "|" not in s.size(axis)
                )
                return Piece(s.size(axis), Level.SUM if compound else Level.ATOM)
            case ir.Contract():
                return contraction(self, node)
            case ir.Reduce(kind, x, over):
                return self.over(kind, x, over)
            case ir.Broadcast(x, along):
                inner = self.piece(x)
                wide = [a for a in x.axes if not ir.is_token_axis(a)]
                if not wide or all(ir.is_token_axis(a) for a in along):
                    return inner
                return call("repeated", inner.text, along=along)
            case ir.Rename(x, _):
                return self.piece(x)
            case ir.Cumsum(x, _, reverse):
                return call("cumsum_from_end" if reverse else "cumsum", self.piece(x).text)
            case ir.Shift(x, _, by):
                return call("previous" if by > 0 else "following", self.piece(x).text)
            case ir.TakeLast(x):
                return call("last", self.piece(x).text)
            case ir.PlaceLast(x):
                return call("at_last", self.piece(x).text)
            case ir.Split(x, axis, block, row, _):
                return call("split", self.piece(x).text, along=(axis, block, row))
            case ir.Join(x, axis, block, row, _):
                return call("join", self.piece(x).text, along=(block, row, axis))
            case ir.Mask(x, triangle):
                return in_triangle(self, self.piece(x).text, triangle)
            case ir.Decay(a, b, triangle):
                return in_triangle(self, decay(self, a, b, triangle).text, triangle)
            case ir.GatedContract(x, y, a, b, over, triangle):
                return gated_sum(self, (x, y), a, b, over, triangle)
            case ir.GatedApply(m, y, a, b, _, triangle, over):
                return gated_sum(self, (m, y), a, b, over, triangle)
            case ir.GatedSpan(m, x, y, a, b, _, triangle, _):
                return call("spanning", gated_sum(self, (m, x, y), a, b, None, triangle).text)
            case ir.Inverse(x, _, _):
                inner = f"1 + {s.bracketed(self.piece(x), Level.CONTRACTION)}"
                power = "^{-1}" if s.latex else "^-1"
                return Piece(f"{s.brackets(inner)}{power}", Level.POWER)
            case ir.ForwardSubstitution():
                return rows(self, node)
            case ir.Map() | ir.Number():
                raise AssertionError("`piece` writes elementwise formulas and numbers")
            case _:
                assert_never(node)
