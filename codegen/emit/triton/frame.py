"""What the forward and the backward kernel have in common: parameters, docstring, loads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from miras_dsl.codegen.emit.line_wrap import prose
from miras_dsl.codegen.plan.kernel_plan import (
    Along,
    AtBlock,
    Compute,
    Edge,
    Kernel,
    KernelPlan,
    Phase,
    Statement,
    Value,
    Walk,
    statements,
)
from miras_dsl.codegen.plan.naming import POINTER
from miras_dsl.ir import KEY, VALUE, Axes, Broadcast, Input, Node, Role, axis_names

from .printer import SIZES, TritonPrinter

Line = tuple[str, str, str]
"""A tensor in a docstring: name, shape, what it is."""


@dataclass(frozen=True, slots=True)
class Variable:
    """An input or carried value in a kernel, for the templates.

    pointers  where it is read from or written to, without `_ptr`; the templates know them as
              `first`, `end`, `checkpoints`, `replayed`, `d` and `d_end`
    value     its gradient or cotangent; shared: of which each block of values has a share
    row       the row of that, replayed: the row of a state that is computed again
    total     the sum of a constant's gradient over the tokens, from zeros on
    """

    name: str
    axes: Axes
    pointers: dict[str, str]
    row: str = ""
    replayed: str = ""
    total: str = ""
    zeros: str = ""
    value: str = ""
    shared: bool = False


class Frame:
    """One kernel of a plan while it is printed.

    tokens, constants, states  the values that it is given; states also of the backward kernel, which
                               has them from checkpoints
    """

    def __init__(self, plan: KernelPlan, phase: Phase) -> None:
        self.plan, self.phase = plan, phase
        (self.kernel,) = plan.kernels_of(phase)
        self.printer = TritonPrinter(plan)
        self.tokens, self.constants, self.states = inputs_of_kernel(plan, self.kernel)
        self.split = bool(self.kernel.grid)
        self.pointer_names: list[str] = []
        self.shapes: list[Line] = []

    def pointer(self, word: str, shape: str, what: str) -> str:
        """A new parameter of the kernel, without `_ptr`, with its line in the docstring."""
        while word in self.pointer_names:
            word += "_"
        self.pointer_names.append(word)
        self.shapes.append((word, shape, what))
        return word

    def given(self) -> None:
        """The parameters with which both kernels begin."""
        known = {f.name for f in self.plan.interface.inputs}
        for x in self.tokens:
            earlier = "" if input_of(x).name in known else "of an earlier token"
            self.pointer(x.name, shape("T, H", x.node.axes), x.cited or earlier)
        for x in self.constants:
            self.pointer(x.name, shape("H", x.node.axes), "the same for every token")

    def loads(self, body: Iterable[Statement], among: Iterable[Value]) -> list[Variable]:
        """Those of some values that the statements read."""
        read = set(inputs_read(self.plan, body))
        return [Variable(x.name, x.node.axes, {}) for x in among if x.node in read]

    def position(self, body: Iterable[Statement]) -> str:
        """The place of the token in its block, from 1, where the statements read it."""
        read = inputs_read(self.plan, body)
        if not any(x.role is Role.POSITION for x in read):
            return ""
        steps = self.plan.interface.steps_per_token
        place = f"((place + t) % {self.plan.block * steps})" + (f" // {steps}" if steps > 1 else "")
        return f"({place} + 1).to(tl.float32)"

    def at_block(self, statement: AtBlock, extra: Sequence[str] = ()) -> list[str]:
        """The lines of a branch that runs at the edge of a block only."""
        ids = [id for part in statement.body if isinstance(part, Compute) for id in part.values]
        lines = self.printer.lines(ids, statement.results)
        return [*lines, *extra, *self.printer.carried(statement.carry)]

    def branch(self, parts: Iterable[AtBlock]) -> list[str]:
        """What the states become at the edge of a block."""
        return [line for part in parts for line in self.at_block(part)]

    def compute(self, walk: Walk) -> list[str]:
        """The lines of what a token does."""
        parts = [part for part in walk.body if isinstance(part, Compute)]
        return [line for part in parts for line in self.printer.lines(part.values)]

    def slots(self, prefix: str) -> dict[str, object]:
        """The slots that both templates have."""
        plan = self.plan
        every = (*self.tokens, *self.constants, *self.states)
        axes = tuple(a for a in SIZES if a == VALUE or any(a in x.node.axes for x in every))
        keeps = self.phase is Phase.FORWARD
        gradients = "" if keeps else "Gradients of "
        order = ", token by token:" if keeps else ", the last token first:"
        return {
            "name": prefix,
            "title": f"{gradients}{plan.name} ({plan.interface.cited}){order}",
            "equations": [
                f"  {piece}" for line in plan.interface.equations for piece in prose(line, 10)
            ],
            "cited": _cited(plan.interface.clauses),
            "shapes": _aligned(self.shapes),
            "parameters": self._parameters(axes, keeps),
            "axes": axis_names(axes),
            "block": plan.block * plan.interface.steps_per_token,
            "split": self.split,
            "why": "; ".join(plan.why),
        }

    def _parameters(self, axes: Axes, keeps: bool) -> list[str]:
        place = "place_ptr, " if self.plan.block else ""
        found = _listed([f"{name}{POINTER}" for name in self.pointer_names])
        found += [f"offsets_ptr, {place}T, L, H,", "V: tl.constexpr, BV: tl.constexpr,"]
        found += ["K: tl.constexpr, BK: tl.constexpr,"] if KEY in axes else []
        flags = ("SEGMENT", "PACKED", *(("KEEP",) if keeps else ()))
        found.append(" ".join(f"{flag}: tl.constexpr," for flag in flags))
        return found


def inputs_of_kernel(
    plan: KernelPlan, kernel: Kernel
) -> tuple[tuple[Value, ...], tuple[Value, ...], tuple[Value, ...]]:
    """What a kernel is given: of every token, of every head, and the states before."""
    saved = {b.value for b in plan.buffers if b.saved}
    values = [plan.values[id] for id in kernel.reads]
    return (
        tuple(v for v in values if input_of(v).role.per_token),
        tuple(v for v in values if input_of(v).role is Role.CONSTANT),
        tuple(v for v in values if v.id in saved),
    )


def input_of(value: Value) -> Input:
    """The input that a value is; AssertionError if it is computed."""
    assert isinstance(value.node, Input)
    return value.node


def edges(plan: KernelPlan, walk: Walk, where: Edge) -> list[AtBlock]:
    """What a loop over tokens does at an edge of a block to the values that it carries."""
    return [part for part in _at(walk, where) if _carries(plan, walk, part)]


def states_at_edge(plan: KernelPlan, walk: Walk, where: Edge) -> list[AtBlock]:
    """What it does there to values that it reads only: the states, in a loop over cotangents."""
    return [part for part in _at(walk, where) if not _carries(plan, walk, part)]


def _at(walk: Walk, where: Edge) -> list[AtBlock]:
    return [part for part in walk.body if isinstance(part, AtBlock) and part.when is where]


def _carries(plan: KernelPlan, walk: Walk, part: AtBlock) -> bool:
    own = {plan.values[carry.state].node for carry in walk.carry}
    return all(plan.values[carry.state].node in own for carry in part.carry)


def inputs_read(plan: KernelPlan, body: Iterable[Statement]) -> Iterator[Input]:
    """The inputs that the statements read."""
    for statement in statements(tuple(body)):
        match statement:
            case Compute(values):
                for id in values:
                    yield from _operands(plan.values[id].node)
            case Walk(_, _, carry, _) | AtBlock(_, carry, _):
                for each in carry:
                    node = plan.values[each.next].node
                    if isinstance(node, Input | Broadcast):
                        yield from _operands(node)
            case _:
                raise AssertionError(f"a kernel of tokens has no {type(statement).__name__}")


def _operands(node: Node) -> Iterator[Input]:
    if isinstance(node, Input):
        yield node
    for operand in node.operands:
        if isinstance(operand, Input | Broadcast):
            yield from _operands(operand)


def shared(plan: KernelPlan, id: int, axes: Axes) -> bool:
    """Whether every block of values has a share of a gradient."""
    return any(b.per is Along.SHARE and (b.value, b.order) == (id, axes) for b in plan.buffers)


def shape(lead: str, axes: Axes) -> str:
    """`[T, H, V, K]`"""
    return f"[{', '.join([lead, *(SIZES[a] for a in axes)])}]"


def _aligned(lines: Sequence[Line]) -> list[str]:
    width, room = (max(len(line[n]) for line in lines) for n in (0, 1))
    return [f"{n:<{width}}  {s:<{room}}  {what}".rstrip() for n, s, what in lines]


def _cited(clauses: Iterable[str]) -> str:
    """`robust.mem:4 (bias), :5 (retention), :6 (algorithm)`: the file once."""
    words: list[str] = []
    last = ""
    for clause in clauses:
        file, colon, line = clause.rpartition(":")
        words.append(f"{'' if file == last else file}{colon}{line}")
        last = file
    return ", ".join(words) or "the step"


def _listed(words: Iterable[str], width: int = 92) -> list[str]:
    """Words with commas, as many on a line as fit."""
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) + 2 > width:
            lines.append("")
        lines[-1] += f"{' ' if lines[-1] else ''}{word},"
    return lines
