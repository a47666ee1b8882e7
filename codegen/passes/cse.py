"""Scalar work that several formulas repeat, as nodes of its own.

A derivative says `erf(x)` or `exp(a)` wherever calculus puts it.  Two formulas of one part of a
program that hold the same term of the same operands read it from one node instead: the generated
text computes it once, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import sympy as sp

from miras_dsl.ir import AxisSize, Map, Node, Program, formula, postorder, with_operands
from miras_dsl.scalar.functions import OPERANDS
from miras_dsl.scalar.monotone_inverse import monotone_inverse

Worth = Callable[[sp.Expr], bool]
"""Whether a repeated term, over symbols for its operands, is worth a node."""


def is_call(term: sp.Expr) -> bool:
    """Functions only: what a compiler of arithmetic does not see through."""
    return isinstance(term, sp.Function)


def is_work(term: sp.Expr) -> bool:
    """Any work but a change of sign or scale, which is as short as a name."""
    return not sp.Mul(*(part for part in sp.Mul.make_args(term) if not part.is_number)).is_Symbol


def eliminate_in_program(
    program: Program, worth: Worth, parts: Iterable[Sequence[Node]] = ()
) -> Program:
    """A program with its repeated terms shared; within each of some parts, or as a whole."""
    labelled = list(program.labels)
    order = set(postorder(node for _, node in program.results))
    labelled = [node for node in labelled if node in order]
    roots = [*(node for _, node in program.results), *labelled]
    made = eliminate_common_subexpressions(roots, worth, parts)
    return program.with_results(dict(zip(roots, made, strict=True)))


def eliminate_common_subexpressions(
    roots: Sequence[Node], worth: Worth, parts: Iterable[Sequence[Node]] = ()
) -> list[Node]:
    """The roots with repeated terms shared; within each of some parts, or among them all."""
    order = postorder(roots)
    symbols = {node: sp.Symbol(f"n{at}", real=True) for at, node in enumerate(order)}
    nodes = {symbol: node for node, symbol in symbols.items()}
    sizes = {symbols[node] for node in order if isinstance(node, AxisSize)}
    fresh = (sp.Symbol(f"s{at}", real=True) for at in range(10**6))
    terms: dict[sp.Symbol, sp.Expr] = {}
    reduced: dict[Node, sp.Expr] = {}
    for part in list(parts) or [order]:
        maps = [n for n in part if isinstance(n, Map) and not n.formula.has(monotone_inverse)]
        written = [
            n.formula.xreplace({s: symbols[a] for s, a in zip(OPERANDS, n.args, strict=False)})
            for n in maps
        ]
        found, rest = _repeated(written, lambda t: bool(t.free_symbols - sizes) and worth(t), fresh)
        terms |= found
        reduced |= {n: r for n, w, r in zip(maps, written, rest, strict=True) if r != w}
    made: dict[Node, Node] = {}

    def node_of(expr: sp.Expr, first: Iterable[Node] = ()) -> Node:
        used = [*(symbols[node] for node in first), *sorted(expr.free_symbols, key=_place)]
        return formula(expr, {s: operand(s) for s in used if s in expr.free_symbols})

    def operand(symbol: sp.Symbol) -> Node:
        if symbol not in nodes:
            nodes[symbol] = node_of(terms[symbol])
        return made.get(nodes[symbol], nodes[symbol])

    for node in order:
        if node in reduced:
            made[node] = node_of(reduced[node], node.operands)
        else:
            made[node] = with_operands(node, made) if node.operands else node
    return [made[root] for root in roots]


def _place(symbol: sp.Symbol) -> tuple[str, int]:
    return symbol.name[0], int(symbol.name[1:])


def _repeated(
    written: list[sp.Expr], worth: Worth, fresh: Iterator[sp.Symbol]
) -> tuple[dict[sp.Symbol, sp.Expr], list[sp.Expr]]:
    """Terms that stand more than once in some formulas, and the formulas over them."""
    found, rest = sp.cse(written, symbols=fresh, order="none")
    if not found:
        return {}, written
    terms: dict[sp.Symbol, sp.Expr] = {}
    back: dict[sp.Symbol, sp.Expr] = {}
    for symbol, term in found:
        whole = term.xreplace(back)
        if worth(whole):
            terms[symbol] = whole
        else:
            back[symbol] = whole
    return terms, [expr.xreplace(back) for expr in rest]
