"""Which formulas of a program get a line and a name of their own, and the lines.

One that is used once is written where it is used, unless it is long.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from miras_dsl import ir
from miras_dsl.ir import Node, Program, postorder

from .norms import is_part_of_norm
from .style import TEXT
from .writer import Call, Writer

LONG = 88
"""Characters above which a formula gets a name although it is used once."""
SHORT = 14
"""Characters up to which a function of one name is written again wherever it is used."""

Namer = Callable[[Node], str]
"""What a line is called."""


def lines_of(
    writer: Writer, program: Program, given: Mapping[Node, str], namer: Namer | None = None
) -> list[tuple[str, str, str]]:
    """A program as (part, name, formula), written as ``writer`` does; see `program_lines`.

    Nodes are written by the texts in ``given`` and the names of lines before them, and not by those of
    ``writer``, which learns which functions were met.
    """
    results = program.results
    next_states = {name for _, name in program.carried}
    # A state's next value is written with a prime: the same letter without one is its old value.
    primed = {n: f"{n}'" if n in next_states else n for n, _ in results}
    words = _line_names(writer, program, primed, namer or _by_label(program), given)
    parts, style = program.parts(), writer.style
    names = dict(given)
    inner = replace(writer, names=names)
    inner.final = lambda node: node not in words
    written: list[tuple[str, str, str]] = []
    for node, word in words.items():
        written.append((parts[node], style.name(word), inner.text(node)))
        names[node] = style.name(word)
    for name, node in results:
        if words.get(node) != primed[name]:
            written.append((parts[node], style.name(primed[name]), inner.piece(node).text))
    writer.scalar.used |= inner.scalar.used
    return written


def _by_label(program: Program) -> Namer:
    """Names by the labels of the derivation, else `t1`, `t2` …"""
    taken = {x.name for x in program.inputs} | {name for name, _ in program.results}
    count = 0

    def name(node: Node) -> str:
        nonlocal count
        label = program.labels.get(node)
        if label is not None and label.name and label.name not in taken:
            taken.add(label.name)
            return label.name
        count += 1
        return f"t{count}"

    return name


def _line_names(
    writer: Writer,
    program: Program,
    primed: Mapping[str, str],
    namer: Namer,
    given: Mapping[Node, str],
) -> dict[Node, str]:
    """The nodes that get a line, with its name: the same ones in text and in LaTeX."""
    writer = replace(writer, style=TEXT, names={})
    order = _printed_order(writer, [node for _, node in program.results])
    uses: dict[Node, int] = {}
    for node in order:
        for operand in dict.fromkeys(writer.operands(node)):
            uses[operand] = uses.get(operand, 0) + 1
    results = {node: primed[name] for name, node in program.results}
    names: dict[Node, str] = {}
    known = dict(given)
    writer.names = known
    for node in order:
        if node in given or isinstance(
            node, ir.Input | ir.Number | ir.AxisSize | ir.Broadcast | ir.Rename
        ):
            continue
        piece = writer.piece(node, top=True)
        text = piece.text
        if node not in results and (text.isidentifier() or is_part_of_norm(node)):
            writer.pieces[node] = piece
            continue
        solved = isinstance(node, ir.Inverse | ir.ForwardSubstitution)
        # A function of one name is as short as a name.
        repeated = uses.get(node, 0) > 1 and not (
            _is_short(node, known, writer.calls) and len(text) <= SHORT
        )
        if node in results or repeated or solved or len(text) > LONG:
            names[node] = known[node] = results[node] if node in results else namer(node)
        else:
            writer.pieces[node] = piece
    return names


def _is_short(node: Node, names: Mapping[Node, str], calls: Mapping[Node, Call]) -> bool:
    """Whether a node is one function, or a sign, of one named value."""
    given = calls[node].args if node in calls else node.operands
    leaf = (x in names or isinstance(x, ir.Input | ir.Broadcast | ir.Rename) for x in given)
    return len(given) == 1 and isinstance(node, ir.Map | ir.Mask) and all(leaf)


def _printed_order(writer: Writer, roots: list[Node]) -> list[Node]:
    """Every node that is printed, operands first; what a call stands for is not entered."""
    keep = set[Node]()
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node not in keep:
            keep.add(node)
            stack += writer.operands(node)
    return [node for node in postorder([*roots, *keep]) if node in keep]
