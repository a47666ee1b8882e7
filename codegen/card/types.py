"""What a card says, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .decays import Decay


@dataclass(frozen=True, slots=True)
class StateRow:
    """A carried tensor of one head."""

    name: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    starts: str
    holds: str


@dataclass(frozen=True, slots=True)
class GateRow:
    """A gate, with the line and text of its formula, its range and where it starts."""

    name: str
    weight: str | None
    axes: tuple[str, ...]
    written: str
    place: str
    low: float
    high: float
    start_low: float
    start_high: float


@dataclass(frozen=True, slots=True)
class Work:
    """What one token of one head costs.

    flops    floating-point operations, at the card's sizes
    formula  the same over the size parameters
    bytes    what is read and written between functions, in single precision
    """

    flops: int
    formula: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Depth:
    """The steps of a sequence that wait for one another: runs of the loop, and rows in them."""

    tokens: int
    walks: int
    rows: int
    steps: int


@dataclass(frozen=True, slots=True)
class Card:
    """A memory at a glance.

    place     where it is defined
    family    its class, with the reasons as sentences
    sizes     size parameters at which numbers are given
    chunk     tokens of a chunk or block; 1 where it learns token by token
    training  a token in the chunk form, or token by token where there is none
    decoding  one token by itself
    cpu, gpu  what runs there, and why nothing faster
    warnings  sentences
    """

    name: str
    place: str
    family: str
    reasons: tuple[str, ...]
    sizes: Mapping[str, int]
    state: tuple[StateRow, ...]
    state_numbers: str
    state_bytes: int
    gates: tuple[GateRow, ...]
    decays: tuple[Decay, ...]
    chunk: int
    training: Work
    decoding: Work
    depth: Depth
    cpu: str
    gpu: str
    warnings: tuple[str, ...]
