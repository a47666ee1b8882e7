"""The text of token-by-token kernels from their plan: both kernels and the table for the launcher."""

from __future__ import annotations

from collections.abc import Iterable

from miras_dsl.codegen.emit.imports import import_lines
from miras_dsl.codegen.emit.namespace import assert_defined_once
from miras_dsl.codegen.emit.render import render
from miras_dsl.codegen.plan.kernel_plan import KernelPlan, Phase, Value
from miras_dsl.ir import axis_names

from .backward import backward
from .forward import forward
from .frame import input_of, inputs_of_kernel
from .printer import folded

TITLE = '"""Token-by-token kernels of {name}, generated from {place}."""'


def kernel_module(plan: KernelPlan, prefix: str) -> str:
    """A module with the kernels of one rule, and `table_name` for what the launcher takes."""
    title = TITLE.format(name=plan.name, place=plan.interface.cited)
    text = emit_kernels(plan, prefix)
    return assert_defined_once(f"{title}\n\n{import_lines(text)}\n\n{text}")


def table_name(prefix: str) -> str:
    """The name under which a module has the `Recurrence` of a rule."""
    return f"_{prefix}_kernels"


def emit_kernels(plan: KernelPlan, prefix: str) -> str:
    """Both kernels and their table, without imports; their names begin with ``prefix``."""
    texts = [
        render("triton/token_fwd.py.j2", forward(plan, prefix)),
        render("triton/token_bwd.py.j2", backward(plan, prefix)),
        _table(plan, prefix),
    ]
    return folded("\n\n".join(texts))


def _table(plan: KernelPlan, prefix: str) -> str:
    """What a launcher must know, as an expression."""
    (kernel,) = plan.kernels_of(Phase.FORWARD)
    tokens, constants, states = inputs_of_kernel(plan, kernel)
    return (
        f"{table_name(prefix)} = Recurrence(\n"
        f"    forward={prefix}_forward,\n"
        f"    backward={prefix}_backward,\n"
        f"    tokens={_pairs(tokens)},\n"
        f"    constants={_pairs(constants)},\n"
        f"    states={_pairs(states)},\n"
        f"    split={bool(kernel.grid)},\n"
        ")\n"
    )


def _pairs(values: Iterable[Value]) -> str:
    named = [(input_of(value).name, axis_names(value.node.axes)) for value in values]
    lines = "".join(f"        {_quoted(pair)},\n" for pair in named)
    return f"(\n{lines}    )" if lines else "()"


def _quoted(value: object) -> str:
    return repr(value).replace("'", '"')
