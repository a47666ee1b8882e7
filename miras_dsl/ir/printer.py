"""Nodes and programs in the notation of the language, and as LaTeX: what `miras explain` prints.

A formula that is used once is written where it is used; one that is used more often gets a line and a
name of its own.  A program of one token is written as the language writes formulas: `W @ key` sums over
the last axis of `W`, nothing is transposed.  Values of all tokens of a chunk are matrices with a row for
every token, so there a transpose is written; `i`, `j` … count tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import assert_never, cast

import sympy as sp

from miras_dsl import ir
from miras_dsl.scalar.functions import OPERANDS, sqrt
from miras_dsl.scalar.norms import displayed, fixed

from . import Axes, Axis, Node, Program, postorder
from .norm_notation import (
    channels,
    is_part_of_norm,
    shares,
    squared,
    summed,
    token_axes,
    with_length,
)
from .scalar_notation import ScalarPrinter, with_named_functions
from .style import LATEX, TEXT, Level, Piece, Style

__all__ = ["LATEX", "TEXT", "Call", "Printer", "Style", "print_program", "program_lines"]

PARTS = {
    "before": "before: every {piece} by itself",
    "loop": "loop: one {piece} after the other",
    "after": "after: every {piece} by itself",
}

LONG = 88
"""Characters above which a formula gets a name although it is used once."""
SHORT = 14
"""Characters up to which a function of one name is written again wherever it is used."""


@dataclass(frozen=True, slots=True)
class Call:
    """A node that is a function of the language, written out: its name and operands.

    along  the axes that it runs over, where these are not the last ones
    """

    function: str
    args: tuple[Node, ...]
    along: Axes = ()


Namer = Callable[[Node], str]
"""What a line is called."""


@dataclass(slots=True)
class Printer:
    """Writes nodes as formulas; a node in ``names`` is written as its name.

    names   texts of nodes that have a line of their own
    calls   nodes that are functions of the language, written out
    scalar  prints elementwise formulas, and knows which functions it has met
    """

    style: Style
    names: Mapping[Node, str] = field(default_factory=dict)
    calls: Mapping[Node, Call] = field(default_factory=dict)
    scalar: ScalarPrinter = field(init=False)

    def __post_init__(self) -> None:
        self.scalar = ScalarPrinter(self.style)

    def text(self, node: Node) -> str:
        """The formula of a node, written out even if the node has a name."""
        return self.piece(node, top=True).text

    def operands(self, node: Node) -> tuple[Node, ...]:
        """What the printed formula of a node is made of."""
        found = self.calls.get(node)
        return node.operands if found is None else found.args

    # ------------------------------------------------------------ elementwise

    def piece(self, node: Node, top: bool = False) -> Piece:
        """A node as part of a formula; ``top`` writes it out even if it has a name."""
        if node in self.names and not top:
            return Piece(self.names[node], Level.ATOM, node.axes)
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
        return Piece(made.text, made.level, node.axes)

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
        return replace(self._indexed(part, tokens), scales=scales)

    def _indexed(self, part: Node, tokens: Axes) -> Piece:
        made = self.piece(part)
        own = token_axes(part.axes)
        if len(tokens) > 1 and len(own) == 1:
            inner = self.style.bracketed(made, Level.ATOM)
            return Piece(self.style.indexed(inner, own[0]), Level.ATOM, part.axes)
        return made

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
        return self._over("norm", x, channels(x.axes), *power)

    def _mean(self, part: Node) -> Piece:
        match part:
            case ir.Contract(left, right, over):
                inside = ir.Map(OPERANDS[0] ** 2, (left,)) if left is right else left * right
                return self._over("mean", inside, over)
            case ir.Reduce(_, x, over):
                return self._over("mean", x, over)
            case _:
                raise AssertionError("only sums have a mean")

    def _over(self, word: str, x: Node, over: Axes, *more: str) -> Piece:
        """A function over axes; which they are is said where ``x`` has others too."""
        along = () if set(x.axes) == set(over) else over
        made = self.style.call(word, self.piece(x).text, *more, along=along)
        return Piece(made.text, made.level, tuple(a for a in x.axes if a not in over))

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
                return self._contract(node)
            case ir.Reduce(kind, x, over):
                return self._over(kind, x, over)
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
                return self._triangle(self.piece(x).text, triangle)
            case ir.Decay(a, b, triangle):
                return self._triangle(self._decay(a, b, triangle).text, triangle)
            case ir.GatedContract(x, y, a, b, over, triangle):
                return self._gated((x, y), a, b, over, triangle)
            case ir.GatedApply(m, y, a, b, _, triangle, over):
                return self._gated((m, y), a, b, over, triangle)
            case ir.GatedSpan(m, x, y, a, b, _, triangle, _):
                return call("spanning", self._gated((m, x, y), a, b, None, triangle).text)
            case ir.Inverse(x, _, _):
                inner = f"1 + {s.bracketed(self.piece(x), Level.CONTRACTION)}"
                power = "^{-1}" if s.latex else "^-1"
                return Piece(f"{s.brackets(inner)}{power}", Level.POWER)
            case ir.ForwardSubstitution():
                return self._rows(node)
            case ir.Map() | ir.Number():
                raise AssertionError("`piece` writes elementwise formulas and numbers")
            case _:
                assert_never(node)

    def _contract(self, node: ir.Contract) -> Piece:
        left, right, over = node.left, node.right, node.over
        kept = [set(x.axes) - set(over) for x in (left, right)]
        if len(over) > 1 or kept[0] & kept[1] or max(map(len, kept)) > 1:
            tokens = token_axes((*left.axes, *right.axes))
            if left is right:
                return self._over("sum", ir.Map(OPERANDS[0] ** 2, (left,)), over)
            parts = [self._indexed(x, tokens) for x in (left, right)]
            texts = [self.style.bracketed(p, Level.POWER) for p in parts]
            sign = " \\odot " if self.style.latex else " * "
            along = over if node.axes else ()
            return self.style.call("sum", sign.join(texts), along=along)
        if not node.axes:
            return self._dot(left, right)
        axes = (*left.axes, *right.axes)
        # A matrix times itself has a second name for an axis: the language has no word for it.
        twin = any(axis.name.endswith("~") for axis in axes)
        whole = self.style.latex or twin or bool(token_axes(axes))
        return (self._transposed_product if whole else self._product)(node, kept)

    def _dot(self, left: Node, right: Node) -> Piece:
        if left is right:
            return self._over("sum", ir.Map(OPERANDS[0] ** 2, (left,)), left.axes)
        if not self.style.latex:
            return self.style.call("dot", self.piece(left).text, self.piece(right).text)
        first = self.style.transposed(self.style.bracketed(self.piece(left), Level.ATOM))
        second = self.style.bracketed(self.piece(right), Level.POWER)
        return Piece(f"{first}\\,{second}", Level.CONTRACTION)

    def _product(self, node: ir.Contract, kept: list[set[Axis]]) -> Piece:
        """As the language contracts: over the last axis of the left side, which the right one has."""
        (over,) = node.over
        sides = [node.left, node.right]
        # A matrix stands on the left of a vector, where its columns are summed over.
        sides.sort(key=lambda x: (self._orientation(x)[-1] != over, len(x.axes) == 1))
        if self._orientation(sides[0])[-1] != over:
            first = self.style.transposed(self.style.bracketed(self.piece(sides[0]), Level.ATOM))
        else:
            first = self.style.bracketed(self.piece(sides[0]), Level.ATOM)
        second = self.style.bracketed(self.piece(sides[1]), Level.ATOM)
        return Piece(f"{first} @ {second}", Level.CONTRACTION)

    def _transposed_product(self, node: ir.Contract, kept: list[set[Axis]]) -> Piece:
        """A product of matrices with rows and columns: a transpose where a matrix stands the other way."""
        (over,) = node.over
        left, right = node.left, node.right
        if len(node.axes) == 2:
            row = node.axes[0]
            if row not in kept[0]:
                left, right = right, left
        elif len(left.axes) == 1:
            left, right = right, left
        first, second = (self.style.bracketed(self.piece(x), Level.ATOM) for x in (left, right))
        if self._orientation(left)[-1] != over:
            first = self.style.transposed(first)
        if len(right.axes) > 1 and self._orientation(right)[0] != over:
            second = self.style.transposed(second)
        sign = "\\," if self.style.latex else " @ "
        return Piece(f"{first}{sign}{second}", Level.CONTRACTION)

    def _orientation(self, node: Node) -> Axes:
        """The axes of a matrix, rows first, as the spec or the order of all axes has them."""
        match node:
            case ir.Input(name):
                found = self.style.matrices.get(name)
                return found if found and set(found) == set(node.axes) else node.axes
            case ir.Map(_, args):
                same = [x for x in args if set(x.axes) == set(node.axes)]
                return self._orientation(same[0]) if same else node.axes
            case ir.Rename(x, names):
                return tuple(dict(names).get(axis, axis) for axis in self._orientation(x))
            case _:
                return node.axes

    def _triangle(self, text: str, triangle: ir.Triangle) -> Piece:
        """The lower triangle of a matrix, or the upper one where rows stand for columns."""
        lower = ir.ordered((triangle.row, triangle.col))[0] == triangle.row
        offset = ("-1" if lower else "1",) if triangle.strict else ()
        return self.style.call("tril" if lower else "triu", text, *offset)

    def _decay(self, a: Node, b: Node, triangle: ir.Triangle) -> Piece:
        tokens = (triangle.row, triangle.col)
        parts = (self._indexed(x, tokens) for x in (a, b))
        first, second = (self.style.bracketed(p, Level.CONTRACTION) for p in parts)
        if self.style.latex:
            return Piece(f"e^{{{first} - {second}}}", Level.POWER)
        return Piece(f"exp({first} - {second})")

    def _gated(
        self,
        factors: tuple[Node, ...],
        a: Node,
        b: Node,
        over: Axis | None,
        triangle: ir.Triangle,
    ) -> Piece:
        """A sum of products that decay from one token to another, channel by channel."""
        tokens = (triangle.row, triangle.col)
        texts = [self.style.bracketed(self._indexed(x, tokens), Level.POWER) for x in factors]
        texts.append(self._decay(a, b, triangle).text)
        inner = ("\\," if self.style.latex else " * ").join(texts)
        gap = "\\;" if self.style.latex else " "
        where = f"{inner}{gap}{self.style.triangle(triangle)}"
        return (
            Piece(where, Level.SUM)
            if over is None
            else self.style.call("sum", where, along=(over,))
        )

    def _rows(self, node: ir.ForwardSubstitution) -> Piece:
        """A forward substitution: the formula of a row ``g``, then that of ``r``, which it reads."""
        holes: Mapping[Node, str] = {
            hole: self.style.bracketed(self.piece(row), Level.ATOM) for hole, row in node.rows
        }
        given = {**self.names, **holes, node.r: self.style.name("r")}
        g, r = self.style.name("g"), self.style.name("r")
        body = Program((), (("g", node.body),), ())
        lines = program_lines(
            body, self.style, calls=self.calls, given=given, used=self.scalar.used
        )
        base = self.style.bracketed(self.piece(node.p), Level.CONTRACTION)
        scores = self.style.bracketed(self.piece(node.a), Level.ATOM)
        if node.reverse:
            scores = self.style.transposed(scores)
        times = "\\," if self.style.latex else " @ "
        order = "rows_from_the_last" if node.reverse else "rows"
        decayed = ""
        if node.gates is not None:
            triangle = ir.Triangle(ir.I, ir.J, strict=True)
            decayed = f", G = {self._decay(*node.gates, triangle).text}"
            scores = f"{scores} G"
        read = f"{r} = {base} + {scores}{times}{g}{decayed}"
        return self.style.call(order, *(f"{name} = {text}" for _, name, text in lines), read)


# ------------------------------------------------------------ programs


def program_lines(
    program: Program,
    style: Style = TEXT,
    namer: Namer | None = None,
    calls: Mapping[Node, Call] | None = None,
    used: set[type[sp.Function]] | None = None,
    given: Mapping[Node, str] | None = None,
) -> list[tuple[str, str, str]]:
    """A program as (part, name, formula), in an order in which it can be computed.

    part   where the line runs: "before", "loop" or "after" (`Program.parts`)
    namer  names the lines; without one they are called by their label, else `t1`, `t2` …
    calls  nodes to write as functions of the language
    used   takes the functions met that have a definition of their own
    given  texts of nodes that are known already
    """
    results = program.results
    next_states = {name for _, name in program.carried}
    # A state's next value is written with a prime: the same letter without one is its old value.
    primed = {n: f"{n}'" if n in next_states else n for n, _ in results}
    words = _line_names(program, primed, namer or _by_label(program), calls or {}, given or {})
    parts = program.parts()
    writer = Printer(style, {}, calls or {})
    names: dict[Node, str] = dict(given or {})
    writer.names = names
    written: list[tuple[str, str, str]] = []
    for node, word in words.items():
        written.append((parts[node], style.name(word), writer.text(node)))
        names[node] = style.name(word)
    for name, node in results:
        if words.get(node) != primed[name]:
            written.append((parts[node], style.name(primed[name]), writer.piece(node).text))
    if used is not None:
        used |= writer.scalar.used
    return written


def _by_label(program: Program) -> Namer:
    """Names by the labels of the derivation, else `t1`, `t2` …"""
    taken = {x.name for x in program.inputs} | {name for name, _ in program.results}
    count = 0

    def name(node: Node) -> str:
        nonlocal count
        label = program.labels.get(node)
        if label is not None and label.name and label.name not in taken:
            taken.add(label.name)
            return label.name
        count += 1
        return f"t{count}"

    return name


def _line_names(
    program: Program,
    primed: Mapping[str, str],
    namer: Namer,
    calls: Mapping[Node, Call],
    given: Mapping[Node, str],
) -> dict[Node, str]:
    """The nodes that get a line, with its name: the same ones in text and in LaTeX."""
    writer = Printer(TEXT, {}, calls)
    order = _printed_order(writer, [node for _, node in program.results])
    uses: dict[Node, int] = {}
    for node in order:
        for operand in dict.fromkeys(writer.operands(node)):
            uses[operand] = uses.get(operand, 0) + 1
    results = {node: primed[name] for name, node in program.results}
    names: dict[Node, str] = {}
    known = dict(given)
    writer.names = known
    for node in order:
        if node in given or isinstance(
            node, ir.Input | ir.Number | ir.AxisSize | ir.Broadcast | ir.Rename
        ):
            continue
        text = writer.text(node)
        if node not in results and (text.isidentifier() or is_part_of_norm(node)):
            continue
        solved = isinstance(node, ir.Inverse | ir.ForwardSubstitution)
        # A function of one name is as short as a name.
        repeated = uses.get(node, 0) > 1 and not (
            _is_short(node, known, calls) and len(text) <= SHORT
        )
        if node in results or repeated or solved or len(text) > LONG:
            names[node] = known[node] = results[node] if node in results else namer(node)
    return names


def _is_short(node: Node, names: Mapping[Node, str], calls: Mapping[Node, Call]) -> bool:
    """Whether a node is one function, or a sign, of one named value."""
    given = calls[node].args if node in calls else node.operands
    leaf = (x in names or isinstance(x, ir.Input | ir.Broadcast | ir.Rename) for x in given)
    return len(given) == 1 and isinstance(node, ir.Map | ir.Mask) and all(leaf)


def _printed_order(writer: Printer, roots: list[Node]) -> list[Node]:
    """Every node that is printed, operands first; what a call stands for is not entered."""
    keep = set[Node]()
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node not in keep:
            keep.add(node)
            stack += writer.operands(node)
    return [node for node in postorder([*roots, *keep]) if node in keep]


def print_program(
    program: Program,
    style: Style = TEXT,
    namer: Namer | None = None,
    calls: Mapping[Node, Call] | None = None,
) -> str:
    """A program with its three parts under headings, one formula a line."""
    found = program_lines(program, style, namer, calls)
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
