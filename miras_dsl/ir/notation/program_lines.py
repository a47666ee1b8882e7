"""Programs as lines of formulas: what `miras explain` prints.

A formula that is used once is written where it is used; one that is used more often gets a line and a
name of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp

from miras_dsl import ir
from miras_dsl.ir import Node, Program

from .line_choice import Namer, lines_of
from .printer import Printer
from .style import TEXT, Style
from .writer import Call

PARTS = {
    "before": "before: every {piece} by itself",
    "loop": "loop: one {piece} after the other",
    "after": "after: every {piece} by itself",
}


def program_lines(
    program: Program,
    style: Style = TEXT,
    namer: Namer | None = None,
    calls: Mapping[Node, Call] | None = None,
    used: set[type[sp.Function]] | None = None,
    given: Mapping[Node, str] | None = None,
) -> list[tuple[str, str, str]]:
    """A program as (part, name, formula), in an order in which it can be computed.

    part   where the line runs: "before", "loop" or "after" (`Program.parts`)
    namer  names the lines; without one they are called by their label, else `t1`, `t2` …
    calls  nodes to write as functions of the language
    used   takes the functions met that have a definition of their own
    given  texts of nodes that are known already
    """
    writer = Printer(style, {}, calls or {})
    written = lines_of(writer, program, given or {}, namer)
    if used is not None:
        used |= writer.scalar.used
    return written


def print_program(
    program: Program,
    style: Style = TEXT,
    namer: Namer | None = None,
    calls: Mapping[Node, Call] | None = None,
) -> str:
    """A program with its three parts under headings, one formula a line."""
    found = program_lines(program, style, namer, calls)
    if style.latex:
        body = " \\\\\n".join(f"  {name} &= {formula}" for _, name, formula in found)
        return f"\\begin{{aligned}}\n{body}\n\\end{{aligned}}"
    text: list[str] = []
    by_chunk = any(ir.is_token_axis(axis) for _, node in program.results for axis in node.axes)
    piece = "chunk" if by_chunk else "token"
    for part, title in PARTS.items():
        here = [(name, formula) for where, name, formula in found if where == part]
        if here:
            text.append(title.format(piece=piece))
            text += [f"  {name} = {formula}" for name, formula in here]
    return "\n".join(text)
