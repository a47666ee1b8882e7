"""How the programs of one memory are spelled: its own names, sizes and functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import sympy as sp

from miras_dsl.codegen.analysis.function_calls import DEFINITIONS, function_calls
from miras_dsl.codegen.model.module_types import ModuleModel
from miras_dsl.codegen.model.types import MemoryInput, MemoryModel, StateTensor
from miras_dsl.codegen.plan.line_names import line_namer
from miras_dsl.ir import Axes, Axis, Program
from miras_dsl.ir.printer import Style, program_lines
from miras_dsl.ir.scalar_notation import defined_functions


def style_of(
    model: MemoryModel,
    module: ModuleModel,
    states: Iterable[StateTensor] = (),
    latex: bool = False,
) -> Style:
    """A style that knows a memory's logarithms, matrices and sizes, and names of the compiler's own."""
    written = {w.name: w.axes for w in module.weights}
    matrices: dict[str, Axes] = {name: axes for name, axes in written.items() if len(axes) == 2}
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


def definitions(
    style: Style, scalar: Iterable[type[sp.Function]], calls: Iterable[str]
) -> list[str]:
    """A line for each function that was printed and has a definition, as text of the language."""
    plain = Style(False)
    lines = [f"{left} = {right}" for left, right in defined_functions(scalar, plain)]
    return [*lines, *(DEFINITIONS[name] for name in DEFINITIONS if name in set(calls))]


def checker_names(inputs: Iterable[MemoryInput], used: str) -> Mapping[str, str]:
    """What the checker named itself and a text uses -> the formula in the spec."""
    made = {alias_of(g): " ".join(g.span.text.split()) for g in inputs if g.of.startswith("_")}
    return {name: formula for name, formula in made.items() if name in used}
