"""Reverse mode: one rule per operation, for formulas, for whole programs and for bodies of rows.

These rules are all the tensor calculus that the compiler knows.  Scalar calculus is sympy's; the two
meet in `Map`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import assert_never

from miras_dsl.ir import (
    ONE,
    ZERO,
    AxisSize,
    Broadcast,
    Contract,
    Cumsum,
    Decay,
    ForwardSubstitution,
    GatedApply,
    GatedContract,
    GatedSpan,
    Input,
    Inverse,
    Join,
    L,
    Label,
    M,
    Map,
    Mask,
    Node,
    Number,
    PlaceLast,
    Program,
    Reduce,
    Rename,
    Role,
    Shift,
    Split,
    TakeLast,
    Triangle,
    broadcast,
    contract,
    elementwise,
    inputs_of,
    is_zero,
    ordered,
    postorder,
    reduce_sum,
    rename,
    substitute,
)
from miras_dsl.scalar.functions import OPERANDS, derivative

from .decay_gradient import decay_log


def vjp(
    cotangents: Mapping[Node, Node],
    wrt: Iterable[Node],
    labels: dict[Node, Label] | None = None,
) -> dict[Node, Node]:
    """The cotangents of ``wrt``, given those of some results; 0 where nothing depends on it.

    labels  takes a label for the cotangent of each node on the way, if it is given
    """
    adjoint: dict[Node, Node] = {}
    for node, cotangent in cotangents.items():
        adjoint[node] = adjoint[node] + cotangent if node in adjoint else cotangent
    wanted = set(wrt)
    order = postorder(cotangents)
    needed = set()
    for node in order:
        if node in wanted or any(operand in needed for operand in node.operands):
            needed.add(node)
    for node in reversed(order):
        if node not in adjoint or node not in needed or is_zero(adjoint[node]):
            continue
        if labels is not None:
            labels.setdefault(adjoint[node], Label("", of=node))
        for operand, share in vjp_rule(node, broadcast(adjoint[node], node.axes)):
            if operand in needed and not is_zero(share):
                adjoint[operand] = adjoint[operand] + share if operand in adjoint else share
    return {node: adjoint.get(node, ZERO) for node in wanted}


def gradient(loss: Node, wrt: Node) -> Node:
    """``d loss / d wrt`` of a scalar."""
    return vjp({loss: ONE}, [wrt])[wrt]


def vjp_rule(node: Node, g: Node) -> Iterator[tuple[Node, Node]]:
    """Yield ``(operand, its share)`` of the cotangent ``g`` of ``node``."""
    match node:
        case Input() | Number() | AxisSize():
            return
        case Map(formula, args):
            for slot, arg in zip(OPERANDS, args, strict=False):
                slope = derivative(formula, slot)
                if slope != 0:
                    product = elementwise(slope * OPERANDS[len(args)], *args, g)
                    yield arg, reduce_sum(product, set(node.axes) - set(arg.axes))
        case Contract(left, right, _):
            yield left, contract(g, right, set(ordered(g.axes + right.axes)) - set(left.axes))
            yield right, contract(g, left, set(ordered(g.axes + left.axes)) - set(right.axes))
        case Reduce("sum", x, over):
            yield x, broadcast(g, over)
        case Reduce(_, x, _):
            yield x, ZERO
        case Broadcast(x, along):
            yield x, reduce_sum(g, along)
        case Rename(x, names):
            yield x, rename(g, {new: old for old, new in names})
        case Cumsum(x, axis, reverse):
            yield x, Cumsum(g, axis, not reverse)
        case Shift(x, axis, by):
            yield x, Shift(g, axis, -by)
        case TakeLast(x, axis):
            yield x, PlaceLast(g, axis)
        case PlaceLast(x, axis):
            yield x, TakeLast(g, axis)
        case Split(x, axis, block, row, size):
            yield x, Join(g, axis, block, row, size)
        case Join(x, axis, block, row, size):
            yield x, Split(g, axis, block, row, size)
        case Mask(x, triangle):
            yield x, reduce_sum(Mask(g, triangle), set(node.axes) - set(x.axes))
        case Decay(a, b, triangle):
            moved = node * g
            if (decay := decay_log(a, b)) is not None:
                yield decay.log, _to_axes(decay.of_pairs(moved, triangle), decay.log)
                return
            yield a, reduce_sum(moved, set(node.axes) - set(a.axes))
            yield b, -reduce_sum(moved, set(node.axes) - set(b.axes))
        case GatedContract(x, y, a, b, over, triangle):
            dx = GatedApply(g, y, a, b, over, triangle, triangle.col)
            dy = GatedApply(g, x, a, b, over, triangle, triangle.row)
            yield from ((x, dx), (y, dy))
            if (decay := decay_log(a, b)) is not None:
                yield decay.log, decay.of_products(g, x, y, a, b, over, triangle)
            else:
                yield from ((a, x * dx), (b, -(y * dy)))
        case GatedApply(m, y, a, b, channel, triangle, over):
            col = triangle.col
            other = triangle.row if over == col else col
            dy = GatedApply(m, g, a, b, channel, triangle, other)
            at_row, at_col = (g, y) if over == col else (y, g)
            yield m, GatedContract(at_row, at_col, a, b, channel, triangle)
            yield y, dy
            if (decay := decay_log(a, b)) is not None:
                yield decay.log, decay.of_products(m, at_row, at_col, a, b, channel, triangle)
                return
            of_row, of_col = (g * node, y * dy) if over == col else (y * dy, g * node)
            yield from ((a, of_row), (b, -of_col))
        case GatedSpan():
            raise AssertionError("the gradient of a decay is made by this pass, not read by it")
        case Inverse(x, row, col):
            first = contract(rename(node, {row: L, col: row}), rename(g, {row: L, col: M}), (L,))
            second = contract(first, rename(node, {row: col, col: M}), (M,))
            yield x, Mask(-second, Triangle(row, col, True))
        case ForwardSubstitution():
            yield from _substitution(node, g)
        case _:
            assert_never(node)


def _to_axes(x: Node, like: Node) -> Node:
    """``x`` summed over the axes that ``like`` lacks."""
    return reduce_sum(x, set(x.axes) - set(like.axes))


def _substitution(node: ForwardSubstitution, g: Node) -> Iterator[tuple[Node, Node]]:
    """The adjoint of a substitution is the transposed substitution through the body's derivative."""
    if node.reverse:
        raise AssertionError("a reverse substitution is made by this pass, not read by it")
    a, p, gates, row, col = node.a, node.p, node.gates, node.row, node.col
    before = Triangle(row, col, strict=True)
    earlier = rename(node, {row: col})
    if gates is None:
        sources = contract(a, earlier, (col,))
    else:
        (channel,) = set(p.axes) - {row}
        high, low = gates[0], rename(gates[1], {row: col})
        sources = GatedApply(a, earlier, high, low, channel, before, col)
    rows_r = p + sources

    hole = Input("t", node.body.axes, Role.HOLE)
    rows = dict(node.rows)
    slopes = vjp({node.body: hole}, [node.r, *rows])
    kept_r = Input("kept", node.r.axes, Role.HOLE)
    (body,) = substitute([slopes[node.r]], {node.r: kept_r})
    through = g
    if not is_zero(body):
        read = set(inputs_of([body]))
        holes = tuple((h, x) for h, x in ((kept_r, rows_r), *node.rows) if h in read)
        slope = broadcast(body, node.r.axes)
        dr = ForwardSubstitution(a, g, slope, hole, holes, gates, True, row, col)
        if gates is None:
            back = rename(contract(a, dr, (row,)), {col: row})
            da = contract(dr, earlier, set(node.body.axes))
        else:
            moved = GatedApply(a, dr, high, low, channel, before, row)
            back = rename(moved, {col: row})
            da = GatedContract(dr, earlier, high, low, channel, before)
            if (decay := decay_log(high, low)) is not None:
                yield decay.log, decay.of_products(a, dr, earlier, high, low, channel, before)
            else:
                yield gates[0], dr * sources
                yield gates[1], -(node * back)
        yield p, dr
        yield a, Mask(da, before)
        through = g + back
    lifted = {node.r: rows_r, hole: through, **rows}
    for h, given in node.rows:
        (share,) = substitute([slopes[h]], lifted)
        yield (
            given,
            share
            if is_zero(share)
            else reduce_sum(broadcast(share, given.axes), set(share.axes) - set(given.axes)),
        )


def adjoint(program: Program) -> Program:
    """The reverse mode of a program: a program of the same type that is walked the other way.

    Its carried states are the cotangents ``d_S`` of the carried states; the states on entry of each
    chunk stay inputs, as the forward program has them, so that equal values of both programs are one;
    every output ``y`` brings an input ``d_y``; the results are ``d_x`` for every input x whose role
    has a gradient.
    """
    carried = dict(program.carried)
    names = {name: state for state, name in program.carried}
    cotangents: dict[Node, Node] = {}
    inputs: list[Input] = []
    for name, node in program.results:
        if name in names:
            cotangent = Input(f"d_{names[name].name}", names[name].shape, Role.STATE)
        else:
            cotangent = Input(f"d_{name}", node.axes, Role.COTANGENT)
        inputs.append(cotangent)
        cotangents[node] = cotangents[node] + cotangent if node in cotangents else cotangent
    wanted = [x for x in program.inputs if x.role.differentiable]
    labels = dict(program.labels)
    found = vjp(cotangents, wanted, labels)
    return Program(
        inputs=(*program.inputs, *inputs),
        results=tuple((f"d_{x.name}", broadcast(found[x], x.axes)) for x in wanted),
        carried=tuple((Input(f"d_{s.name}", s.shape, Role.STATE), f"d_{s.name}") for s in carried),
        reverse=not program.reverse,
        labels=labels,
    )
