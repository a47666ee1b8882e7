"""The tables that a generated file fills in: all that the runtime knows about a memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
    word: str
    axes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Region:
    """A generated function with the names of its arguments and results."""

    function: Callable[..., tuple[Any, ...]]
    takes: tuple[str, ...]
    gives: tuple[str, ...]

    def __call__(self, values: Mapping[str, Any], size: Mapping[str, int]) -> Values:
        made = self.function(*(values[name] for name in self.takes), size)
        return dict(zip(self.gives, made, strict=True))


@dataclass(frozen=True, slots=True)
class ScanProgram:
    """A program in three parts; see `miras_dsl.codegen.schedule`."""

    before: Region | None
    loop: Region
    after: Region | None
    states: tuple[tuple[str, str, str], ...]
    results: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class BlockEdge:
    """A change of states at the edge of a block: new values by state name, and cotangents back."""

    forward: Region
    backward: Region


@dataclass(frozen=True, slots=True)
class MemoryTable:
    """All that the runtime knows about a generated memory.

    chunk    steps of a chunk: those of a block where there are blocks, else free
    block    tokens between refreshes; 0: none
    micro    steps that one token takes
    once     logarithms of decays that act on one of these steps only: ``decay_at``
    read_at  the step whose answer is the token's
    window   tokens that each step learns from; 0: only its own.  tails: the inputs that it needs again
    refresh  before the first token of a block; close: after its last
    resets   whether a block starts with nothing of the one before, a window's tokens neither
    forward  None when the rule has no chunk form: it then runs token by token
    """

    name: str
    feeds: tuple[MemoryInput, ...]
    states: tuple[StateTensor, ...]
    answer: tuple[str, ...]
    chunk: int
    block: int
    micro: int
    once: tuple[str, ...]
    token: Region
    forward: ScanProgram | None
    backward: ScanProgram | None
    refresh: BlockEdge | None
    close: BlockEdge | None
    valid: str
    window: int = 0
    tails: tuple[str, ...] = ()
    resets: bool = False
    decay_at: int = 0
    read_at: int = 0
