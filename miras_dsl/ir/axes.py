"""Axes of tensors, triangles over two token axes, and the roles of a program's inputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto


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
    """A named axis.  In which order an array stores its axes is a decision of the plan, not of the axis."""

    name: str
    role: AxisRole

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return self.name


Axes = tuple[Axis, ...]

I, J, L, M = (Axis(name, AxisRole.TOKEN) for name in "ijlm")
"""Axes over the tokens of one chunk: all have the chunk's length."""
PAIR = Axis("pair", AxisRole.PAIR)
VALUE, KEY = (Axis(name, AxisRole.CHANNEL) for name in ("value", "key"))
HEADS = Axis("heads", AxisRole.HEAD)
"""The axis of heads, in the formulas of the layer around a memory."""


def hidden(name: str) -> Axis:
    """An axis inside the memory."""
    return Axis(name, AxisRole.HIDDEN)


def features(name: str) -> Axis:
    """An axis of a layer's features."""
    return Axis(name, AxisRole.FEATURE)


def axis_of(word: str) -> Axis:
    """The axis that a word of a spec names: `key`, `value`, `pair`, else an axis inside the memory."""
    return {a.name: a for a in (KEY, VALUE, PAIR)}.get(word) or hidden(word)


def axes_of(words: Iterable[str]) -> Axes:
    """The axes that the words of a spec name, in the spec's order."""
    return tuple(axis_of(word) for word in words)


def axis_names(axes: Iterable[Axis]) -> tuple[str, ...]:
    """The names of axes, as generated code and specs have them."""
    return tuple(axis.name for axis in axes)


def is_token_axis(axis: Axis) -> bool:
    """Whether an axis counts tokens of a chunk."""
    return axis.role is AxisRole.TOKEN


def _rank(axis: Axis) -> tuple[int, str]:
    # Values stand before what is inside the memory and keys after it, so that a matrix from keys to
    # values is `[value, key]`, and the weights of a network are chained from left to right.
    place = {
        AxisRole.TOKEN: 0,
        AxisRole.HEAD: 1,
        AxisRole.PAIR: 2,
        AxisRole.CHANNEL: 3 if axis == VALUE else 5,
        AxisRole.HIDDEN: 4,
        AxisRole.FEATURE: 6,
    }[axis.role]
    return (place, axis.name)


def ordered(axes: Iterable[Axis]) -> Axes:
    """Axes in one canonical order, each once: two nodes with the same axes list them alike."""
    return tuple(sorted(set(axes), key=_rank))


@dataclass(frozen=True, slots=True)
class Triangle:
    """The entries of [row, col] with row >= col, or with row > col where ``strict``."""

    row: Axis
    col: Axis
    strict: bool = False

    def within(self, other: Triangle) -> bool:
        """Whether this triangle lies inside another one."""
        same = (self.row, self.col) == (other.row, other.col)
        return same and (self.strict or not other.strict)


class Role(Enum):
    """What an input of a program is.

    TOKEN      a value of every token that the layer computes
    GATE       a gate of every token, or its logarithm
    POSITION   the place of every token in its block, from 1; it has no gradient
    PREDICATE  1 or 0 for every token: whether there is one; it has no gradient
    CONSTANT   learned, one per head
    SIZE       a size parameter of the memory, as a number; it has no gradient
    WEIGHT     a weight of the memory in a formula of the spec, at whatever point it is taken
    STATE      a carried tensor, as it is before the token or the chunk (also in an adjoint, which
               carries the cotangents and is given the tensor)
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
        """Whether every token has its own."""
        return self in (Role.TOKEN, Role.GATE, Role.POSITION, Role.PREDICATE)

    @property
    def differentiable(self) -> bool:
        """Whether an adjoint computes its gradient."""
        return self not in (Role.POSITION, Role.PREDICATE, Role.SIZE)
