"""Runs a chunk program: its parallel parts for all chunks at once, its loop chunk after chunk."""

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
    """What a scan needs of a call beside its tensors.  The backward pass keeps it; it holds no tensor
    with a graph."""

    layout: ChunkLayout
    size: Sizes


def chunk_slice(x: Any, n: int) -> Any:
    """The entry of a value [chunks or 1, …] for chunk n; a number is the same for all chunks."""
    return x[n if x.shape[0] > 1 else 0] if isinstance(x, Tensor) and x.dim() else x


@dataclass(slots=True)
class ScanResult:
    """What a scan has computed.

    results           name -> [chunks or 1, rows, …]; a formula of sizes is a number
    entries           state -> [chunks, rows, *axes], before each chunk
    before_block_end  state -> [chunks, rows, *axes], after each chunk and before `at_block_end`
    last              state -> [rows, *axes], after the last chunk
    edges             (chunk, token, gradients of inputs by name), one for each block edge passed in
                      reverse
    """

    results: Values
    entries: dict[str, Tensor]
    before_block_end: dict[str, Tensor]
    last: dict[str, Tensor]
    edges: list[tuple[int, int, Values]]


def scan_chunks(
    memory: MemoryTable,
    program: ScanProgram,
    values: Values,
    states: dict[str, Tensor],
    context: ScanContext,
    reverse: bool,
) -> ScanResult:
    """Run a program over all chunks of a call.

    values   inputs by name, [chunks or 1, rows, chunk, *axes], constants [1, rows, *axes]
    states   [rows, *axes] before the first chunk; in reverse, cotangents after the last one
    reverse  the program is an adjoint: from the last chunk to the first
    """
    layout, size = context.layout, context.size
    parallel, inside = size.with_leading(2), size.with_leading(1)
    values = {"zero": 0.0, "one": 1.0, **values}
    for region in program.before:
        values |= _needed(program, region, region(values, parallel))
    names = [f"d_{s.name}" if reverse else s.name for s in memory.states]
    arguments = dict(zip(names, (argument for argument, _ in program.next_values), strict=True))
    next_values = dict(zip(names, (value for _, value in program.next_values), strict=True))
    entries: dict[str, list[Tensor]] = {state: [] for state in arguments}
    before_end: dict[str, list[Tensor]] = {state: [] for state in arguments}
    edges: list[tuple[int, int, Values]] = []
    outs: list[Values] = []
    for n in reversed(range(layout.chunks)) if reverse else range(layout.chunks):
        if reverse and memory.at_block_end:
            before = {
                s.argument: chunk_slice(values[f"open_{s.argument}"], n) for s in memory.states
            }
            edge = EdgeLocation(n, -1, layout.ends(n))
            states, gradients = apply_block_edge_adjoint(
                memory, memory.at_block_end, values, before, states, edge, size
            )
            edges.append((n, -1, gradients))
        if not reverse and memory.at_block_start:
            edge = EdgeLocation(n, 0, layout.begins(n))
            states = apply_block_edge(memory, memory.at_block_start, values, states, edge, size)
        local = {
            name: chunk_slice(values[name], n)
            for region in program.loop
            for name in region.params
            if name in values
        }
        local |= {argument: states[state] for state, argument in arguments.items()}
        made: Values = {}
        for region in program.loop:
            made |= _needed(program, region, region(local | made, inside))
        if program.loop:
            made = _needed(program, program.loop[-1], made)
        for state in arguments:
            entries[state].append(states[state])
        outs.append(made)
        known = local | made
        states = {
            state: _as_tensor(
                known[value] if value in known else chunk_slice(values[value], n), states[state]
            )
            for state, value in next_values.items()
        }
        if not reverse and memory.at_block_end:
            for state in arguments:
                before_end[state].append(states[state])
            edge = EdgeLocation(n, -1, layout.ends(n))
            states = apply_block_edge(memory, memory.at_block_end, values, states, edge, size)
        if reverse and memory.at_block_start:
            before = {s.argument: chunk_slice(values[s.argument], n) for s in memory.states}
            edge = EdgeLocation(n, 0, layout.begins(n))
            states, gradients = apply_block_edge_adjoint(
                memory, memory.at_block_start, values, before, states, edge, size
            )
            edges.append((n, 0, gradients))
    order = slice(None, None, -1) if reverse else slice(None)
    stacked = {state: torch.stack(found[order]) for state, found in entries.items()}
    values |= {argument: stacked[state] for state, argument in arguments.items()}
    for name, first in outs[0].items():
        values[name] = (
            torch.stack([made[name] for made in outs[order]])
            if isinstance(first, Tensor)
            else first
        )
    for region in program.after:
        values |= _needed(program, region, region(values, parallel))
    results = {result: values[name] for result, name in program.result_values}
    kept = {state: torch.stack(found) for state, found in before_end.items() if found}
    return ScanResult(results, stacked, kept, states, edges)


def _needed(program: ScanProgram, region: Region, made: Values) -> Values:
    """The values that are still read after a region; dropping the others frees their memory."""
    needed = program.needed_after(region)
    return {name: x for name, x in made.items() if name in needed}


@dataclass(frozen=True, slots=True)
class EdgeLocation:
    """Where a block starts or ends.

    chunk  its chunk
    token  the token of that chunk: 0 at a start, -1 at an end
    rows   for which rows a block starts or ends there: all, none, or [rows] flags
    """

    chunk: int
    token: int
    rows: Tensor | bool


def apply_block_edge(
    memory: MemoryTable,
    change: BlockEdge,
    values: Values,
    states: dict[str, Tensor],
    edge: EdgeLocation,
    size: Sizes,
) -> dict[str, Tensor]:
    """The states [rows, *axes] after the change at a block's start or end; other rows as they were."""
    if edge.rows is False:
        return states
    known = _inputs_at(memory, values, edge) | {s.argument: states[s.name] for s in memory.states}
    made = change.forward(known, size)
    return states | {name: _chosen(edge.rows, new, states[name]) for name, new in made.items()}


def apply_block_edge_adjoint(
    memory: MemoryTable,
    change: BlockEdge,
    values: Values,
    before: Mapping[str, Tensor],
    states: dict[str, Tensor],
    edge: EdgeLocation,
    size: Sizes,
) -> tuple[dict[str, Tensor], Values]:
    """The cotangents of the states before the change, and the gradients of inputs at its token.

    before  the states before the change, by argument
    states  cotangents of the states after it
    """
    if edge.rows is False:
        return states, {}
    known = _inputs_at(memory, values, edge) | {
        s.argument: before[s.argument] for s in memory.states
    }
    known |= {f"d_{s.argument}": states[f"d_{s.name}"] for s in memory.states}
    assert change.backward is not None
    made = change.backward(known, size)
    cotangents = states | {
        name: _chosen(edge.rows, made[name], old) for name, old in states.items() if name in made
    }
    gradients = {
        name: _chosen(edge.rows, d, torch.zeros_like(d))
        for name, d in made.items()
        if name not in states
    }
    return cotangents, gradients


def _inputs_at(memory: MemoryTable, values: Values, edge: EdgeLocation) -> Values:
    """The inputs of the token at a block's edge, [rows, *axes] by name, with the constants."""
    found: Values = {}
    for given in memory.inputs:
        if given.name in values:
            here = chunk_slice(values[given.name], edge.chunk)
            found[given.name] = here if given.kind == "constant" else here[:, edge.token]
    if "position" in values:
        found["position"] = chunk_slice(values["position"], edge.chunk)[:, edge.token]
    return found


def _as_tensor(x: Any, like: Tensor) -> Tensor:
    return x.expand(like.shape) if isinstance(x, Tensor) else torch.full_like(like, float(x))


def _chosen(rows: Tensor | bool, new: Any, old: Tensor) -> Tensor:
    """``new`` in the rows that are flagged, ``old`` in the others."""
    new = _as_tensor(new, old)
    if rows is True:
        return new
    assert isinstance(rows, Tensor)
    return torch.where(rows.reshape(-1, *[1] * (old.dim() - 1)), new, old)
