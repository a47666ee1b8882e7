"""One walk of a program over chunks: what is parallel at once, what is sequential in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from miras_dsl.runtime.ops.tensor_ops import Sizes

from .chunk_layout import ChunkLayout
from .program_table import BlockEdge, MemoryTable, Region, ScanProgram, Values


@dataclass(frozen=True, slots=True)
class ScanContext:
    """All that a walk needs of a call beside its tensors: kept until the walk back, it holds no graph."""

    layout: ChunkLayout
    size: Sizes


def chunk_slice(x: Any, n: int) -> Any:
    """The slice of a stacked value that belongs to chunk n; values of constants have one for all, and
    a formula of sizes is a number."""
    return x[n if x.shape[0] > 1 else 0] if isinstance(x, Tensor) and x.dim() else x


@dataclass(slots=True)
class ScanResult:
    """What a walk leaves: results and entry states stacked over chunks, states before blocks closed,
    the last states, and cotangents of gates at the edges of blocks [(chunk, place, by name)]."""

    results: Values
    entries: dict[str, Tensor]
    opened: dict[str, Tensor]
    last: dict[str, Tensor]
    edges: list[tuple[int, int, Values]]


def scan_chunks(
    memory: MemoryTable,
    program: ScanProgram,
    values: Values,
    states: dict[str, Tensor],
    ground: ScanContext,
    reverse: bool,
) -> ScanResult:
    """Run a program over all chunks."""
    layout, size = ground.layout, ground.size
    values = {"zero": 0.0, "one": 1.0, **values}
    for region in program.before:
        values |= _needed(program, region, region(values, size))
    names = [f"d_{s.name}" if reverse else s.name for s in memory.states]
    words = dict(zip(names, (argument for argument, _ in program.next_values), strict=True))
    after = dict(zip(names, (value for _, value in program.next_values), strict=True))
    entries: dict[str, list[Tensor]] = {state: [] for state in words}
    opened: dict[str, list[Tensor]] = {state: [] for state in words}
    edges: list[tuple[int, int, Values]] = []
    outs: list[Values] = []
    for n in reversed(range(layout.chunks)) if reverse else range(layout.chunks):
        if reverse and memory.at_block_end:
            before = {
                s.argument: chunk_slice(values[f"open_{s.argument}"], n) for s in memory.states
            }
            edge = Edge(n, -1, layout.ends(n))
            states, gates = apply_block_edge_adjoint(
                memory, memory.at_block_end, values, before, states, edge, size
            )
            edges.append((n, -1, gates))
        if not reverse and memory.at_block_start:
            edge = Edge(n, 0, layout.begins(n))
            states = apply_block_edge(memory, memory.at_block_start, values, states, edge, size)
        local = {
            name: chunk_slice(values[name], n)
            for region in program.loop
            for name in region.params
            if name in values
        }
        local |= {word: states[state] for state, word in words.items()}
        made: Values = {}
        for region in program.loop:
            made |= _needed(program, region, region(local | made, size))
        if program.loop:
            made = _needed(program, program.loop[-1], made)
        for state in words:
            entries[state].append(states[state])
        outs.append(made)
        known = local | made
        states = {
            state: _as_tensor(
                known[value] if value in known else chunk_slice(values[value], n), states[state]
            )
            for state, value in after.items()
        }
        if not reverse and memory.at_block_end:
            for state in words:
                opened[state].append(states[state])
            edge = Edge(n, -1, layout.ends(n))
            states = apply_block_edge(memory, memory.at_block_end, values, states, edge, size)
        if reverse and memory.at_block_start:
            before = {s.argument: chunk_slice(values[s.argument], n) for s in memory.states}
            edge = Edge(n, 0, layout.begins(n))
            states, gates = apply_block_edge_adjoint(
                memory, memory.at_block_start, values, before, states, edge, size
            )
            edges.append((n, 0, gates))
    order = slice(None, None, -1) if reverse else slice(None)
    stacked = {state: torch.stack(found[order]) for state, found in entries.items()}
    values |= {word: stacked[state] for state, word in words.items()}
    for name, first in outs[0].items():
        values[name] = (
            torch.stack([made[name] for made in outs[order]])
            if isinstance(first, Tensor)
            else first
        )
    for region in program.after:
        values |= _needed(program, region, region(values, size))
    results = {result: values[name] for result, name in program.result_values}
    kept = {state: torch.stack(found) for state, found in opened.items() if found}
    return ScanResult(results, stacked, kept, states, edges)


def _needed(program: ScanProgram, region: Region, made: Values) -> Values:
    """What is still needed once a region has been computed; the rest may be freed."""
    needed = program.needed_after(region)
    return {name: x for name, x in made.items() if name in needed}


@dataclass(frozen=True, slots=True)
class Edge:
    """The edge of a block: a chunk, the place of its token there, and the rows that are at it."""

    chunk: int
    place: int
    rows: Tensor | bool


def apply_block_edge(
    memory: MemoryTable,
    change: BlockEdge,
    values: Values,
    states: dict[str, Tensor],
    edge: Edge,
    size: Sizes,
) -> dict[str, Tensor]:
    """The states on the other side of a block's edge."""
    if edge.rows is False:
        return states
    known = _fed(memory, values, edge) | {s.argument: states[s.name] for s in memory.states}
    made = change.forward(known, size)
    return states | {name: _chosen(edge.rows, new, states[name]) for name, new in made.items()}


def apply_block_edge_adjoint(
    memory: MemoryTable,
    change: BlockEdge,
    values: Values,
    before: Mapping[str, Tensor],
    states: dict[str, Tensor],
    edge: Edge,
    size: Sizes,
) -> tuple[dict[str, Tensor], Values]:
    """The cotangents on the near side of an edge, and those of gates at the edge's token."""
    if edge.rows is False:
        return states, {}
    known = _fed(memory, values, edge) | {s.argument: before[s.argument] for s in memory.states}
    known |= {f"d_{s.argument}": states[f"d_{s.name}"] for s in memory.states}
    assert change.backward is not None
    made = change.backward(known, size)
    back = states | {
        name: _chosen(edge.rows, made[name], old) for name, old in states.items() if name in made
    }
    gates = {
        name: _chosen(edge.rows, d, torch.zeros_like(d))
        for name, d in made.items()
        if name not in states
    }
    return back, gates


def _fed(memory: MemoryTable, values: Values, edge: Edge) -> Values:
    """Constants, and what the token at an edge is fed."""
    fed: Values = {}
    for feed in memory.inputs:
        if feed.name in values:
            here = chunk_slice(values[feed.name], edge.chunk)
            fed[feed.name] = here if feed.kind == "constant" else here[:, edge.place]
    if "position" in values:
        fed["position"] = chunk_slice(values["position"], edge.chunk)[:, edge.place]
    return fed


def _as_tensor(x: Any, like: Tensor) -> Tensor:
    return x.expand(like.shape) if isinstance(x, Tensor) else torch.full_like(like, float(x))


def _chosen(rows: Tensor | bool, new: Any, old: Tensor) -> Tensor:
    new = _as_tensor(new, old)
    if rows is True:
        return new
    assert isinstance(rows, Tensor)
    return torch.where(rows.reshape(-1, *[1] * (old.dim() - 1)), new, old)
