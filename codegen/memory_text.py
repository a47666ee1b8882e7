"""A memory's computation as torch text: the chunk form, its reverse mode, and one token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from miras_dsl.ir import (
    Extent,
    Input,
    Map,
    Node,
    Number,
    Program,
    Substitute,
    inputs_of,
    postorder,
    spread,
)
from miras_dsl.model import Feed
from miras_dsl.show import lines

from .chunk import UNTRAINED, VALID, ChunkForm
from .differentiate import adjoint, pull_back
from .logs import logarithms
from .model import tails_of
from .names import cite, snake
from .render import render
from .schedule import Part, schedule, source
from .spans import factored, logarithms_of, spans
from .torch_code import Names, TorchText, body_nodes, inlined, plain, shape_comment, wish
from .update import UpdateRule
from .wrap import names as wrapped_names
from .wrap import prose, statement

TILE = 64
"""Tokens of a chunk where the meaning of the rule does not fix it."""


@dataclass(frozen=True, slots=True)
class Function:
    """A generated function: name, arguments, lines, what it returns."""

    name: str
    doc: str
    takes: tuple[str, ...]
    lines: tuple[str, ...]
    gives: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Walk:
    """A program as functions, and which names pass between them.

    states   (state's name in a dictionary, its argument in the functions, its next value)
    results  (result, name of the value)
    """

    before: Function | None
    loop: Function
    after: Function | None
    states: tuple[tuple[str, str, str], ...]
    results: tuple[tuple[str, str], ...]


class _Section:
    """The functions of one program; bodies of substitutions are collected beside them."""

    def __init__(self, prefix: str, bodies: list[Function]) -> None:
        self.prefix = prefix
        self.bodies = bodies
        self.names = Names()
        self.body_names: dict[Substitute, str] = {}
        self.logs: set[Node] = set()

    def walk(self, program: Program) -> Walk:
        cut = schedule(program)
        self.logs = logarithms(postorder(node for _, node in program.results), ())
        results = {source(node): name for name, node in program.results}
        nodes: list[Node] = []
        for part in (cut.before, cut.loop, cut.after):
            nodes += part.nodes if part else ()
        for x in (n for n in postorder(n for _, n in program.results) if isinstance(n, Input)):
            self.names.name(x, plain(x.name))
        hidden: set[Node] = set()
        for part in (cut.before, cut.loop, cut.after):
            if part:
                hidden |= inlined(part.nodes, part.gives)
        next_names = {source(program.result(name)): f"{plain(s.name)}_next" for s, name in program.carried}
        for node in nodes:
            if node not in hidden:
                self.names.name(node, next_names.get(node) or self._result_name(results.get(node)) or wish(node))
        return Walk(
            self._part("before", "what needs no state, for all chunks at once", cut.before, hidden),
            self._function("loop", "one chunk after the other", cut.loop, hidden),
            self._part("after", "what needs the states of all chunks, and no later state needs", cut.after, hidden),
            tuple((s.name, plain(s.name), self._value(program.result(name))) for s, name in program.carried),
            tuple((name, self._value(node)) for name, node in program.results),
        )

    @staticmethod
    def _result_name(name: str | None) -> str | None:
        return plain(name) if name else None

    def _value(self, node: Node) -> str:
        here = source(node)
        if isinstance(here, Number):
            return "zero" if here.value == 0 else "one"
        return self.names.given[here]

    def _part(self, name: str, doc: str, part: Part | None, hidden: set[Node]) -> Function | None:
        return self._function(name, doc, part, hidden) if part else None

    def _function(self, name: str, doc: str, part: Part, hidden: set[Node]) -> Function:
        return Function(
            f"{self.prefix}_{name}",
            doc,
            tuple(self.names.given[n] for n in part.takes if not isinstance(n, Number | Extent)),
            self.lines(part.nodes, hidden),
            tuple(self.names.given[n] for n in part.gives),
        )

    def lines(self, nodes: Iterable[Node], hidden: set[Node]) -> tuple[str, ...]:
        """One statement per node that has a name."""
        made = []
        for node in nodes:
            if node in hidden or isinstance(node, Extent):
                continue
            if isinstance(node, Substitute):
                self.body_names[node] = self._body(node)
            printer = TorchText(self.names.given, hidden, self.body_names, self.logs)
            name, shape = self.names.given[node], shape_comment(node.axes)
            if isinstance(node, Map):
                shared, expression = printer.steps(node, name)
                for part, value in shared:
                    made += statement(part, value, shape)
            else:
                expression = printer.expression(node)
            made += statement(name, expression, shape)
        return tuple(made)

    def _body(self, node: Substitute) -> str:
        section = _Section(f"{self.prefix}_row{len(self.bodies) + 1}", self.bodies)
        holes = [node.r, *(hole for hole, _ in node.rows)]
        for hole in holes:
            section.names.name(hole, plain(hole.name))
        nodes = body_nodes(node)
        root = source(node.body)
        hidden = inlined(nodes, [root])
        for inner in nodes:
            if inner not in hidden:
                section.names.name(inner, "g" if inner is root else wish(inner))
        lines = section.lines(nodes, hidden)
        value = section._value(root) if not isinstance(root, Number) else f"tiles.spread({root.value}, r.shape)"
        self.bodies.append(
            Function(
                section.prefix,
                "a row of the write, given what the memory answers",
                tuple(section.names.given[hole] for hole in holes),
                lines,
                (value,),
            )
        )
        return section.prefix


def straight(name: str, doc: str, results: Sequence[tuple[str, Node]], bodies: list[Function]) -> Function:
    """Some results as one function of their inputs."""
    section = _Section(name, bodies)
    roots = [source(node) for _, node in results]
    section.logs = logarithms(postorder(roots), ())
    for x in inputs_of(roots):
        section.names.name(x, plain(x.name))
    nodes = [
        n for n in postorder(roots) if not isinstance(n, Input | Number | Extent) and source(n) is n
    ]
    hidden = inlined(nodes, roots)
    wished = {source(node): plain(result) for result, node in results}
    for node in nodes:
        if node not in hidden:
            word = wished.get(node, wish(node))
            section.names.name(node, f"{word}_next" if word in section.names.taken and node in wished else word)
    made = section.lines(nodes, hidden)
    takes = tuple(section.names.given[x] for x in inputs_of(roots))
    literal = {"zero": "0.0", "one": "1.0"}
    gives = (section._value(root) for root in roots)
    return Function(name, doc, takes, made, tuple(literal.get(word, word) for word in gives))


def memory_text(rule: UpdateRule, form: ChunkForm | None) -> str:
    """The functions `m_memory` and `m_step` of a memory, and all that they call."""
    name = snake(rule.name)
    bodies: list[Function] = []
    forward = backward = None
    evidence = (rule.obstacle,)
    if form is not None:
        spec, chunk = rule.model.spec, rule.block or TILE
        known = logarithms_of(spec, rule.feeds)
        reverse = adjoint(form.program, UNTRAINED)
        forward = _Section(name, bodies).walk(factored(form.program, known, chunk))
        backward = _Section(f"{name}_back", bodies).walk(factored(reverse, known, chunk))
        evidence = (*form.evidence, *map(str, spans(form.program, spec, rule.feeds, chunk)))
    step = straight(f"{name}_token", "one token", rule.program.results, bodies)
    turns = [
        _turn(f"{name}_refresh", "what a new block starts from", rule, rule.refresh, bodies),
        _turn(f"{name}_close", "what a block ends with", rule, rule.close, bodies),
    ]
    feeds = rule.feeds
    states = [(s.name, plain(s.name), tuple(s.axes)) for s in rule.states]
    return render(
        "torch/memory.py.j2",
        {
            "name": name,
            "title": rule.name,
            "place": cite(rule.model.spec.span),
            "law": law_of(rule),
            "wrap": wrapped_names,
            "constant": f"_{name}",
            "family": form.family if form else "token by token",
            "evidence": evidence,
            "bodies": bodies,
            "forward": forward,
            "backward": backward,
            "step": step,
            "turns": turns,
            "feeds": [(f.name, f.kind, tuple(f.axes), f.log) for f in feeds],
            "arguments": _arguments(feeds),
            "states": states,
            "chunk": rule.block or TILE,
            "block": rule.block,
            "micro": rule.micro,
            "once": _once(rule),
            "decay_at": _step_of(rule, "decay"),
            "read_at": _step_of(rule, "read"),
            "valid": VALID.name,
            "window": rule.model.algorithm.window[0] if rule.model.algorithm.window else 0,
            "tails": tails_of(rule.model.spec),
            "answer": rule.program.result("y").axes,
        },
    )


def law_of(rule: UpdateRule) -> list[str]:
    """The rule for one token, line by line."""
    found = [f"{name} = {text}" for _, name, text in lines(rule.program) if f"{name}" != f"{text}'"]
    return [piece for line in found for piece in prose(line)]


def _arguments(feeds: Sequence[Feed]) -> list[str]:
    return [f.name for f in feeds]


def _step_of(rule: UpdateRule, event: str) -> int:
    """Of a token's several steps, the one with an event that happens once: before a write, the first."""
    order = rule.model.order
    early = event in order and order.index(event) < order.index("write")
    return 0 if early else rule.micro - 1


def _once(rule: UpdateRule) -> tuple[str, ...]:
    """Feeds of the decay, which acts on the first of a token's steps only."""
    decay = rule.model.spec.retention.decay
    if rule.micro == 1 or decay is None or not hasattr(decay, "name"):
        return ()
    return tuple(f.name for f in rule.feeds if f.of == decay.name and f.log)


@dataclass(frozen=True, slots=True)
class Turn:
    """A change of states at the edge of a block, and its adjoint."""

    forward: Function
    backward: Function
    gives: tuple[str, ...]
    takes_back: tuple[str, ...]


def _turn(
    name: str, doc: str, rule: UpdateRule, changes: Sequence[tuple[str, Node]], bodies: list[Function]
) -> Turn | None:
    if not changes:
        return None
    forward = straight(name, doc, changes, bodies)
    results = _turn_adjoint(rule, changes)
    backward = straight(f"{name}_back", f"cotangents of {doc}", results, bodies)
    return Turn(forward, backward, tuple(state for state, _ in changes), tuple(r for r, _ in results))


def _turn_adjoint(rule: UpdateRule, changes: Sequence[tuple[str, Node]]) -> list[tuple[str, Node]]:
    """Cotangents of the states (and gates) before a change of states, given those after it."""
    changed = {name for name, _ in changes}
    axes = {state.name: state.axes for state in rule.states}
    cotangents: dict[Node, Node] = {}
    for name, node in changes:
        given = Input(f"d_{name}", axes[name], "cotangent")
        cotangents[node] = cotangents[node] + given if node in cotangents else given
    gates = [x for x in inputs_of(node for _, node in changes) if x.kind == "token" and x.name not in UNTRAINED]
    found = pull_back(cotangents, [*rule.states, *gates])
    results = []
    for state in rule.states:
        share = found[state]
        if state.name not in changed:
            share = share + Input(f"d_{state.name}", state.axes, "cotangent")
        results.append((f"d_{state.name}", spread(share, state.axes)))
    return results + [(f"d_{gate.name}", spread(found[gate], gate.axes)) for gate in gates]
