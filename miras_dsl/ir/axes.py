"""Axes of tensors, triangles over two token axes, and the roles of a program's inputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import assert_never


class AxisRole(Enum):
    """What an axis counts."""

    TOKEN = auto()  # tokens of one chunk
    PAIR = auto()  # (key, value) pairs of one token
    CHANNEL = auto()  # channels of keys or of values
    HIDDEN = auto()  # units inside the memory
    HEAD = auto()  # heads of a layer; a memory's own programs are those of one head
    FEATURE = auto()  # features of a layer that no head has for itself


@dataclass(frozen=True, slots=True)
class Axis:
    """A named axis.  It says nothing about the order in which an array stores its axes."""

    name: str
    role: AxisRole

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return self.name


Axes = tuple[Axis, ...]

I, J, L, M = (Axis(name, AxisRole.TOKEN) for name in "ijlm")
"""Four names for the tokens of one chunk; the size of each is the length of a chunk."""
PAIR = Axis("pair", AxisRole.PAIR)
VALUE, KEY = (Axis(name, AxisRole.CHANNEL) for name in ("value", "key"))
HEADS = Axis("heads", AxisRole.HEAD)
"""The axis of heads, in the formulas of the layer around a memory."""


def hidden(name: str) -> Axis:
    """An axis of units inside the memory, such as a hidden layer of its network."""
    return Axis(name, AxisRole.HIDDEN)


def features(name: str) -> Axis:
    """An axis of a layer's features."""
    return Axis(name, AxisRole.FEATURE)


def axis_of(word: str) -> Axis:
    """The axis that a word of a spec names: `key`, `value`, `pair`, else one of role HIDDEN."""
    return {a.name: a for a in (KEY, VALUE, PAIR)}.get(word) or hidden(word)


def axes_of(words: Iterable[str]) -> Axes:
    """The axes that the words of a spec name, in the spec's order."""
    return tuple(axis_of(word) for word in words)


def axis_names(axes: Iterable[Axis]) -> tuple[str, ...]:
    """The names of axes, as they stand in specs and in generated code."""
    return tuple(axis.name for axis in axes)


def is_token_axis(axis: Axis) -> bool:
    """Whether an axis counts tokens of a chunk."""
    return axis.role is AxisRole.TOKEN


def _rank(axis: Axis) -> tuple[int, str]:
    # `value` comes before hidden axes and `key` after them: a matrix from keys to values is
    # `[value, key]`, and the weights of a network, `[value, h]` and `[h, key]`, follow one another.
    match axis.role:
        case AxisRole.TOKEN:
            place = 0
        case AxisRole.HEAD:
            place = 1
        case AxisRole.PAIR:
            place = 2
        case AxisRole.CHANNEL:
            place = 3 if axis == VALUE else 5
        case AxisRole.HIDDEN:
            place = 4
        case AxisRole.FEATURE:
            place = 6
        case _:
            assert_never(axis.role)
    return (place, axis.name)


def ordered(axes: Iterable[Axis]) -> Axes:
    """Axes in canonical order, each once, so that nodes with the same axes list them alike."""
    return tuple(sorted(set(axes), key=_rank))


@dataclass(frozen=True, slots=True)
class Triangle:
    """The entries [row, col] with row >= col, or with row > col if ``strict``."""

    row: Axis
    col: Axis
    strict: bool = False

    def within(self, other: Triangle) -> bool:
        """Whether every entry of this triangle is one of ``other``'s."""
        same = (self.row, self.col) == (other.row, other.col)
        return same and (self.strict or not other.strict)


class Role(Enum):
    """What an input of a program is.

    TOKEN      a value of every token that the layer computes
    GATE       a gate of every token, or its logarithm
    POSITION   the place of every token in its block, from 1; it has no gradient
    PREDICATE  1 where a chunk has a token, 0 where it is padded; it has no gradient
    CONSTANT   learned, one per head
    SIZE       a size parameter of the memory, as a number; it has no gradient
    WEIGHT     a weight of the memory in a formula of the spec, at whatever point it is taken
    STATE      a carried tensor before the token or the chunk; in an adjoint, also the carried
               cotangent of such a tensor
    NEXT       a carried tensor, as it is after the token
    COTANGENT  the gradient of a result, given to an adjoint
    HOLE       an operand of a formula that is applied later, such as a row of a substitution
    """

    TOKEN = "token"
    GATE = "gate"
    POSITION = "position"
    PREDICATE = "predicate"
    CONSTANT = "constant"
    SIZE = "size"
    WEIGHT = "weight"
    STATE = "state"
    NEXT = "next"
    COTANGENT = "cotangent"
    HOLE = "hole"

    @property
    def per_token(self) -> bool:
        """Whether there is one for every token."""
        return self in (Role.TOKEN, Role.GATE, Role.POSITION, Role.PREDICATE)

    @property
    def differentiable(self) -> bool:
        """Whether an adjoint computes a gradient for it."""
        return self not in (Role.POSITION, Role.PREDICATE, Role.SIZE)
