"""What a memory is fed: tokens and gates in the order in which they need each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import sympy as sp

from miras_dsl.codegen.emit.identifiers import RESERVED, identifier, source_ref
from miras_dsl.codegen.emit.line_wrap import assignment, under_comment
from miras_dsl.codegen.emit.scalar_printer import ATOM
from miras_dsl.codegen.model.module_types import (
    LayerOp,
    LayerValue,
    ModuleModel,
    ValueKind,
    X,
)
from miras_dsl.codegen.model.types import MemoryInput
from miras_dsl.ir import PAIR, Axes, Axis, Input, Node, inputs_of, ordered
from miras_dsl.scalar.functions import OPERANDS

from .elementwise import elementwise_text
from .expressions import Expression, Layout, broadcast_to, size_text
from .operations import FormulaWriter, Parts


@dataclass
class InputStatements:
    """The statements of `feeds` (per token) and of `constants` (per head), and their parts.

    stored  size parameters that a method needs, so that `__init__` keeps them
    """

    module: ModuleModel
    feed_lines: list[str] = field(default_factory=list)
    feed_items: list[tuple[str, str]] = field(default_factory=list)
    constant_lines: list[str] = field(default_factory=list)
    constant_items: list[tuple[str, str]] = field(default_factory=list)
    stored: set[str] = field(default_factory=set)
    parts: Parts = field(default_factory=Parts)
    places: dict[str, str] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, module: ModuleModel, feeds: Sequence[MemoryInput]) -> InputStatements:
        """Statements that make every input of a memory."""
        self = cls(module)
        self.names |= {identifier(f.name) for f in feeds} | {"dtype"} | RESERVED
        known = {(f.of, f.weight, f.log): identifier(f.name) for f in feeds}
        timed = MethodBody(self, known, self.feed_lines, ["*x.shape[:2]"])
        fixed = MethodBody(self, known, self.constant_lines, [])
        for feed in feeds:
            scope = timed if feed.kind in ("token", "gate") else fixed
            items = self.feed_items if scope is timed else self.constant_items
            items.append((feed.name, scope.item(feed)))
        return self

    def part_lines(self) -> list[str]:
        """The parts' declarations under a comment that says which formula they belong to."""
        lines = []
        for owner in dict.fromkeys(owner for owner, _, _ in self.parts.declared):
            own = [f"self.{name} = {made}" for o, name, made in self.parts.declared if o == owner]
            lines += under_comment(own, owner, self.places[owner])
        return lines

    def size_text(self, axis: Axis, in_method: bool) -> str:
        """The size of an axis as an integer expression, in a method or in `__init__`."""
        names = {name: identifier(name) for name, _ in self.module.params} | {"width": "width"}
        size = self.module.size(axis)
        if in_method:
            used = {str(symbol) for symbol in size.free_symbols}
            self.stored |= {names[name] for name in used if name != "width"}
            names = {
                name: "self.width" if name == "width" else f"self.size_{text}"
                for name, text in names.items()
            }
        return size_text(size, names)

    def size_name(self, name: str) -> str:
        """A size parameter as a number in a formula."""
        self.stored.add(identifier(name))
        return f"self.size_{identifier(name)}"

    def fresh(self, name: str) -> str:
        """``name``, numbered if it is in use."""
        made, number = name, 1
        while made in self.names:
            number += 1
            made = f"{name}_{number}"
        self.names.add(made)
        return made


Wanted = tuple[str, str | None, bool]
"""A value that a memory can be fed: name, weight, and whether its logarithm is meant."""


class MethodBody:
    """The body of one method: what has been computed in it, under which name."""

    def __init__(
        self,
        feeding: InputStatements,
        known: Mapping[Wanted, str],
        lines: list[str],
        lead: list[str],
    ) -> None:
        self.feeding, self.module, self.lines, self.lead = feeding, feeding.module, lines, lead
        self.known = known
        self.done: dict[Wanted, Expression] = {}
        self.values = {value.value: value for value in self.module.values}
        self.operations = dict(self.module.results)
        self.writer = FormulaWriter(self.operations, feeding, feeding.parts, self.named, self.lines)

    def item(self, feed: MemoryInput) -> str:
        """The value of an input, in its axes and full shape."""
        own = self.module.value_of(feed.of, feed.weight)
        value, axes = self.value(own, feed.log), ordered(feed.axes)
        if PAIR in own.axes:  # programs see one pair, calls all of them
            axes = (PAIR, *(a for a in axes if a != PAIR))
        shaped = broadcast_to(value, axes)
        missing = set(axes) - set(value.axes) or not value.headed
        if missing or bool(self.lead) != value.timed:
            return self.full(shaped, axes)
        return shaped.text

    def full(self, x: Expression, axes: Axes) -> str:
        """A value in its full shape, were it the same along some of its axes."""
        sizes = [self.feeding.size_text(axis, True) for axis in axes]
        shape = ", ".join([*self.lead, "self.heads", *sizes])
        return f"expand_to({x.text}, like_parameters(self), {shape})"

    def named(self, node: Input) -> Expression:
        """A token, gate or constant inside a formula."""
        return self.value(self.values[node], False)

    def value(self, value: LayerValue, log: bool) -> Expression:
        """A token, gate or constant of the network, computed once."""
        key = (value.name, value.weight, log)
        if key not in self.done:
            match value.kind:
                case ValueKind.TOKEN:
                    self.done[key] = self.token(value)
                case ValueKind.GATE:
                    self.done[key] = self.gate(value, log)
                case ValueKind.CONSTANT:
                    self.done[key] = self.constant(value)
        return self.done[key]

    def name(self, value: LayerValue, log: bool) -> str:
        """The local name of a value: that of the memory's input, if it is one."""
        known = self.known.get((value.name, value.weight, log))
        own = owner(value)
        return known or self.feeding.fresh(f"log_{own}" if log else own)

    def after(self, formula: Node) -> int:
        """Where a formula's own statements begin: after those of the values that it reads."""
        for leaf in inputs_of([formula]):
            if leaf in self.values and self.values[leaf].kind is not ValueKind.CONSTANT:
                self.named(leaf)
            elif (made := self.operations.get(leaf)) is not None and made.x is not None:
                self.after(made.x)
        return len(self.lines)

    def token(self, token: LayerValue) -> Expression:
        name, note = self.name(token, False), self.after(token.formula)
        self.feeding.places[name] = source_ref(token.span)
        shape = ", ".join(["heads", *(self.feeding.size_text(a, False) for a in token.axes)])
        projected = self.projection(token, name)
        made = projected or self.computed(token, name)
        if not (projected and token.written):
            self.lines += assignment(name, made)
        if token.written:
            call = f'TokenPreprocess("{token.name}", backbone, {shape})'
            part = self.part(name, "shape", call)
            self.lines += assignment(name, f"self.{part}({projected or name}, past)")
        self.cite(note, name, token)
        return Expression(name, Layout.HEADS, token.axes, True, True)

    def projection(self, token: LayerValue, name: str) -> str:
        """A token that is a learned map of the layer's input: it stays in the input's type."""
        made = self.operations.get(token.formula) if isinstance(token.formula, Input) else None
        if made is None or made.op is not LayerOp.LINEAR or made.x is not X or made.rank:
            return ""
        if set(made.result.axes) != set(token.value.axes):
            return ""
        text = self.writer.write(token.formula, name).text
        return text.removeprefix("upcast(").removesuffix(")")

    def computed(self, token: LayerValue, name: str) -> str:
        """A token's formula in its full shape and in the type of the computation."""
        x = self.writer.write(token.formula, name)
        if x.layout is Layout.FEATURES:  # shared by the heads, each its own part
            sizes = ", ".join(self.feeding.size_text(a, True) for a in token.axes)
            text = f"{x.operand}.unflatten(-1, (self.heads, {sizes}))"
            x = Expression(text, Layout.HEADS, token.axes, True, True)
        shaped = broadcast_to(x, token.axes)
        if x.headed and x.timed and set(token.axes) <= set(x.axes):
            return f"{shaped.operand}.to(dtype)"
        return f"{self.full(shaped, token.axes)}.to(dtype)"

    def gate(self, gate: LayerValue, log: bool) -> Expression:
        own = owner(gate)
        self.feeding.places[own] = source_ref(gate.span)
        assert gate.log is not None, "a gate has a logarithm"
        derived = gate.value not in inputs_of([gate.log])
        formula = gate.log if log else gate.formula
        exponential = None
        if not log and derived and (gate.name, gate.weight, True) in self.known:
            exponential = self.value(gate, True)
        elif log and not derived:
            self.value(gate, False)
        name, note = self.name(gate, log), self.after(formula)
        if exponential is not None and exponential.layout is not Layout.NUMBER:
            made = elementwise_text(sp.exp(OPERANDS[0]), {OPERANDS[0]: exponential})
        else:
            made = self.writer.write(formula, own)
        self.lines += assignment(name, made.text)
        self.cite(note, name, gate)
        return replace(made, text=name, binds=ATOM)

    def cite(self, first: int, name: str, value: LayerValue) -> None:
        """Say where the statements from ``first`` on come from."""
        self.lines[first:] = under_comment(self.lines[first:], name, source_ref(value.span))

    def constant(self, value: LayerValue) -> Expression:
        name = identifier(value.name)
        self.feeding.places[name] = source_ref(value.span)
        return self.writer.write(value.formula, name)

    def part(self, owner: str, what: str, made: str) -> str:
        name = self.feeding.fresh(f"{owner}_{what}")
        self.feeding.parts.declared.append((owner, name, made))
        return name


def owner(value: LayerValue) -> str:
    """What the parts of a value are named after."""
    return identifier(value.name) if value.weight is None else f"{value.name}_{value.weight}"
