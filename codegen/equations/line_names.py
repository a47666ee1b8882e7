"""What the lines of printed programs are called: the words of the derivation and of the field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from miras_dsl.codegen.plan.naming import NameTable
from miras_dsl.ir import Contract, Input, Label, Map, Node, Rename, Role, inputs_of
from miras_dsl.ir.printer import Call, Namer
from miras_dsl.scalar.functions import OPERANDS

WEIGHTS = (Role.WEIGHT, Role.STATE, Role.NEXT)
X, Y = OPERANDS[:2]


def line_namer(
    inputs: Iterable[Input],
    results: Iterable[str],
    labels: Mapping[Node, Label],
    calls: Mapping[Node, Call],
) -> Namer:
    """Names for the lines of one program; they are different from each other and from its inputs.

    error           what the memory answers less the value
    z1, z2 …        what a weight of this number gives
    d_z2            the gradient of z2
    query_key …     else what the operation works on (`NameTable`)
    """
    table = NameTable(dict(labels))
    table.taken |= {name.replace(".", "_") for name in results}
    for x in inputs:
        table.name(x, x.name.replace(".", "_"))

    def name(node: Node) -> str:
        label = labels.get(node)
        wish = "" if label is not None and label.name else _wish(node, table, calls)
        return table.name(node, wish)

    return name


def _wish(node: Node, table: NameTable, calls: Mapping[Node, Call]) -> str:
    """A word of the field for what a node is, or ""."""
    call = calls.get(node)
    if call is not None and call.function.endswith("'"):
        of = table.given.get(call.args[0], "")
        return f"d_{of}" if of else ""
    match node:
        case Map(formula, (_, second)) if formula == X - Y and _is_value(second):
            return "error"
        case Contract(left, right, _):
            for side, other in ((left, right), (right, left)):
                if _is_weight(side) and not _is_weight(other):
                    return _layer_word(side, node)
            return ""
        case _:
            return ""


def _is_value(node: Node) -> bool:
    while isinstance(node, Rename):
        node = node.x
    return isinstance(node, Input) and node.name == "value"


def _is_weight(node: Node) -> bool:
    return isinstance(node, Input) and node.role in WEIGHTS and len(node.axes) > 1


def _layer_word(weight: Node, result: Node) -> str:
    """`z1` for what `W1` gives; "" where the product goes backwards through the weight."""
    name = weight.name.partition(".")[0] if isinstance(weight, Input) else ""
    digits = name[len(name.rstrip("0123456789")) :]
    backwards = any(x.role is Role.COTANGENT for x in inputs_of([result]))
    return "" if backwards else f"z{digits}"
