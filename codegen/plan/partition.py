"""Where each operation of a chunk program runs: before the loop over chunks, in it, or after it.

The partition is read off the program: what needs no carried value runs for all chunks at once, and so
does what only reads the values that the loop has carried.
"""

from __future__ import annotations

from dataclasses import dataclass

from miras_dsl.ir import AxisSize, Input, Node, Number, Program, Rename, postorder


@dataclass(frozen=True, slots=True)
class Region:
    """One straight run of operations.

    name    `before`, `loop` or `after`
    reads   inputs and nodes of other regions
    nodes   what it computes, in order
    writes  what other regions, or the caller, need from it
    """

    name: str
    reads: tuple[Node, ...]
    nodes: tuple[Node, ...]
    writes: tuple[Node, ...]


def keeps_storage(node: Rename) -> bool:
    """Whether new names of axes leave an array as it is stored, its axes in canonical order."""
    names = dict(node.names)
    return tuple(names.get(axis, axis) for axis in node.x.axes) == node.axes


def stored_as(node: Node) -> Node:
    """The node whose array this is: names of axes alone make no new one."""
    while isinstance(node, Rename) and keeps_storage(node):
        node = node.x
    return node


def is_statement(node: Node) -> bool:
    """Whether a node is computed by a statement of its own."""
    return not isinstance(node, Input | Number | AxisSize) and stored_as(node) is node


def partition(program: Program) -> tuple[Region, ...]:
    """The regions of a program that have something to do, and always the loop."""
    place = program.parts()
    results = [stored_as(node) for _, node in program.results]
    next_states = list(
        dict.fromkeys(stored_as(program.result(name)) for _, name in program.carried)
    )
    order = [n for n in postorder(results) if stored_as(n) is n]
    home = {n: "leaf" if isinstance(n, Input | Number | AxisSize) else place[n] for n in order}

    def region(name: str) -> Region | None:
        mine = [n for n in order if home[n] == name]
        read = [stored_as(o) for n in mine for o in n.operands]
        if name == "loop":
            read += [n for n in next_states if home[n] != "loop"]
        reads = [n for n in read if home[n] != name and not isinstance(n, Number | AxisSize)]
        elsewhere = {
            stored_as(o) for n in order if home[n] not in (name, "leaf") for o in n.operands
        }
        used = elsewhere | set(results) | (set(next_states) if name == "before" else set())
        writes = [n for n in mine if n in used]
        if name == "loop":
            writes += [n for n in next_states if n not in writes]
        if not mine and name != "loop":
            return None
        return Region(name, tuple(dict.fromkeys(reads)), tuple(mine), tuple(writes))

    found = (region(name) for name in ("before", "loop", "after"))
    return tuple(each for each in found if each is not None)
