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

from . import debug
from .layout import Layout, chunk_layout
from .tiles import Size

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Feed:
    """An input: kind token, gate, constant or position; axes after batch, time and head.

    ``log`` says that it is the logarithm of a decay, which is summed in double precision.
    """

    name: str
    kind: str
    axes: tuple[str, ...]
    log: bool = False


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
class Turn:
    """A change of states at the edge of a block: new values by state name, and cotangents back."""

    forward: Part
    backward: Part


@dataclass(frozen=True, slots=True)
class Memory:
    """All that the runtime knows about a generated memory.

    chunk    tokens of a chunk: the block of an anchored rule, else free
    block    tokens between refreshes; 0: none
    micro    steps that one token takes
    once     logarithms of decays that act on the first of these steps only
    refresh  before the first token of a block; close: after its last
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
    refresh: Turn | None
    close: Turn | None
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
    inputs whose shapes do not fit, in debug mode `debug.NotFinite` for numbers that are not finite.
    """
    y, after = _run(memory, feeds, state, cu_seqlens)
    if debug.on():
        debug.require_finite(memory, feeds, state, cu_seqlens, y, after)
    return y, after


def _run(
    memory: Memory,
    feeds: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, dict[str, Tensor]]:
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
    if debug.on():
        debug.require_finite(memory, longer, state, None, y, new)
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
    size: Size
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
    size = Size(dict.fromkeys("ijlm", memory.chunk), dtype)
    laid: dict[str, Tensor] = {}
    extra = [memory.valid]
    for feed, x in paired(memory, feeds):
        x = x.to(torch.float64 if feed.log else dtype)
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
        count = len(names)
        values: Values = dict(zip(names, tensors[:count], strict=True))
        states = {s.name: x for s, x in zip(memory.states, tensors[count:], strict=True)}
        assert memory.forward is not None
        walked = walk(memory, memory.forward, values, states, call, False)
        saved = {s.word: walked.entries[s.name] for s in memory.states}
        saved |= {f"open_{s.word}": walked.opened[s.name] for s in memory.states if walked.opened}
        ctx.memory, ctx.call, ctx.names, ctx.words = memory, call, names, tuple(saved)
        ctx.save_for_backward(*tensors[:count], *saved.values())
        return (walked.results["y"], *(walked.last[s.name] for s in memory.states))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_y: Tensor, *d_states: Tensor) -> Any:
        memory, names = ctx.memory, ctx.names
        values: Values = dict(zip((*names, *ctx.words), ctx.saved_tensors, strict=True))
        carried = {f"d_{s.name}": d for s, d in zip(memory.states, d_states, strict=True)}
        walked = walk(memory, memory.backward, {**values, "d_y": d_y}, carried, ctx.call, True)
        grads = [_total(walked, name, values[name]) for name in names]
        return (None, None, None, *grads, *(walked.last[f"d_{s.name}"] for s in memory.states))


def _total(walked: Walked, name: str, like: Tensor) -> Tensor | None:
    """The gradient of an input: its chunks, and its share at the edges of blocks."""
    found = walked.results.get(f"d_{name}")
    edges = [(n, gates[f"d_{name}"]) for n, gates in walked.edges if f"d_{name}" in gates]
    if not isinstance(found, Tensor):
        if not edges:
            return None
        found = torch.zeros_like(like)
    if found.shape[0] != like.shape[0]:
        return found.sum(0, keepdim=True).expand(like.shape)
    if edges:
        found = found.expand(like.shape).clone()
        for n, share in edges:
            found[n, ..., -1] += share
    return found.expand(like.shape)


@dataclass(slots=True)
class Walked:
    """What a walk leaves: results and entry states stacked over chunks, states before blocks closed,
    the last states, and cotangents of gates at the edges of blocks [(chunk, name -> cotangent)]."""

    results: Values
    entries: dict[str, Tensor]
    opened: dict[str, Tensor]
    last: dict[str, Tensor]
    edges: list[tuple[int, Values]]


def walk(
    memory: Memory, program: Walk, values: Values, states: dict[str, Tensor], call: Prepared, reverse: bool
) -> Walked:
    """Run a program over all chunks."""
    values = {"zero": 0.0, "one": 1.0, **values}
    size, chunks = call.size, call.layout.chunks
    if program.before:
        values |= program.before(values, size)
    words = {state: word for state, word, _ in program.states}
    entries: dict[str, list[Tensor]] = {state: [] for state in words}
    opened: dict[str, list[Tensor]] = {state: [] for state in words}
    edges: list[tuple[int, Values]] = []
    outs: list[Values] = []
    for n in reversed(range(chunks)) if reverse else range(chunks):
        begins, ends = call.layout.begins(n), call.layout.ends(n)
        if reverse and memory.close:
            before = {s.word: pick(values[f"open_{s.word}"], n) for s in memory.states}
            states, gates = _turned_back(memory, memory.close, values, before, states, n, ends, size)
            edges.append((n, gates))
        if not reverse and memory.refresh:
            states = _turned(memory, memory.refresh, values, states, n, begins, size)
        local = {name: pick(values[name], n) for name in program.loop.takes if name in values}
        local |= {word: states[state] for state, word in words.items()}
        made = program.loop(local, size)
        for state in words:
            entries[state].append(states[state])
        outs.append(made)
        known = local | made
        states = {
            state: _as_tensor(known[after] if after in known else pick(values[after], n), states[state])
            for state, _, after in program.states
        }
        if not reverse and memory.close:
            for state in words:
                opened[state].append(states[state])
            states = _turned(memory, memory.close, values, states, n, ends, size)
        if reverse and memory.refresh:
            before = {s.word: pick(values[s.word], n) for s in memory.states}
            states, _ = _turned_back(memory, memory.refresh, values, before, states, n, begins, size)
    order = slice(None, None, -1) if reverse else slice(None)
    stacked = {state: torch.stack(found[order]) for state, found in entries.items()}
    values |= {word: stacked[state] for state, word in words.items()}
    for name in program.loop.gives:
        first = outs[0][name]
        values[name] = torch.stack([made[name] for made in outs[order]]) if isinstance(first, Tensor) else first
    if program.after:
        values |= program.after(values, size)
    results = {result: values[name] for result, name in program.results}
    kept = {state: torch.stack(found) for state, found in opened.items() if found}
    return Walked(results, stacked, kept, states, edges)


def _turned(
    memory: Memory, turn: Turn, values: Values, states: dict[str, Tensor], n: int, rows: Tensor | bool, size: Size
) -> dict[str, Tensor]:
    """The states on the other side of a block's edge, for the rows that are there."""
    if rows is False:
        return states
    known = _edge(memory, values, n) | {s.word: states[s.name] for s in memory.states}
    made = turn.forward(known, size)
    return states | {name: _chosen(rows, new, states[name]) for name, new in made.items()}


def _turned_back(
    memory: Memory,
    turn: Turn,
    values: Values,
    before: Mapping[str, Tensor],
    states: dict[str, Tensor],
    n: int,
    rows: Tensor | bool,
    size: Size,
) -> tuple[dict[str, Tensor], Values]:
    """The cotangents on the near side of an edge, and those of gates at the edge's token."""
    if rows is False:
        return states, {}
    known = _edge(memory, values, n) | {s.word: before[s.word] for s in memory.states}
    known |= {f"d_{s.word}": states[f"d_{s.name}"] for s in memory.states}
    made = turn.backward(known, size)
    back = {name: _chosen(rows, made[name], old) for name, old in states.items()}
    return back, {name: _chosen(rows, d, torch.zeros_like(d)) for name, d in made.items() if name not in states}


def _edge(memory: Memory, values: Values, n: int) -> Values:
    """Constants, and what the last place of a chunk is fed."""
    constants = {f.name: values[f.name][0] for f in memory.feeds if f.kind == "constant" and f.name in values}
    last = {name: pick(values[name], n)[..., -1] for name in positional(memory) if name in values}
    return constants | last


def positional(memory: Memory) -> list[str]:
    """Inputs that depend on a token's place in its block."""
    return [f.name for f in memory.feeds if f.kind == "position"] + ["position"]


def _as_tensor(x: Any, like: Tensor) -> Tensor:
    return x.expand(like.shape) if isinstance(x, Tensor) else torch.full_like(like, float(x))


def _chosen(rows: Tensor | bool, new: Any, old: Tensor) -> Tensor:
    new = _as_tensor(new, old)
    if rows is True:
        return new
    assert isinstance(rows, Tensor)
    return torch.where(rows.reshape(-1, *[1] * (old.dim() - 1)), new, old)
