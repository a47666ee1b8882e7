"""Stage 3: a memory as tensor nodes, and what the layer around it must feed it."""

from __future__ import annotations

from dataclasses import dataclass

import sympy as sp

from miras_dsl.ir import Axes, Axis, Input, Node, Role, hidden
from miras_dsl.spec import Algorithm, MemorySpec, Retention

POSITIONS = hidden("position")
"""The axis of a gate that has a number for every position of a block."""


@dataclass(frozen=True, slots=True)
class MemoryInput:
    """One input of a memory's programs, and which token or gate of the spec it is.

    name    identifier in programs and generated code: `query`, `eta`, `log_alpha`, `log_alpha_W1`
    of      the token, gate or network constant of the spec
    kind    "token" (a vector per token and head), "gate", "constant" (per head, no time axis) or
            "position" (per head and position of a block; programs see the entry of their token)
    axes    its axes, `row` already replaced by the row axis of `weight`
    weight  for a gate per row: the weight whose rows it steers
    log     the program wants the logarithm of the gate (it is a decay)
    """

    name: str
    of: str
    kind: str
    axes: Axes
    weight: str | None = None
    log: bool = False

    @property
    def role(self) -> Role:
        """What it is in a program: constants per head, and gates and tokens of every token."""
        return {"token": Role.TOKEN, "constant": Role.CONSTANT}.get(self.kind, Role.GATE)

    def as_input(self) -> Input:
        """The program input; a gate per position is one number of every token there."""
        axes = tuple(axis for axis in self.axes if axis != POSITIONS)
        return Input(self.name, axes, self.role)


@dataclass(frozen=True, slots=True)
class StateTensor:
    """A tensor that the memory carries from token to token.

    name  as in a state dictionary: `W`, `S.W` (momentum of W), `W.anchor`, `W.1` (a trajectory)
    of    the weight of the spec that it belongs to
    init  "zero", "learned", "positive", or "weight": starts equal to the weight `of`
    """

    name: str
    of: str
    axes: Axes
    init: str


@dataclass(frozen=True, slots=True)
class MemoryModel:
    """A memory whose formulas are nodes over feeds and weights.

    gradients  weight -> its gradient (rates applied), as a node over weights at the point where
               gradients are taken; weights appear as inputs of role WEIGHT
    answer     what leaves the memory, over weights and feeds
    sizes      axis -> size, over the memory's parameters
    """

    name: str
    spec: MemorySpec
    feeds: tuple[MemoryInput, ...]
    weights: tuple[StateTensor, ...]
    gradients: tuple[tuple[str, Node], ...]
    answer: Node
    retention: Retention
    algorithm: Algorithm
    order: tuple[str, ...]
    sizes: tuple[tuple[Axis, sp.Expr], ...]
