"""Contractions as formulas: as `sum` or `dot`, or with `@` and the transposes that it needs."""

from __future__ import annotations

from miras_dsl import ir
from miras_dsl.ir import Axes, Axis, Node
from miras_dsl.scalar.functions import OPERANDS

from .norms import token_axes
from .style import Level, Piece, Style
from .writer import Writer


def contraction(writer: Writer, node: ir.Contract) -> Piece:
    """A sum of products over shared axes: a `sum`, a `dot`, or a product of matrices."""
    left, right, over = node.left, node.right, node.over
    kept = [set(x.axes) - set(over) for x in (left, right)]
    if len(over) > 1 or kept[0] & kept[1] or max(map(len, kept)) > 1:
        tokens = token_axes((*left.axes, *right.axes))
        if left is right:
            return writer.over("sum", ir.Map(OPERANDS[0] ** 2, (left,)), over)
        parts = [writer.indexed(x, tokens) for x in (left, right)]
        texts = [writer.style.bracketed(p, Level.POWER) for p in parts]
        sign = " \\odot " if writer.style.latex else " * "
        along = over if node.axes else ()
        return writer.style.call("sum", sign.join(texts), along=along)
    if not node.axes:
        return _dot(writer, left, right)
    axes = (*left.axes, *right.axes)
    # A matrix times itself has a second name for an axis: the language has no word for it.
    twin = any(axis.name.endswith("~") for axis in axes)
    whole = writer.style.latex or twin or bool(token_axes(axes))
    return _transposed_product(writer, node, kept) if whole else _product(writer, node)


def _dot(writer: Writer, left: Node, right: Node) -> Piece:
    if left is right:
        return writer.over("sum", ir.Map(OPERANDS[0] ** 2, (left,)), left.axes)
    if not writer.style.latex:
        return writer.style.call("dot", writer.piece(left).text, writer.piece(right).text)
    first = writer.style.transposed(writer.style.bracketed(writer.piece(left), Level.ATOM))
    second = writer.style.bracketed(writer.piece(right), Level.POWER)
    return Piece(f"{first}\\,{second}", Level.CONTRACTION)


def _product(writer: Writer, node: ir.Contract) -> Piece:
    """As the language contracts: over the last axis of the left side, which the right one has."""
    (over,) = node.over
    sides = [node.left, node.right]
    # A matrix stands on the left of a vector, where its columns are summed over.
    sides.sort(key=lambda x: (_orientation(x, writer.style)[-1] != over, len(x.axes) == 1))
    if _orientation(sides[0], writer.style)[-1] != over:
        first = writer.style.transposed(writer.style.bracketed(writer.piece(sides[0]), Level.ATOM))
    else:
        first = writer.style.bracketed(writer.piece(sides[0]), Level.ATOM)
    second = writer.style.bracketed(writer.piece(sides[1]), Level.ATOM)
    return Piece(f"{first} @ {second}", Level.CONTRACTION)


def _transposed_product(writer: Writer, node: ir.Contract, kept: list[set[Axis]]) -> Piece:
    """A product of matrices with rows and columns: a transpose where a matrix stands the other way."""
    (over,) = node.over
    left, right = node.left, node.right
    if len(node.axes) == 2:
        row = node.axes[0]
        if row not in kept[0]:
            left, right = right, left
    elif len(left.axes) == 1:
        left, right = right, left
    first, second = (writer.style.bracketed(writer.piece(x), Level.ATOM) for x in (left, right))
    if _orientation(left, writer.style)[-1] != over:
        first = writer.style.transposed(first)
    if len(right.axes) > 1 and _orientation(right, writer.style)[0] != over:
        second = writer.style.transposed(second)
    sign = "\\," if writer.style.latex else " @ "
    return Piece(f"{first}{sign}{second}", Level.CONTRACTION)


def _orientation(node: Node, style: Style) -> Axes:
    """The axes of a matrix, rows first, as the spec or the order of all axes has them."""
    match node:
        case ir.Input(name):
            found = style.matrices.get(name)
            return found if found and set(found) == set(node.axes) else node.axes
        case ir.Map(_, args):
            same = [x for x in args if set(x.axes) == set(node.axes)]
            return _orientation(same[0], style) if same else node.axes
        case ir.Rename(x, names):
            return tuple(dict(names).get(axis, axis) for axis in _orientation(x, style))
        case _:
            return node.axes
