"""Sums over the tokens of a chunk as formulas: triangles, decays, and rows that wait for one another."""

from __future__ import annotations

from collections.abc import Mapping

from miras_dsl import ir
from miras_dsl.ir import Axis, Node, Program

from .line_choice import lines_of
from .style import Level, Piece
from .writer import Writer


def in_triangle(writer: Writer, text: str, triangle: ir.Triangle) -> Piece:
    """The lower triangle of a matrix, or the upper one where rows stand for columns."""
    lower = ir.ordered((triangle.row, triangle.col))[0] == triangle.row
    offset = ("-1" if lower else "1",) if triangle.strict else ()
    return writer.style.call("tril" if lower else "triu", text, *offset)


def decay(writer: Writer, a: Node, b: Node, triangle: ir.Triangle) -> Piece:
    """The decay between the tokens of a pair: `exp(a_i - b_j)`."""
    tokens = (triangle.row, triangle.col)
    parts = (writer.indexed(x, tokens) for x in (a, b))
    first, second = (writer.style.bracketed(p, Level.CONTRACTION) for p in parts)
    if writer.style.latex:
        return Piece(f"e^{{{first} - {second}}}", Level.POWER)
    return Piece(f"exp({first} - {second})")


def gated_sum(
    writer: Writer,
    factors: tuple[Node, ...],
    a: Node,
    b: Node,
    over: Axis | None,
    triangle: ir.Triangle,
) -> Piece:
    """A sum of products that decay from one token to another, channel by channel."""
    tokens = (triangle.row, triangle.col)
    texts = [writer.style.bracketed(writer.indexed(x, tokens), Level.POWER) for x in factors]
    texts.append(decay(writer, a, b, triangle).text)
    inner = ("\\," if writer.style.latex else " * ").join(texts)
    gap = "\\;" if writer.style.latex else " "
    where = f"{inner}{gap}{writer.style.triangle(triangle)}"
    return (
        Piece(where, Level.SUM) if over is None else writer.style.call("sum", where, along=(over,))
    )


def rows(writer: Writer, node: ir.ForwardSubstitution) -> Piece:
    """A forward substitution: the formula of a row ``g``, then that of ``r``, which it reads."""
    holes: Mapping[Node, str] = {
        hole: writer.style.bracketed(writer.piece(row), Level.ATOM) for hole, row in node.rows
    }
    given = {**writer.names, **holes, node.r: writer.style.name("r")}
    g, r = writer.style.name("g"), writer.style.name("r")
    body = Program((), (("g", node.body),), ())
    lines = lines_of(writer, body, given)
    base = writer.style.bracketed(writer.piece(node.p), Level.CONTRACTION)
    scores = writer.style.bracketed(writer.piece(node.a), Level.ATOM)
    if node.reverse:
        scores = writer.style.transposed(scores)
    times = "\\," if writer.style.latex else " @ "
    order = "rows_from_the_last" if node.reverse else "rows"
    decayed = ""
    if node.gates is not None:
        triangle = ir.Triangle(node.row, node.col, strict=True)
        decayed = f", G = {decay(writer, *node.gates, triangle).text}"
        scores = f"{scores} G"
    read = f"{r} = {base} + {scores}{times}{g}{decayed}"
    return writer.style.call(order, *(f"{name} = {text}" for _, name, text in lines), read)
