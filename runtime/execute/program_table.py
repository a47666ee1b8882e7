"""The table with which a generated file describes a memory: all that the runtime knows about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, update_wrapper
from inspect import signature
from typing import Any

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class MemoryInput:
    """An input of a memory.

    kind  "token" or "gate" [B, T, H, *axes], "constant" [H, *axes] or "position" [H, block]
    axes  the names of its axes
    log   it is the logarithm of a decay, which is summed in double precision
    """

    name: str
    kind: str
    axes: tuple[str, ...]
    log: bool = False


@dataclass(frozen=True, slots=True)
class StateTensor:
    """A carried tensor [N, H, *axes].

    name      in a state dictionary: `S.W`
    argument  of generated functions: `S_W`
    """

    name: str
    argument: str
    axes: tuple[str, ...]


class Region:
    """A generated function that takes and returns values by name.

    Its last parameter is `size` (`Sizes`); the others are names of values.  ``names`` are those of
    what it returns, separated by blanks.
    """

    def __init__(self, function: Callable[..., tuple[Any, ...]], names: str) -> None:
        self.function, self.names = function, tuple(names.split())
        self.params = tuple(name for name in signature(function).parameters if name != "size")
        update_wrapper(self, function)

    def __call__(self, values: Mapping[str, Any], size: Mapping[str, int]) -> Values:
        made = self.function(*(values[name] for name in self.params), size)
        if isinstance(made, dict):
            return {name: made[name] for name in self.names}
        return dict(zip(self.names, made, strict=True))


def returns(names: str) -> Callable[[Callable[..., tuple[Any, ...]]], Region]:
    """A decorator that makes a function a `Region`; ``names``: of what it returns, with blanks between."""
    return lambda function: Region(function, names)


def _pairs(words: str) -> tuple[tuple[str, str], ...]:
    """`y S.W=S_W_next` as ((`y`, `y`), (`S.W`, `S_W_next`)): (name outside, name of the value)."""
    parts = (word.partition("=") for word in words.split())
    return tuple((name, value or name) for name, _, value in parts)


@dataclass(frozen=True)
class ScanProgram:
    """A chunk program, or its adjoint, as functions that run before, in and after the loop over chunks.

    carried  `S=S_next …`: the argument of each carried tensor, in the table's order, and the value
             that it has after a chunk
    results  `y …` or `y=value …`: each result, and the value that it is
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
        """(argument, name of the value after a chunk) of each carried tensor."""
        return _pairs(self.carried)

    @cached_property
    def result_values(self) -> tuple[tuple[str, str], ...]:
        """(result, name of its value)."""
        return _pairs(self.results)


@dataclass(frozen=True, slots=True)
class BlockEdge:
    """How carried tensors change at the start or at the end of a block.

    forward   returns the new states by name
    backward  returns the cotangents of the old states and the gradients of inputs by name; None for a
              rule without a chunk form
    """

    forward: Region
    backward: Region | None = None


@dataclass(frozen=True, slots=True)
class MemoryTable:
    """All that the runtime knows about a generated memory.

    inputs           what it is given for each call
    states           what it carries from token to token
    answer           the axes of what is read
    chunk            steps of a chunk: with blocks those of a block, else the longest chunk
    token            computes one step of one token
    forward          the chunk program; None for a rule without a chunk form: it runs token by token
    backward         its adjoint
    block            tokens of a block; 0: there are no blocks
    steps_per_token  steps that one token takes
    once_per_token   inputs of the decay, which acts in step ``decay_at`` of a token only
    decay_at         from 0
    read_at          the step, from 0, whose answer is that of the token
    window           tokens that each step learns from; 0: only its own
    window_inputs    inputs of which earlier tokens are then needed
    resets           whether states, and the window, are emptied at the start of each block
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
