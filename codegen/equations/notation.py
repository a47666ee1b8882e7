"""What a reader looks up beside the printed formulas of a memory: functions, and names of the checker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import sympy as sp

from miras_dsl.codegen.analysis.function_calls import DEFINITIONS
from miras_dsl.codegen.model.types import MemoryInput
from miras_dsl.codegen.plan.line_names import alias_of
from miras_dsl.ir.notation.scalar_printer import defined_functions
from miras_dsl.ir.notation.style import Style


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
