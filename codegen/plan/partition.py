"""Where each operation of a program runs: before the walk over chunks, in it, or after it.

The cut is read off the program: what needs no carried state runs for all chunks at once, and so does
what only reads the states that the walk has left behind.
"""

from __future__ import annotations

from dataclasses import dataclass

from miras_dsl.ir import AxisSize, Input, Node, Number, Program, Rename, postorder


@dataclass(frozen=True, slots=True)
class Part:
    """One straight run of operations.

    takes  what it reads: inputs and nodes of other parts
    nodes  what it computes, in order
    gives  what others (or the caller) need from it
    """

    takes: tuple[Node, ...]
    nodes: tuple[Node, ...]
    gives: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Schedule:
    """A program in three parts.  A part without operations is None."""

    program: Program
    before: Part | None
    loop: Part
    after: Part | None


def keeps_storage(node: Rename) -> bool:
    """Whether new names leave the array as it is stored."""
    names = dict(node.names)
    return tuple(names.get(axis, axis) for axis in node.x.axes) == node.axes


def stored_as(node: Node) -> Node:
    """The node whose array this is: names alone make no new one."""
    while isinstance(node, Rename) and keeps_storage(node):
        node = node.x
    return node


def schedule(program: Program) -> Schedule:
    """Cut a program into its parts."""
    place = program.parts()
    results = [stored_as(node) for _, node in program.results]
    next_states = list(
        dict.fromkeys(stored_as(program.result(name)) for _, name in program.carried)
    )
    order = [n for n in postorder(results) if stored_as(n) is n]
    home = {n: _home(n, place) for n in order}

    def part(name: str) -> Part | None:
        mine = [n for n in order if home[n] == name]
        read = [stored_as(o) for n in mine for o in n.operands]
        if name == "loop":
            read += [n for n in next_states if home[n] != "loop"]
        takes = [n for n in read if home[n] != name and not isinstance(n, Number | AxisSize)]
        used = {
            stored_as(o) for n in order if home[n] not in (name, "leaf") for o in n.operands
        } | set(results)
        if name == "before":
            used |= set(next_states)
        gives = [n for n in mine if n in used]
        if name == "loop":
            gives += [n for n in next_states if n not in gives]
        if not mine and name != "loop":
            return None
        return Part(tuple(dict.fromkeys(takes)), tuple(mine), tuple(gives))

    loop = part("loop")
    assert loop is not None
    return Schedule(program, part("before"), loop, part("after"))


def _home(node: Node, place: dict[Node, str]) -> str:
    return "leaf" if isinstance(node, Input | Number | AxisSize) else place[node]
