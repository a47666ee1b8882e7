"""Statements of one function: a value that is read once is written into its reader."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from miras_dsl.codegen.plan.kernel_plan import Value
from miras_dsl.codegen.plan.naming import shape_comment
from miras_dsl.codegen.plan.partition import stored_as
from miras_dsl.ir import ForwardSubstitution, Input, Map, Node
from miras_dsl.scalar.functions import OPERANDS

from .printer import TorchPrinter
from .shared_parts import Assignment

LONGEST_INNER, LONGEST_NESTED = 56, 84
"""Characters of an expression that is written into another one, and of one that takes others in, when
every name has fourteen: what is nested must not depend on what a user calls things."""


def measure(
    values: Iterable[Value], rows: Mapping[tuple[Node, tuple[Input, ...]], str]
) -> TorchPrinter:
    """A printer that calls every value the same, to tell how long an expression is."""
    return TorchPrinter([replace(value, name="name_like_this") for value in values], rows)


class Statements:
    """Writes the statements of some values of one scope.

    kept  values that must have a name: what the function returns
    """

    def __init__(
        self,
        printer: TorchPrinter,
        measured: TorchPrinter,
        values: Sequence[Value],
        kept: Collection[int],
    ) -> None:
        self.printer, self.measured = printer, measured
        self.values, self.kept = values, kept
        self.uses = _uses(values)
        self.nested: dict[Node, Value] = {}
        self.written: list[Assignment] = []

    def assignments(self) -> list[Assignment]:
        """All statements, in order; afterwards every value goes by its own name again."""
        for value in self.values:
            self._add(value)
        for node, value in self.nested.items():
            self.printer.names[node], self.measured.names[node] = value.name, "name_like_this"
        return self.written

    def _add(self, value: Value) -> None:
        node = value.node
        inner = [n for n in dict.fromkeys(map(stored_as, node.operands)) if n in self.nested]
        for operand in sorted(inner, key=lambda n: -len(self.measured.names[n])):
            if len(self.measured.expression(node)) <= LONGEST_NESTED:
                break
            self._write(self.nested.pop(operand))
        length = len(self.measured.expression(node))
        if self._may_nest(value) and length <= LONGEST_INNER:
            self.nested[node] = value
            for printer in (self.printer, self.measured):
                printer.names[node] = _as_operand(printer.expression(node))
        else:
            self._write(value)

    def _may_nest(self, value: Value) -> bool:
        """Whether a value needs no name: one other value reads it, once."""
        once = value.id not in self.kept and self.uses.get(value.node) == 1
        return once and not isinstance(value.node, ForwardSubstitution)

    def _write(self, value: Value) -> None:
        expression, shape = self.printer.expression(value.node), shape_comment(value.node.axes)
        self.written.append(Assignment((value.name,), expression, shape, value.cited))
        self.printer.names[value.node], self.measured.names[value.node] = (
            value.name,
            "name_like_this",
        )


def _uses(values: Iterable[Value]) -> dict[Node, int]:
    """How often each node stands in the statements of some values."""
    found: dict[Node, int] = {}
    for value in values:
        node = value.node
        for operand in node.operands:
            times = 1
            if isinstance(node, Map):
                slots = [s for s, a in zip(OPERANDS, node.args, strict=False) if a is operand]
                times = sum(int(node.formula.count(slot)) for slot in slots)
            here = stored_as(operand)
            found[here] = found.get(here, 0) + times
    return found


def _as_operand(expression: str) -> str:
    """An expression as part of another one: in brackets, unless it is a call."""
    return expression if _is_call(expression) else f"({expression})"


def _is_call(expression: str) -> bool:
    """Whether an expression is a chain of names and calls: `ops.tril(x, -2, -1)`, `(a * b).sum((-1,))`."""
    depth = 0
    for letter in expression:
        if letter in "([":
            depth += 1
        elif letter in ")]":
            depth -= 1
        elif depth == 0 and not (letter.isalnum() or letter in "._"):
            return False
    return True
