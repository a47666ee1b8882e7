"""The tables that a generated file fills in: all that the runtime knows about a memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, update_wrapper
from inspect import signature
from typing import Any

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class MemoryInput:
    """An input: kind token, gate, constant or position; axes after batch, time and head.

    ``log`` says that it is the logarithm of a decay, which is summed in double precision.
    """

    name: str
    kind: str
    axes: tuple[str, ...]
    log: bool = False


@dataclass(frozen=True, slots=True)
class StateTensor:
    """A carried tensor: its name in a state dictionary and as an argument."""

    name: str
    argument: str
    axes: tuple[str, ...]


class Region:
    """A generated function that knows its values by name: its parameters, the last of which is
    `size`, and what it returns."""

    def __init__(self, function: Callable[..., tuple[Any, ...]], names: str) -> None:
        self.function, self.names = function, tuple(names.split())
        self.params = tuple(name for name in signature(function).parameters if name != "size")
        update_wrapper(self, function)

    def __call__(self, values: Mapping[str, Any], size: Mapping[str, int]) -> Values:
        made = self.function(*(values[name] for name in self.params), size)
        return dict(zip(self.names, made, strict=True))


def returns(names: str) -> Callable[[Callable[..., tuple[Any, ...]]], Region]:
    """Makes a function a `Region`; the names of what it returns are separated by blanks."""
    return lambda function: Region(function, names)


def _pairs(words: str) -> tuple[tuple[str, str], ...]:
    """`y S.W=S_W_next` as pairs: what something is called outside, and which value it is."""
    parts = (word.partition("=") for word in words.split())
    return tuple((name, value or name) for name, _, value in parts)


@dataclass(frozen=True)
class ScanProgram:
    """A chunk program, or its adjoint: functions before, in and after the loop along the chunks.

    carried  `S=S_next`: each carried tensor, in the table's order, as an argument and as the value
             that it has after a chunk
    results  `y` or `y=value`: each result and the value that it is
    """

    loop: Sequence[Region]
    carried: str
    results: str
    before: Sequence[Region] = ()
    after: Sequence[Region] = ()

    def needed_after(self, region: Region) -> frozenset[str]:
        """The values that later regions read, or that are results or carried."""
        return self._needed[id(region)]

    @cached_property
    def _needed(self) -> dict[int, frozenset[str]]:
        needed = {value for _, value in (*self.next_values, *self.result_values)}
        found: dict[int, frozenset[str]] = {}
        for region in reversed((*self.before, *self.loop, *self.after)):
            found[id(region)] = frozenset(needed)
            needed |= set(region.params)
        return found

    @cached_property
    def next_values(self) -> tuple[tuple[str, str], ...]:
        """(argument, value after a chunk) of each carried tensor"""
        return _pairs(self.carried)

    @cached_property
    def result_values(self) -> tuple[tuple[str, str], ...]:
        """(result, its value)"""
        return _pairs(self.results)


@dataclass(frozen=True, slots=True)
class BlockEdge:
    """What happens to carried tensors at the edge of a block: new ones by name, and gradients back."""

    forward: Region
    backward: Region | None = None


@dataclass(frozen=True, slots=True)
class MemoryTable:
    """All that the runtime knows about a generated memory.

    token           one step of one token
    chunk           steps of a chunk: those of a block where there are blocks, else free
    block           tokens of a block; 0: there are no blocks
    steps_per_token steps that one token takes
    once_per_token  inputs of the decay, which acts in one of these steps only: ``decay_at``
    read_at         the step whose answer is the token's
    window          tokens that each step learns from; 0: only its own
    window_inputs   inputs that it then needs of earlier tokens
    resets          whether a block starts with nothing of the one before, a window's tokens neither
    forward         None when the rule has no chunk form: it then runs token by token
    """

    name: str
    inputs: tuple[MemoryInput, ...]
    states: tuple[StateTensor, ...]
    answer: tuple[str, ...]
    chunk: int
    token: Region
    forward: ScanProgram | None = None
    backward: ScanProgram | None = None
    at_block_start: BlockEdge | None = None
    at_block_end: BlockEdge | None = None
    block: int = 0
    steps_per_token: int = 1
    once_per_token: tuple[str, ...] = ()
    decay_at: int = 0
    read_at: int = 0
    window: int = 0
    window_inputs: tuple[str, ...] = ()
    resets: bool = False
