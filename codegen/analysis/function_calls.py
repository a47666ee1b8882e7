"""Functions of the language that a program holds written out: `layernorm`, `softmax`, `orthogonal`.

A node is interned, so a function is found by building it again of a node that could be its operand: if
the result is a node of the program, that node is the function.  A pass that rewrites a program may hide
one; it is then printed written out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import sympy as sp

from miras_dsl.codegen.model.lower import layer_norm, orthogonal, softmax
from miras_dsl.codegen.passes.autodiff import vjp
from miras_dsl.ir import (
    Axes,
    Axis,
    Contract,
    Input,
    Map,
    Node,
    Number,
    Reduce,
    Role,
    is_token_axis,
    postorder,
)
from miras_dsl.ir.notation.writer import Call
from miras_dsl.scalar import functions as scalars
from miras_dsl.scalar.functions import OPERANDS

MOST_NODES = 1200
"""Nodes of a program beyond which no function is looked for."""
MOST_STEPS = 16
USUAL_STEPS = 5
"""Newton-Schulz steps that the language allows, and those of `orthogonal` without a number."""

DEFINITIONS = {
    "layernorm": "layernorm(z, w, s) = (z - mean(z)) / sqrt(mean((z - mean(z))^2) + 1e-6) * w + s",
    "layernorm'": "layernorm'(z, g) = (g - mean(g) - n * mean(g * n)) / "
    "sqrt(mean((z - mean(z))^2) + 1e-6), where n = layernorm(z)",
}
"""What these functions are, for those a reader may want to look up; `w` and `s` may be left out."""


def function_calls(roots: Iterable[Node]) -> dict[Node, Call]:
    """The nodes of some formulas that are functions of the language, with their operands."""
    order = postorder(roots)
    if len(order) > MOST_NODES:
        return {}
    found: dict[Node, Call] = {}
    held = set(order)
    if any(isinstance(n, Map) and n.formula.has(scalars.rsqrt) for n in order):
        found |= dict(_layer_norms(order, held))
    for node in order:
        if isinstance(node, Reduce) and node.kind == "max":
            made = softmax(node.x, node.over)
            if made in held:
                along = () if node.x.axes[-1:] == node.over else node.over
                found[made] = Call("softmax", (node.x,), along)
    if any(str(axis).endswith("~") for node in order for axis in node.axes):
        found |= dict(_orthogonals(order, held))
    return found


def _layer_norms(order: list[Node], held: set[Node]) -> Iterator[tuple[Node, Call]]:
    constants = [x for x in order if isinstance(x, Input) and x.role is Role.CONSTANT]
    for centred, over in _squares(order):
        for x in centred.operands:
            plain = layer_norm([x], over)
            if plain not in held:
                continue
            yield plain, Call("layernorm", (x,))
            fitting = [c for c in constants if c.axes == over]
            for weight in fitting:
                for shift in fitting:
                    made = layer_norm([x, weight, shift], over)
                    if made in held:
                        yield made, Call("layernorm", (x, weight, shift))
            for cotangent in _cotangents(order, centred, over):
                (made,) = vjp({plain: cotangent}, [x]).values()
                if made in held:
                    yield made, Call("layernorm'", (x, cotangent))


def _squares(order: list[Node]) -> Iterator[tuple[Node, Axes]]:
    """What is squared and summed over one axis: the deviation from a mean, in a layernorm."""
    for node in order:
        match node:
            case Reduce("sum", Map(formula, (x,)), over) if formula == OPERANDS[0] ** 2:
                yield x, over
            case Contract(left, right, over) if left is right:
                yield left, over


def _cotangents(order: list[Node], centred: Node, over: Axes) -> list[Node]:
    """What a deviation is multiplied by and summed: the gradient of a layernorm does so."""
    found: dict[Node, None] = {}
    for node in order:
        if isinstance(node, Contract) and node.over == over and node.left is not node.right:
            if node.left is centred:
                found[node.right] = None
            elif node.right is centred:
                found[node.left] = None
    return list(found)


def _orthogonals(order: list[Node], held: set[Node]) -> Iterator[tuple[Node, Call]]:
    for x in order:
        if len(_channels(x)) != 2 or len(x.axes) != 2:
            continue
        if any(str(axis).endswith("~") for axis in x.axes):
            continue
        if orthogonal(x, 1) not in held:
            continue
        # The steps of a longer iteration begin like those of a shorter one: the longest counts.
        for steps in range(MOST_STEPS, 0, -1):
            made = orthogonal(x, steps)
            if made in held:
                more = () if steps == USUAL_STEPS else (Number(sp.Integer(steps)),)
                yield made, Call("orthogonal", (x, *more))
                break


def _channels(node: Node) -> list[Axis]:
    return [axis for axis in node.axes if not is_token_axis(axis)]
