"""One token in the words of the spec: what decay, predict, write and read each do, in their order.

Every line is an assignment in the language itself, to be read from the top: `W` on the left is the
weight after the event, on the right before it.  What is carried for a linked weight is its dual.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import assert_never

import sympy as sp

from miras_dsl.codegen.analysis.function_calls import function_calls
from miras_dsl.codegen.inner_step.mirror_map import link_function
from miras_dsl.codegen.model.types import (
    MemoryModel,
    StateKind,
    StateTensor,
    WeightFormulas,
    WeightTurn,
)
from miras_dsl.codegen.plan.line_names import line_namer
from miras_dsl.ir import Input, Label, Node, Program, Role, inputs_of, substitute
from miras_dsl.ir.notation.program_lines import program_lines
from miras_dsl.ir.notation.style import Style
from miras_dsl.ir.notation.writer import Call


@dataclass(frozen=True, slots=True)
class Event:
    """What happens at one event of a token.

    title  the event, and where or how often it happens
    lines  (name, formula) in order
    """

    title: str
    lines: tuple[tuple[str, str], ...]


@dataclass(slots=True)
class TokenEvents:
    """Prints the events of a memory.

    functions  functions met that have a definition of their own, and the names of calls met
    """

    model: MemoryModel
    style: Style
    scalar_functions: set[type[sp.Function]] = field(default_factory=set)
    calls: set[str] = field(default_factory=set)

    def events(self) -> list[Event]:
        """The events of a token, in the order of the spec."""
        makers = {
            "decay": self._decay,
            "predict": self._predict,
            "write": self._write,
            "read": self._read,
        }
        order = list(self.model.order)
        if "predict" not in order:
            # The gradient does not depend on the memory; it is taken where it is used.
            order.insert(order.index("write"), "predict")
        events = [makers[word]() for word in order]
        if self.model.at_chunk:
            lines = self._linked(w.name for w in self.model.weights)
            events.append(Event("at the end of a block", tuple(lines)))
        if self.model.reset:
            events.append(Event(f"after every {self.model.reset} tokens, the memory is empty", ()))
        return events

    # ------------------------------------------------------------ names

    def _each(self, word: str, weight: str) -> str:
        """A word for every weight: with its name where there are several."""
        return f"{word}_{weight}" if len(self.model.weights) > 1 else word

    def _kept(self, weight: str) -> str:
        """What is carried for a weight: its dual, where a link acts at every token."""
        return self._each("dual", weight) if self._linked_at_token() else weight

    def name_of(self, state: StateTensor) -> str | None:
        """What a carried tensor is called in the events; None for those of an earlier sweep."""
        match state.kind:
            case StateKind.WEIGHT:
                return self._kept(state.of)
            case StateKind.DUAL:
                return self._each("dual", state.of)
            case StateKind.ANCHOR:
                return f"start_{state.of}"
            case StateKind.CARRIED if state.name.count(".") == 1:
                return self._each(state.name.partition(".")[0], state.of)
            case StateKind.CARRIED | StateKind.TRAJECTORY:
                return None
            case _:
                assert_never(state.kind)

    def _linked_at_token(self) -> bool:
        return link_function(self.model) is not None and not self.model.at_chunk

    # ------------------------------------------------------------ events

    def _decay(self) -> Event:
        lines: list[tuple[str, str]] = []
        for weight, formulas in self.model.formulas:
            names = [self._kept(weight)]
            if self.model.at_chunk and link_function(self.model) is not None:
                names.append(self._each("dual", weight))
            for name in names:
                # Each factor by itself: it scales along the axis that it has.
                for factor in formulas.decays:
                    lines += self._named(name, factor * self._hole(weight, name))
        for turn in self.model.turns:
            lines += self._turn(turn)
        often = ", once a token" if self.model.steps_per_token > 1 else ""
        return Event(f"decay{often}", tuple(lines))

    def _turn(self, turn: WeightTurn) -> list[tuple[str, str]]:
        """Both parts of a complex weight, of which the second needs what the first one was."""
        real, imaginary = self._kept(turn.real), self._kept(turn.imaginary)
        was = self._hole(turn.real, f"was_{real}")
        both = turn.of(was, self._hole(turn.imaginary, imaginary))
        lines = [(self.style.name(was.name), self.style.name(real))]
        for name, node in zip((real, imaginary), both, strict=True):
            lines += self._named(name, node)
        return lines

    def _predict(self) -> Event:
        grads = tuple((self._grad(w), g) for w, g in self.model.gradients)
        lines = (*self._link_lines(g for _, g in grads), *self._lines(grads))
        return Event(f"predict{self._where()}", lines)

    def _where(self) -> str:
        """At which weights gradients are taken, and how often."""
        anchored, model = self.model.anchored, self.model
        if anchored is not None:
            block = f"at the weights with which the block of {anchored.block} tokens began"
            if anchored.sweeps > 1:
                return (
                    f", {block}; then at those of the sweep before, {anchored.sweeps} sweeps in all"
                )
            return f", {block}"
        if model.implicit:
            return ", at the weights after the write (solved exactly)"
        if model.pairs > 1:
            return f", for each of {model.pairs} pairs, one after the other"
        return f", {model.steps} times" if model.steps > 1 else ""

    def _write(self) -> Event:
        lines: list[tuple[str, str]] = []
        for number, (weight, formulas) in enumerate(self.model.formulas):
            if formulas.penalty is not None:
                lines += self._penalised(weight, formulas)
                continue
            after = [f for _, f in self.model.formulas[number + 1 :] if f.kept != formulas.kept]
            if formulas.kept in inputs_of([rule for f in after for _, rule in f.rules]):
                name = self._kept(weight)
                lines.append((self.style.name(f"keep_{name}"), self.style.name(name)))
            lines += self._assignments(weight, formulas, list(formulas.rules), self._kept(weight))
            if self.model.at_chunk and link_function(self.model) is not None:
                dual = self._each("dual", weight)
                bare = [(t, r) for t, r in formulas.rules if t == "W"]
                lines += self._assignments(weight, formulas, bare, dual)
        title = "write"
        if self.model.pairs > 1 or self.model.steps > 1:
            title += ", after each prediction"
        return Event(title, tuple(lines))

    def _assignments(
        self,
        weight: str,
        formulas: WeightFormulas,
        rules: list[tuple[str, Node]],
        name: str,
    ) -> list[tuple[str, str]]:
        """The rules of an algorithm for one weight, which is called ``name`` here."""
        lines: list[tuple[str, str]] = []
        kept = name
        if self._is_kept_apart(weight, rules):
            kept = f"keep_{name}"
            lines.append((self.style.name(kept), self.style.name(name)))
        holes: dict[Node, str] = {}
        is_set = True  # weights before this one have new values, those after it not yet
        for other, others in self.model.formulas:
            is_set = is_set and other != weight
            now = self._kept(other)
            was = (
                f"keep_{now}" if is_set and self._is_kept_apart(other, list(others.rules)) else now
            )
            holes |= {others.grad: self._grad(other), others.kept: was, others.newest: now}
        holes |= {
            formulas.grad: self._grad(weight),
            formulas.kept: kept,
            formulas.newest: name,
            **{hole: self._each(word, weight) for word, hole in formulas.carried},
        }
        for target, rule in rules:
            written = name if target == "W" else self._each(target, weight)
            lines += self._named(written, rule, holes)
        return lines

    def _is_kept_apart(self, weight: str, rules: list[tuple[str, Node]]) -> bool:
        """Whether a rule reads what a weight was before its own rule has set it."""
        formulas = self.model.formulas_of(weight)
        targets = [target for target, _ in rules]
        later = [rule for _, rule in rules[targets.index("W") + 1 :]] if "W" in targets else []
        places = [w for w, _ in self.model.formulas]
        for _, its in self.model.formulas[places.index(weight) + 1 :]:
            # Holes of rules for every weight are the same for all: such rules read their own weight only.
            if its.kept is not formulas.kept:
                later += [rule for _, rule in its.rules]
        return formulas.kept in inputs_of(later)

    def _penalised(self, weight: str, formulas: WeightFormulas) -> list[tuple[str, str]]:
        penalty = formulas.penalty
        assert penalty is not None
        holes = {penalty.unknown: "w", penalty.before: weight}
        *shared, (_, text) = self._named(weight, penalty.node, holes)
        product = "\\," if self.style.latex else " * "
        grad, w = self.style.name(self._grad(weight)), self.style.name("w")
        inner = f"{grad}{product}{w} + {text}"
        step = self.style.call("argmin", f"{w}: {inner}").text
        return [*shared, (self.style.name(weight), step)]

    def _link_lines(self, readers: Iterable[Node]) -> list[tuple[str, str]]:
        """The weights that formulas read, where a link acts at every token."""
        if not self._linked_at_token():
            return []
        read = {x.name for x in inputs_of(readers) if x.role is Role.WEIGHT}
        return self._linked(read)

    def _linked(self, weights: Iterable[str]) -> list[tuple[str, str]]:
        """Weights as formulas of what is carried for them."""
        link = link_function(self.model)
        assert link is not None
        lines: list[tuple[str, str]] = []
        for weight in sorted(weights):
            dual = self._hole(weight, self._each("dual", weight))
            lines += self._named(weight, link(weight, dual))
        return lines

    def _read(self) -> Event:
        anchored, where = self.model.anchored, ""
        lines: list[tuple[str, str]] = []
        answer = self.model.answer
        if anchored is not None and anchored.reads_start:
            where = ", at the weights with which the block began"
        elif anchored is not None and anchored.scale is not None:
            where = ", at used weights between those of now and those with which the block began"
            used: dict[Node, Node] = {}
            for weight in self.model.weights:
                now, start, name = (
                    self._hole(weight.name, word)
                    for word in (weight.name, f"start_{weight.name}", f"used_{weight.name}")
                )
                lines += self._named(name.name, start + (now - start) * anchored.scale)
                used[now] = name
            (answer,) = substitute([answer], used)
        lines += self._link_lines([answer])
        return Event(f"read{where}", (*lines, *self._lines((("y", answer),))))

    # ------------------------------------------------------------ printing

    def _hole(self, weight: str, name: str) -> Input:
        axes = next(w.axes for w in self.model.weights if w.name == weight)
        return Input(name, axes, Role.WEIGHT)

    def _grad(self, weight: str) -> str:
        """The gradient of the bias for a weight: a name with a space, which no author can write."""
        return f"grad {weight}" if len(self.model.weights) > 1 else "grad"

    def _named(
        self, name: str, node: Node, holes: Mapping[Node, str] | None = None
    ) -> list[tuple[str, str]]:
        """One assignment, after lines for what its formula has more than once."""
        return self._lines(((name, node),), holes)

    def _lines(
        self, results: tuple[tuple[str, Node], ...], holes: Mapping[Node, str] | None = None
    ) -> list[tuple[str, str]]:
        """Several results, after lines for what they share.

        holes  what stands for an operand of a rule is called
        """
        roots = [node for _, node in results]
        calls, labels = function_calls(roots), dict[Node, Label]()
        program = Program(tuple(inputs_of(roots)), results, ())
        namer = line_namer(program.inputs, [n for n, _ in results], labels, calls)
        used: set[type[sp.Function]] = set()
        given = {hole: self.style.name(word) for hole, word in (holes or {}).items()}
        found = program_lines(program, self.style, namer, calls, used, given)
        self._met(used, calls)
        return [(name, text) for _, name, text in found]

    def _met(self, used: set[type[sp.Function]], calls: Mapping[Node, Call]) -> None:
        self.scalar_functions |= used
        self.calls |= {call.function for call in calls.values()}
