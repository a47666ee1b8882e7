"""Walks a generated memory over a sequence: chunks, packed sequences, states, gradients.

A generated file holds the arithmetic of a memory as plain functions and a `Memory` table that says
what passes between them.  This file knows no memory: it lays tokens out in chunks, runs what is
parallel at once and what is sequential chunk after chunk, keeps the states that the reverse walk needs,
and walks back through the derived adjoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .layout import Layout, chunk_layout

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Feed:
    """An input: kind token, gate, constant or position; axes after batch, time and head."""

    name: str
    kind: str
    axes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class State:
    """A carried tensor: its name in a state dictionary and as an argument."""

    name: str
    word: str
    axes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """A generated function with the names of its arguments and results."""

    function: Callable[..., tuple[Any, ...]]
    takes: tuple[str, ...]
    gives: tuple[str, ...]

    def __call__(self, values: Mapping[str, Any], size: Mapping[str, int]) -> Values:
        made = self.function(*(values[name] for name in self.takes), size)
        return dict(zip(self.gives, made, strict=True))


@dataclass(frozen=True, slots=True)
class Walk:
    """A program in three parts; see `miras_dsl.codegen.schedule`."""

    before: Part | None
    loop: Part
    after: Part | None
    states: tuple[tuple[str, str, str], ...]
    results: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Memory:
    """All that the runtime knows about a generated memory.

    chunk    tokens of a chunk: the block of an anchored rule, else free
    block    tokens between refreshes; 0: none
    micro    steps that one token takes
    once     logarithms of decays that act on the first of these steps only
    forward  None when the rule has no chunk form: it then runs token by token
    """

    name: str
    feeds: tuple[Feed, ...]
    states: tuple[State, ...]
    answer: tuple[str, ...]
    chunk: int
    block: int
    micro: int
    once: tuple[str, ...]
    token: Part
    forward: Walk | None
    backward: Walk | None
    refresh: Part | None
    refresh_back: Part | None
    valid: str


def run(
    memory: Memory,
    feeds: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """A memory over a sequence: y [B, T, H, *answer] and the state after it.

    feeds       tokens and gates [B, T, H, *axes], constants [H, *axes], positions [H, block]
    state       [B, H, *axes] by name, and `position` [B] for rules with blocks
    cu_seqlens  [N + 1] bounds of packed sequences; then B = 1 and states have N rows

    Computes in float32 (float64 if any input is), whatever the inputs are.  Raises ValueError for
    inputs whose shapes do not fit.
    """
    from .stepwise import run_stepwise

    if memory.forward is None:
        return run_stepwise(memory, feeds, state, cu_seqlens)
    prepared = prepare(memory, feeds, state, cu_seqlens)
    if prepared.layout.chunks == 0:
        return prepared.empty_answer(), dict(state)
    names = [f.name for f in memory.feeds if f.kind != "position"] + prepared.extra
    tensors = [prepared.feeds[name] for name in names]
    states = [prepared.state[s.name] for s in memory.states]
    y, *last = _Chunked.apply(memory, prepared, tuple(names), *tensors, *states)
    new = {s.name: prepared.from_rows(x) for s, x in zip(memory.states, last, strict=True)}
    return prepared.answer(y), prepared.finish(new, state)


def run_token(
    memory: Memory, feeds: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """One token: the same inputs without the axis T."""
    from .stepwise import run_stepwise

    longer = {f.name: x.unsqueeze(1) if f.kind in ("token", "gate") else x for f, x in paired(memory, feeds)}
    y, new = run_stepwise(memory, longer, state, None)
    return y.squeeze(1), new


def paired(memory: Memory, feeds: Mapping[str, Tensor]) -> list[tuple[Feed, Tensor]]:
    """Every feed with its tensor."""
    return [(feed, feeds[feed.name]) for feed in memory.feeds]


@dataclass(slots=True)
class Prepared:
    """Inputs of one call in the layout of chunks: [chunks, rows, chunk, *axes]; states [rows, *axes]."""

    memory: Memory
    layout: Layout
    feeds: dict[str, Tensor]
    extra: list[str]
    state: dict[str, Tensor]
    size: dict[str, int]
    dtype: torch.dtype
    out: torch.dtype

    def answer(self, y: Tensor) -> Tensor:
        """[chunks, rows, chunk, *axes] -> [B, T, H, *axes], one per token."""
        flat = self.layout.gather_back(y)
        micro = self.memory.micro
        return (flat[:, micro - 1 :: micro] if micro > 1 else flat).to(self.out)

    def empty_answer(self) -> Tensor:
        """The answer to no tokens."""
        sizes = [self.size[axis] for axis in self.memory.answer]
        b, t, h = self.layout.batch, self.layout.tokens // self.memory.micro, self.layout.heads
        return torch.zeros(b, t, h, *sizes, dtype=self.out, device=self.layout.device)

    def from_rows(self, x: Tensor) -> Tensor:
        """[rows * heads, *axes] -> [rows, heads, *axes]."""
        return x.unflatten(0, (-1, self.layout.heads))

    def finish(self, new: dict[str, Tensor], old: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dictionary after the call: new tensors, the position moved on."""
        result = {**old, **new}
        if self.memory.block:
            moved = old["position"] + self.layout.lengths // self.memory.micro
            result["position"] = moved % (self.memory.block // self.memory.micro)
        return result


def prepare(
    memory: Memory,
    feeds: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    cu_seqlens: Tensor | None,
) -> Prepared:
    """Check shapes, choose the type, expand tokens with several steps, lay everything out."""
    lead = next(feeds[f.name] for f in memory.feeds if f.kind in ("token", "gate"))
    batch, tokens, heads = lead.shape[:3]
    kinds = [x.dtype for x in (*feeds.values(), *(state[s.name] for s in memory.states))]
    dtype = torch.float64 if torch.float64 in kinds else torch.float32
    offsets = state["position"] * memory.micro if memory.block else None
    layout = chunk_layout(
        batch, tokens * memory.micro, heads, memory.chunk, offsets, cu_seqlens, memory.micro, lead.device
    )
    size = {"i": memory.chunk, "j": memory.chunk, "l": memory.chunk, "m": memory.chunk}
    laid: dict[str, Tensor] = {}
    extra = [memory.valid]
    for feed, x in paired(memory, feeds):
        x = x.to(dtype)
        match feed.kind:
            case "token" | "gate":
                if x.shape[:3] != (batch, tokens, heads):
                    raise ValueError(f"{memory.name}: {feed.name} is {tuple(x.shape)}, not [{batch}, {tokens}, {heads}, …]")
                laid[feed.name] = layout.chunked(micro_steps(memory, feed, x))
                size |= dict(zip(feed.axes, x.shape[3 + (x.dim() - 3 - len(feed.axes)) :], strict=True))
            case "constant":
                size |= dict(zip(feed.axes, x.shape[1:], strict=True))
                laid[feed.name] = x.repeat(layout.sequences, *[1] * (x.dim() - 1)).unsqueeze(0)
            case "position":
                laid[feed.name] = layout.by_position(x, memory.block // memory.micro, memory.micro)
    laid[memory.valid] = layout.valid(dtype)
    extra += [f.name for f in memory.feeds if f.kind == "position"]
    laid["position"] = layout.positions(memory.block // memory.micro if memory.block else 0, memory.micro, dtype)
    extra.append("position")
    rows: dict[str, Tensor] = {}
    for s in memory.states:
        value = state[s.name].to(dtype)
        if value.shape[:2] != (layout.sequences, heads):
            raise ValueError(
                f"{memory.name}: state {s.name} is {tuple(value.shape)}, not [{layout.sequences}, {heads}, …]"
            )
        size |= dict(zip(s.axes, value.shape[2:], strict=True))
        rows[s.name] = value.flatten(0, 1)
    return Prepared(memory, layout, laid, extra, rows, size, dtype, lead.dtype)


def micro_steps(memory: Memory, feed: Feed, x: Tensor) -> Tensor:
    """[B, T, H, (pair,) *axes] -> [B, T * micro, H, *axes]: the steps of a token one after the other."""
    if memory.micro == 1:
        return x
    if x.dim() - 3 > len(feed.axes):
        return x.movedim(3, 2).flatten(1, 2)
    if feed.name in memory.once:
        blank = torch.zeros_like(x).unsqueeze(2).expand(-1, -1, memory.micro - 1, *x.shape[2:])
        return torch.cat([x.unsqueeze(2), blank], 2).flatten(1, 2)
    return x.repeat_interleave(memory.micro, 1)


def pick(x: Any, n: int) -> Any:
    """The slice of a stacked value that belongs to chunk n; values of constants have one for all."""
    return x[n if x.shape[0] > 1 else 0] if isinstance(x, Tensor) else x


class _Chunked(torch.autograd.Function):
    """The walk forwards and the derived walk backwards."""

    @staticmethod
    def forward(ctx: Any, memory: Memory, call: Prepared, names: tuple[str, ...], *tensors: Tensor) -> Any:
        values: Values = dict(zip(names, tensors[: len(names)], strict=True))
        states = dict(zip((s.name for s in memory.states), tensors[len(names) :], strict=True))
        assert memory.forward is not None
        results, entries, last = walk(memory, memory.forward, values, states, call, False)
        ctx.memory, ctx.call, ctx.names = memory, call, names
        ctx.save_for_backward(*tensors[: len(names)], *(entries[s.name] for s in memory.states))
        return (results["y"], *(last[s.name] for s in memory.states))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_y: Tensor, *d_states: Tensor) -> Any:
        memory, call, names = ctx.memory, ctx.call, ctx.names
        values: Values = dict(zip(names, ctx.saved_tensors[: len(names)], strict=True))
        for s, entry in zip(memory.states, ctx.saved_tensors[len(names) :], strict=True):
            values[s.word] = entry
        values["d_y"] = d_y
        carried = {f"d_{s.name}": d for s, d in zip(memory.states, d_states, strict=True)}
        results, _, first = walk(memory, memory.backward, values, carried, call, True)
        grads = []
        for name in names:
            found = results.get(f"d_{name}")
            shape = values[name].shape
            if not isinstance(found, Tensor):
                grads.append(None)
            elif found.shape[0] != shape[0]:
                grads.append(found.sum(0, keepdim=True).expand(shape))
            else:
                grads.append(found.expand(shape))
        return (None, None, None, *grads, *(first[f"d_{s.name}"] for s in memory.states))


def walk(
    memory: Memory, program: Walk, values: Values, states: dict[str, Tensor], call: Prepared, reverse: bool
) -> tuple[Values, dict[str, Tensor], dict[str, Tensor]]:
    """Run a program over all chunks.

    Returns the results stacked over chunks, the states on entry of each chunk, and the last states.
    """
    values = {"zero": 0.0, "one": 1.0, **values}
    size, chunks = call.size, call.layout.chunks
    if program.before:
        values |= program.before(values, size)
    words = {state: word for state, word, _ in program.states}
    entries: dict[str, list[Tensor]] = {state: [] for state in words}
    outs: list[Values] = []
    for n in reversed(range(chunks)) if reverse else range(chunks):
        if memory.refresh and not reverse:
            states = _refreshed(memory, states, call, n)
        local = {name: pick(values[name], n) for name in program.loop.takes if name in values}
        local |= {word: states[state] for state, word in words.items()}
        made = program.loop(local, size)
        for state in words:
            entries[state].append(states[state])
        outs.append(made)
        known = {**values, **local, **made}
        states = {
            state: _as_tensor(known[after] if after in made or after in local else pick(values[after], n), states[state])
            for state, _, after in program.states
        }
        if memory.refresh_back and reverse:
            states = _refreshed_back(memory, values, states, call, n)
    order = slice(None, None, -1) if reverse else slice(None)
    stacked = {state: torch.stack(found[order]) for state, found in entries.items()}
    for state, word in words.items():
        values[word] = stacked[state]
    for name in program.loop.gives:
        values[name] = torch.stack([made[name] for made in outs[order]]) if isinstance(outs[0][name], Tensor) else outs[0][name]
    if program.after:
        values |= program.after(values, size)
    return {result: values[name] for result, name in program.results}, stacked, states


def _as_tensor(x: Any, like: Tensor) -> Tensor:
    return x.expand(like.shape) if isinstance(x, Tensor) else torch.full_like(like, float(x))


def _refreshed(memory: Memory, states: dict[str, Tensor], call: Prepared, n: int) -> dict[str, Tensor]:
    """The states at the start of a chunk that begins a block."""
    begins = call.layout.begins(n)
    if begins is False or memory.refresh is None:
        return states
    values = {s.word: states[s.name] for s in memory.states} | _constants(call)
    made = memory.refresh(values, call.size)
    return states | {name: _chosen(begins, new, states[name]) for name, new in made.items()}


def _refreshed_back(
    memory: Memory, saved: Values, states: dict[str, Tensor], call: Prepared, n: int
) -> dict[str, Tensor]:
    begins = call.layout.begins(n)
    if begins is False or memory.refresh_back is None:
        return states
    values = {s.word: pick(saved[s.word], n) for s in memory.states} | _constants(call)
    values |= {f"d_{s.word}": states[f"d_{s.name}"] for s in memory.states}
    made = memory.refresh_back(values, call.size)
    return {f"d_{name}": _chosen(begins, new, states[f"d_{name}"]) for name, new in made.items()}


def _constants(call: Prepared) -> Values:
    constants = {f.name for f in call.memory.feeds if f.kind == "constant"}
    return {name: x[0] for name, x in call.feeds.items() if name in constants}


def _chosen(begins: Tensor | bool, new: Any, old: Tensor) -> Tensor:
    new = _as_tensor(new, old)
    if begins is True:
        return new
    assert isinstance(begins, Tensor)
    return torch.where(begins.reshape(-1, *[1] * (old.dim() - 1)), new, old)
