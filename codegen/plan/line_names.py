"""How the programs of a memory are spelled: its own names, and words of the field for their lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import sympy as sp

from miras_dsl.codegen.analysis.function_calls import function_calls
from miras_dsl.codegen.model.types import MemoryInput, MemoryModel, StateTensor
from miras_dsl.ir import (
    Axes,
    Axis,
    Contract,
    Input,
    Label,
    Map,
    Node,
    Program,
    Rename,
    Role,
    inputs_of,
    is_token_axis,
)
from miras_dsl.ir.notation.line_choice import Namer
from miras_dsl.ir.notation.program_lines import program_lines
from miras_dsl.ir.notation.style import Style
from miras_dsl.ir.notation.writer import Call
from miras_dsl.scalar.functions import OPERANDS

from .naming import NameTable

FUNCTION_WORDS = frozenset({
    "abs", "sign", "exact_sign", "sqrt", "exp", "log", "sin", "cos", "tanh", "sinh", "cosh", "erf",
    "sigmoid", "softplus", "relu", "silu", "gelu", "gelu_tanh", "max", "min", "where", "sum", "mean",
    "norm", "dot", "outer", "softmax", "layernorm", "orthogonal", "cumsum", "tril", "and", "or", "not",
})  # fmt: skip
"""Functions and words of the language, after which no line is called."""

WEIGHTS = (Role.WEIGHT, Role.STATE, Role.NEXT)
X, Y = OPERANDS[:2]


def style_of(model: MemoryModel, states: Iterable[StateTensor] = (), latex: bool = False) -> Style:
    """A style that knows a memory's logarithms, matrices and sizes, and names of the compiler's own."""
    matrices: dict[str, Axes] = {}
    for weight in model.weights:
        column = model.formulas_of(weight.name).column
        rows = tuple(axis for axis in weight.axes if axis != column)
        if rows and column is not None:
            matrices[weight.name] = (*rows, column)
            # What stands for this weight alone in the rules of others.
            formulas = model.formulas_of(weight.name)
            if all(f is formulas or f.kept is not formulas.kept for _, f in model.formulas):
                for hole in (formulas.grad, formulas.kept, formulas.newest):
                    matrices[hole.name] = matrices[weight.name]
    for state in states:
        if state.of in matrices and set(state.axes) == set(matrices[state.of]):
            matrices[state.name] = matrices[state.of]
    sizes: dict[Axis, str] = {
        axis: str(size).replace("**", "^") for axis, size in model.sizes if size is not None
    }
    taken = {given.name for given in model.inputs} | set(matrices)
    aliases = {given.name: alias_of(given) for given in model.inputs if not given.log}
    return Style(
        latex=latex,
        logs=tuple((g.name, alias_of(g)) for g in model.inputs if g.log),
        matrices=matrices,
        sizes=sizes,
        aliases={name: word for name, word in aliases.items() if word == name or word not in taken},
    )


def alias_of(given: MemoryInput) -> str:
    """What a reader calls an input: by its name in the spec; what the checker named is `learned_1`."""
    word = f"learned{given.of}" if given.of.startswith("_") else given.of
    return f"{word}_{given.weight}" if given.weight else word


def named_lines(
    program: Program, style: Style, used: set[type[sp.Function]] | None = None
) -> list[tuple[str, str, str]]:
    """A program as (part, name, formula), with names and functions of the field."""
    calls = function_calls(node for _, node in program.results)
    names = [name for name, _ in program.results]
    namer = line_namer(program.inputs, names, program.labels, calls)
    return program_lines(program, style, namer, calls, used)


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
    table.taken |= FUNCTION_WORDS | {name.replace(".", "_") for name in results}
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
        case Map(sp.Add(), args) if products := [x for x in args if isinstance(x, Contract)]:
            return _wish(products[0], table, calls)
        case Map(formula, args) if isinstance(formula, sp.Mul) and len(_channels(node)) > 1:
            states = [x for x in args if _is_weight(x) and isinstance(x, Input)]
            return f"kept_{states[0].name.replace('.', '_')}" if states else "step"
        case Contract(left, right, _):
            for side, other in ((left, right), (right, left)):
                if _is_weight(side) and not _is_weight(other):
                    return _layer_word(side, node)
            return ""
        case _:
            return ""


def _channels(node: Node) -> list[Axis]:
    return [axis for axis in node.axes if not is_token_axis(axis)]


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
