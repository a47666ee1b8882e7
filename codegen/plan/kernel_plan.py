"""Stage 7: how a rule is computed.  A `KernelPlan` is all that a printer of a memory reads.

A plan is made on the joint program of a rule: what one token or one chunk does, its adjoint, and what
happens where a block begins or ends, with one id for every value.  It says which kernel computes which
values in which order, which loops run around them, what is carried from one turn of a loop to the
next, what passes between kernels, and in what precision.

    KernelPlan
      kernels   in the order of their launches, each of a `Phase`
        body    statements: `Compute` values · `Walk` along chunks, segments or tokens
                · `AtBlock`: at the edge of a block only · `Exchange` between programs of a group
      buffers   what one kernel leaves for another, or for the backward pass
      why       the reasons of the decisions, as sentences
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from miras_dsl.ir import Axes, Axis, Input, Node

from .interface import Interface


class Phase(Enum):
    """When a kernel is launched."""

    FORWARD = "forward"
    BACKWARD = "backward"
    STEP = "step"  # one token, for decoding and for rules without a chunk form


class Along(Enum):
    """What a loop, a grid or a buffer counts."""

    CALL = "call"
    CHUNK = "chunk"
    SEGMENT = "segment"
    TOKEN = "token"
    SHARE = "share"  # a part of a sum that several programs have; one more launch adds them


class Edge(Enum):
    """Where in a block something happens."""

    START = "start"
    END = "end"


@dataclass(frozen=True, slots=True)
class Value:
    """One tensor of the joint program.

    id     its number in the plan
    node   what it is, over the nodes of other values of the same scope
    scope  the program that it belongs to: `chunk`, `token`, `block start` …: an input of the same
           name is another value in each
    name   what printers call it: unique in its scope
    dtype  what it is stored in: "float32" stands for the type that the memory computes in
    accumulate  what the sums of a product are taken in
    cited  the line of the spec that it comes from, "" if none
    masked  of a sum or maximum over a tile: the axes whose padded lanes must be left out, since
            they may hold something else than 0 (read by the Triton printer)
    """

    id: int
    node: Node
    scope: str
    name: str
    dtype: str = "float32"
    accumulate: str = "float32"
    cited: str = ""
    masked: Axes = ()


@dataclass(frozen=True, slots=True)
class Carry:
    """A value that a loop carries: ``state`` is an input of the body, ``next`` its value afterwards."""

    state: int
    next: int


@dataclass(frozen=True, slots=True)
class Compute:
    """Values by id, each after those that it reads."""

    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Walk:
    """A loop, forwards (step 1) or backwards (step -1), that carries values from turn to turn."""

    along: Along
    step: int
    carry: tuple[Carry, ...]
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class AtBlock:
    """Statements for the turns of a loop that stand at the edge of a block; elsewhere the carried
    values stay as they are.

    carry   the carried values before and after, in the scope of the edge's own program
    results other values that the body makes, by id: gradients of gates at the edge
    """

    when: Edge
    carry: tuple[Carry, ...]
    body: tuple[Statement, ...]
    results: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Exchange:
    """Programs of a group add up their parts of values; ``body`` may run while they wait.

    lag  1: the sum arrives at the exchange of the next turn
    """

    values: tuple[int, ...]
    over: Axis
    lag: int
    body: tuple[Statement, ...] = ()


Statement = Compute | Walk | AtBlock | Exchange


@dataclass(frozen=True, slots=True)
class Buffer:
    """A value that outlives a kernel.

    per    one for the call, or one for every chunk, segment or token; or a share of a sum
    order  the axes in the order in which they are stored
    saved  whether the forward pass keeps it for the backward pass
    """

    value: int
    per: Along
    order: Axes
    saved: bool = False


@dataclass(frozen=True, slots=True)
class Kernel:
    """One launch.

    grid    what its programs divide up: chunks, or channels of an axis; () one program a sequence
            and head
    group   (axis, programs): so many programs share one sequence and head, a part of the axis each
    reads   values that are given to it, writes: values that it leaves in buffers or results
    """

    name: str
    phase: Phase
    grid: tuple[Along | Axis, ...]
    body: tuple[Statement, ...]
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    group: tuple[Axis, int] | None = None


@dataclass(frozen=True, slots=True)
class RowFunction:
    """The body of a substitution: one row of it as a function of its operands.

    value  the substitutions that it belongs to, by the node of their body
    """

    name: str
    body: Node
    holes: tuple[Input, ...]
    values: tuple[Value, ...]
    result: Node


@dataclass(frozen=True, slots=True)
class KernelPlan:
    """See the head of this file.

    target   what it is planned for: "torch", or "triton" for kernels
    results  results of the phases by name: (phase, name, value); a result that is there more than
             once is the sum of its values, of which those at the edge of a block are 0 elsewhere
    chunk    tokens of a chunk; block: tokens of a block, 0 where there are none
    family   the class of the rule; why: the reasons of the decisions, as sentences
    """

    name: str
    target: str
    values: tuple[Value, ...]
    kernels: tuple[Kernel, ...]
    buffers: tuple[Buffer, ...]
    results: tuple[tuple[Phase, str, int], ...]
    rows: tuple[RowFunction, ...]
    chunk: int
    block: int
    interface: Interface
    family: str
    why: tuple[str, ...] = ()

    def kernels_of(self, phase: Phase) -> tuple[Kernel, ...]:
        """The kernels of a phase, in the order of their launches."""
        return tuple(kernel for kernel in self.kernels if kernel.phase is phase)

    def results_of(self, phase: Phase) -> dict[str, Value]:
        """The results of a phase by name; of those that are sums the last value, the step's own."""
        return {name: self.values[id] for where, name, id in self.results if where is phase}


def statements(body: tuple[Statement, ...]) -> Iterator[Statement]:
    """Every statement of a body, those inside others after them."""
    for statement in body:
        yield statement
        match statement:
            case Walk(_, _, _, inner) | AtBlock(_, _, inner) | Exchange(_, _, _, inner):
                yield from statements(inner)
            case Compute():
                pass


def computed(body: tuple[Statement, ...]) -> Iterator[int]:
    """The values that a body computes, in order."""
    for statement in statements(body):
        if isinstance(statement, Compute):
            yield from statement.values


def walks(kernel: Kernel) -> list[Walk]:
    """The loops of a kernel, outer ones first."""
    return [s for s in statements(kernel.body) if isinstance(s, Walk)]


def override(
    plan: KernelPlan,
    *,
    dtype: Mapping[str, str] | None = None,
    accumulate: Mapping[str, str] | None = None,
    order: Mapping[str, Axes] | None = None,
) -> KernelPlan:
    """A plan with some decisions made otherwise; `legal` tells whether it can still be carried out.

    dtype, accumulate  by the name of a value
    order  in which a buffer stores the axes of its value, by the value's name

    Raises ValueError for a name that the plan does not have.
    """
    names = {value.name for value in plan.values}
    unknown = {*(dtype or ()), *(accumulate or ()), *(order or ())} - names
    if unknown:
        raise ValueError(f"the plan of {plan.name} has no value {min(unknown)}")
    values = tuple(
        replace(
            value,
            dtype=(dtype or {}).get(value.name, value.dtype),
            accumulate=(accumulate or {}).get(value.name, value.accumulate),
        )
        for value in plan.values
    )
    buffers = tuple(
        replace(b, order=(order or {}).get(plan.values[b.value].name, b.order))
        for b in plan.buffers
    )
    return replace(plan, values=values, buffers=buffers)
