"""What a memory is fed: tokens and gates in the order in which they need each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from miras_dsl.codegen.emit.identifiers import RESERVED, identifier, source_ref
from miras_dsl.codegen.emit.line_wrap import assignment
from miras_dsl.codegen.model.types import MemoryInput
from miras_dsl.ir import axis_names, ordered
from miras_dsl.source import NOWHERE
from miras_dsl.spec import Axes, Axis, Expr, Gate, MemorySpec, Ref, State, Token, iter_nodes

from .expressions import Expression, broadcast_to, size_text
from .formulas import FormulaWriter
from .log_gates import log_of


@dataclass
class InputStatements:
    """The statements of `feeds` (per token) and of `constants` (per head), and their parts.

    stored  size parameters that a method needs, so that `__init__` keeps them
    """

    spec: MemorySpec
    feed_lines: list[str] = field(default_factory=list)
    feed_items: list[tuple[str, str]] = field(default_factory=list)
    constant_lines: list[str] = field(default_factory=list)
    constant_items: list[tuple[str, str]] = field(default_factory=list)
    stored: set[str] = field(default_factory=set)
    parts: list[tuple[str, str, str]] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, spec: MemorySpec, feeds: Sequence[MemoryInput]) -> InputStatements:
        """Statements that make every feed of a memory."""
        self = cls(spec)
        self.names |= {identifier(f.name) for f in feeds} | {"dtype"} | RESERVED
        known = {(f.of, f.weight, f.log): identifier(f.name) for f in feeds}
        timed = MethodBody(self, known, self.feed_lines, ["*x.shape[:2]"])
        fixed = MethodBody(self, known, self.constant_lines, [], timed)
        for feed in feeds:
            scope = timed if feed.kind in ("token", "gate") else fixed
            items = self.feed_items if scope is timed else self.constant_items
            items.append((feed.name, scope.item(feed)))
        return self

    def part_lines(self) -> list[str]:
        """The parts' declarations under a comment that says which formula they belong to."""
        lines = []
        for owner in dict.fromkeys(owner for owner, _, _ in self.parts):
            lines.append(f"# {owner}: {self.places[owner]}")
            lines += [f"self.{name} = {made}" for o, name, made in self.parts if o == owner]
        return lines

    def size_text(self, axis: Axis, in_method: bool) -> str:
        """The size of an axis as an integer expression, in a method or in `__init__`."""
        names = {name: identifier(name) for name, _ in self.spec.params}
        if axis == "position" and self.spec.algorithm.anchored is not None:
            return str(self.spec.algorithm.anchored.block)
        if axis == "pair" and "pair" not in dict(self.spec.sizes):
            return str(self.spec.algorithm.pairs)
        size = self.spec.size(axis)
        if in_method:
            self.stored |= {names[s.name] for s in size.free_symbols}  # type: ignore[attr-defined]
            names = {name: f"self.size_{text}" for name, text in names.items()}
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

    def state(self, name: str) -> State:
        """A weight of the spec, by name."""
        return next(s for s in self.spec.states if s.name == name)


class MethodBody:
    """The body of one method: what has been computed in it, under which name."""

    def __init__(
        self,
        feeding: InputStatements,
        known: Mapping[tuple[str, str | None, bool], str],
        lines: list[str],
        lead: list[str],
        shared: MethodBody | None = None,
    ) -> None:
        self.feeding, self.spec, self.lines, self.lead = feeding, feeding.spec, lines, lead
        self.known = known
        self.done: dict[tuple[str, str | None, bool], Expression] = {}
        self.book = FormulaWriter(
            size_text=feeding.size_text,
            size_name=feeding.size_name,
            names=self.named,
            fresh=feeding.fresh,
            parameters={name: identifier(name) for name, _ in self.spec.params},
            parts=feeding.parts,
            lines=lines,
        )
        if shared is not None:  # a learned constant may be used by both methods
            self.book.made, self.book.starts = shared.book.made, shared.book.starts

    def item(self, feed: MemoryInput) -> str:
        """The value of a feed, in its axes and full shape."""
        value, axes = self.value(feed.of, feed.weight, feed.log), axis_names(ordered(feed.axes))
        declared = [a.axes for a in (*self.spec.tokens, *self.spec.gates) if a.name == feed.of]
        if any("pair" in each for each in declared):  # programs see one pair, calls all of them
            axes = ("pair", *(a for a in axes if a != "pair"))
        shaped = broadcast_to(value, axes) if value.kind == "heads" else value
        missing = set(axes) - set(value.axes) or not value.headed
        if missing or bool(self.lead) != value.timed:
            sizes = [self.feeding.size_text(axis, True) for axis in axes]
            shape = ", ".join([*self.lead, "self.heads", *sizes])
            return f"expand_to({shaped.text}, like_parameters(self), {shape})"
        return shaped.text

    def named(self, ref: Ref, weight: str | None) -> Expression:
        """A name inside a formula; a gate per row is that of the weight in question."""
        gate = next((g for g in self.spec.gates if g.name == ref.name), None)
        per_row = gate is not None and "row" in gate.axes
        return self.value(ref.name, weight if per_row else None, False)

    def value(self, name: str, weight: str | None, log: bool) -> Expression:
        """A token, gate or network constant, computed once."""
        key = (name, weight, log)
        if key not in self.done:
            self.done[key] = self.compute(name, weight, log)
        return self.done[key]

    def compute(self, name: str, weight: str | None, log: bool) -> Expression:
        token = next((t for t in self.spec.tokens if t.name == name), None)
        if token is not None:
            return self.token(token)
        gate = next((g for g in self.spec.gates if g.name == name), None)
        if gate is not None:
            return self.gate(gate, weight, log)
        axes, init = next((a, i) for n, a, i in self.spec.network.params if n == name)
        return self.constant(name, axes, init)

    def name(self, name: str, weight: str | None, log: bool) -> str:
        """The local name of a value: its feed's, if it is one."""
        known = self.known.get((name, weight, log))
        owner = identifier(name) if weight is None else f"{name}_{weight}"
        return known or self.feeding.fresh(f"log_{owner}" if log else owner)

    def after(self, expr: Expr | None, weight: str | None) -> int:
        """Where a formula's own statements begin: after those of what it names."""
        for node in iter_nodes(expr) if expr is not None else ():
            if isinstance(node, Ref) and node.kind in ("token", "gate"):
                self.named(node, weight)
        return len(self.lines)

    def token(self, token: Token) -> Expression:
        name = self.name(token.name, None, False)
        note = self.after(token.expr, None)
        place = source_ref(self.spec.span if token.span is NOWHERE else token.span)
        sizes = [self.feeding.size_text(axis, False) for axis in token.axes]
        shape = ", ".join(["heads", *sizes])
        self.feeding.places[name] = place
        if token.expr is None:
            part = self.part(name, "linear", f"Linear(width, {shape})")
            made = Expression(f"self.{part}(x)", "heads", token.axes, True, True)
        else:
            made = self.book.write(token.expr, name, None, ())
            if made.kind == "flat":
                inner = ", ".join(self.feeding.size_text(a, True) for a in token.axes)
                text = f"{made.inside(5)}.unflatten(-1, (self.heads, {inner}))"
                made = Expression(text, "heads", token.axes, True, True)
            made = self.filled(made, token.axes)
            made = Expression(f"{made.inside(5)}.to(dtype)", "heads", token.axes, True, True)
        self.lines.insert(note, f"# {name}: {place}")
        self.lines += assignment(name, made.text)
        if token.name.startswith("_"):  # the checker's own: no backbone can name it
            return Expression(name, "heads", token.axes, True, True)
        part = self.part(name, "shape", f'TokenPreprocess("{token.name}", backbone, {shape})')
        self.lines.append(f"{name} = self.{part}({name}, past)")
        return Expression(name, "heads", token.axes, True, True)

    def gate(self, gate: Gate, weight: str | None, log: bool) -> Expression:
        rows = self.feeding.state(weight).axes[:1] if weight else ()
        owner = identifier(gate.name) if weight is None else f"{gate.name}_{weight}"
        self.feeding.places[owner] = source_ref(gate.span)
        logarithm = log_of(gate.expr)
        other = None
        both = (gate.name, weight, True) in self.known
        if (log and logarithm is None) or (not log and logarithm is not None and both):
            other = self.value(gate.name, weight, not log)
        name, note = self.name(gate.name, weight, log), self.after(gate.expr, weight)
        if other is not None and log:
            number = other.kind == "number"
            plain = f"like_parameters(self).new_tensor({other.text})" if number else other.text
            made = replace(other, text=f"torch.log({plain}.clamp(min=MIN_GATE))", kind="heads")
        elif other is not None and other.kind != "number":
            made = replace(other, text=f"torch.exp({other.text})")
        else:
            expr = logarithm if log and logarithm is not None else gate.expr
            made = self.book.write(expr, owner, weight, rows)
        self.lines.insert(note, f"# {name}: {source_ref(gate.span)}")
        self.lines += assignment(name, made.text)
        kind = "heads" if made.kind == "flat" else made.kind
        return Expression(name, kind, made.axes, made.timed, made.headed)

    def constant(self, name: str, axes: Axes, init: float) -> Expression:
        shape = ", ".join(["heads", *(self.feeding.size_text(a, False) for a in axes)])
        self.feeding.places[name] = source_ref(self.spec.span)
        made = f"learned_constant({float(init)!r}, {shape})"
        part = self.part(identifier(name), "param", made)
        return Expression(f"upcast(self.{part})", "heads", axes, False, True)

    def filled(self, x: Expression, axes: Axes) -> Expression:
        """A token's value in its full shape."""
        shaped = broadcast_to(x, axes) if x.kind == "heads" else x
        if x.headed and x.timed and set(axes) <= set(x.axes):
            return shaped
        sizes = [self.feeding.size_text(axis, True) for axis in axes]
        shape = ", ".join([*self.lead, "self.heads", *sizes])
        return Expression(
            f"expand_to({shaped.text}, like_parameters(self), {shape})", "heads", axes, True, True
        )

    def part(self, owner: str, what: str, made: str) -> str:
        name = self.feeding.fresh(f"{owner}_{what}")
        self.feeding.parts.append((owner, name, made))
        return name
