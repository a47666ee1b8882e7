"""A layer's half of stage 3 as text: one line for each operation and each value."""

from __future__ import annotations

from miras_dsl.ir import Axes, Node
from miras_dsl.ir.notation.printer import Printer
from miras_dsl.ir.notation.style import TEXT

from .module_types import LayerOp, LayerOperation, ModuleModel, ValueKind


def print_module(module: ModuleModel) -> str:
    """The operations of a layer in an order in which they can be computed, then its values."""
    lines = ["operations"]
    lines += [f"  {_line(o.result, o.result.name, _call(o))}" for o in module.operations]
    lines.append("values")
    for value in module.values:
        name = value.value.name
        if value.kind is ValueKind.CONSTANT:
            continue
        lines.append(f"  {_line(value.value, name, _text(value.formula))}")
        if value.log is not None:
            lines.append(f"  log {name} = {_text(value.log)}")
    lines += [f"  {w.name}{_axes(w.axes)} starts {w.init}" for w in module.weights]
    return "\n".join(lines)


def _line(result: Node, name: str, text: str) -> str:
    return f"{name}{_axes(result.axes)} = {text}"


def _axes(axes: Axes) -> str:
    return f"[{', '.join(map(str, axes))}]" if axes else ""


def _text(node: Node) -> str:
    return Printer(TEXT, {}).text(node)


def _call(operation: LayerOperation) -> str:
    """An operation as the language writes it, with what is not the default."""
    given = [] if operation.x is None else [_text(operation.x)]
    options = {
        "rank": operation.rank,
        "width": operation.width,
        "steps": operation.steps,
        "n": operation.count,
    }
    given += [f"{word} = {number}" for word, number in options.items() if number]
    if operation.power is not None:
        given.append(f"p = {operation.power}")
    if operation.op is LayerOp.CONSTANT:
        given.append(operation.start or f"{operation.init:g}")
    over = f"[{', '.join(map(str, operation.over))}]" if operation.over else ""
    return f"{operation.op.value}{over}({', '.join(given)})"
