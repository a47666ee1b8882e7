"""The functions of one program as torch text, and what passes between them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from miras_dsl.codegen.emit.line_wrap import statement
from miras_dsl.codegen.emit.scalar_printer import print_number
from miras_dsl.codegen.passes.cse import (
    eliminate_common_subexpressions,
    eliminate_in_program,
    is_work,
)
from miras_dsl.codegen.plan.log_precision import log_decay_nodes
from miras_dsl.codegen.plan.partition import Part, Schedule, schedule, stored_as
from miras_dsl.codegen.plan.product_precision import fp64_products
from miras_dsl.ir import (
    AxisSize,
    ForwardSubstitution,
    Input,
    Node,
    Number,
    Program,
    inputs_of,
    postorder,
)

from .naming import NameTable, identifier_of, shape_comment, suggested_name
from .printer import TorchPrinter, body_nodes, inlined


@dataclass(frozen=True, slots=True)
class Function:
    """A generated function: name, arguments, lines, what it returns."""

    name: str
    doc: str
    takes: tuple[str, ...]
    lines: tuple[str, ...]
    gives: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ScanFunctions:
    """A program as functions, and which names pass between them.

    states   (state's name in a dictionary, its argument in the functions, its next value)
    results  (result, name of the value)
    """

    before: Function | None
    loop: Function
    after: Function | None
    states: tuple[tuple[str, str, str], ...]
    results: tuple[tuple[str, str], ...]


class FunctionEmitter:
    """The functions of one program; bodies of substitutions are collected beside them.

    logarithms  names of the inputs that are logarithms of decays
    """

    def __init__(self, prefix: str, bodies: list[Function], logarithms: Collection[str]) -> None:
        self.prefix = prefix
        self.logarithms = logarithms
        self.bodies = bodies
        self.names = NameTable()
        self.body_names: dict[ForwardSubstitution, str] = {}
        self.logs: set[Node] = set()
        self.careful: set[Node] = set()

    def walk(self, program: Program) -> ScanFunctions:
        cut = _shared_cut(program)
        program = cut.program
        order = postorder(node for _, node in program.results)
        self.logs, self.careful = log_decay_nodes(order, self.logarithms), fp64_products(order)
        results = {stored_as(node): name for name, node in program.results}
        nodes: list[Node] = []
        for part in (cut.before, cut.loop, cut.after):
            nodes += part.nodes if part else ()
        for x in (n for n in postorder(n for _, n in program.results) if isinstance(n, Input)):
            self.names.name(x, identifier_of(x.name))
        hidden: set[Node] = set()
        for part in (cut.before, cut.loop, cut.after):
            if part:
                hidden |= inlined(part.nodes, part.gives)
        next_names = {
            stored_as(program.result(name)): f"{identifier_of(s.name)}_next"
            for s, name in program.carried
        }
        for node in nodes:
            if node not in hidden:
                self.names.name(
                    node,
                    next_names.get(node)
                    or self._result_name(results.get(node))
                    or suggested_name(node),
                )
        return ScanFunctions(
            self._part("before", "what needs no state, for all chunks at once", cut.before, hidden),
            self._function("loop", "one chunk after the other", cut.loop, hidden),
            self._part(
                "after",
                "what needs the states of all chunks, and no later state needs",
                cut.after,
                hidden,
            ),
            tuple(
                (s.name, identifier_of(s.name), self.value(program.result(name)))
                for s, name in program.carried
            ),
            tuple((name, self.value(node)) for name, node in program.results),
        )

    @staticmethod
    def _result_name(name: str | None) -> str | None:
        return identifier_of(name) if name else None

    def value(self, node: Node) -> str:
        here = stored_as(node)
        if isinstance(here, Number):
            return "zero" if here.value == 0 else "one"
        return self.names.given[here]

    def _part(self, name: str, doc: str, part: Part | None, hidden: set[Node]) -> Function | None:
        return self._function(name, doc, part, hidden) if part else None

    def _function(self, name: str, doc: str, part: Part, hidden: set[Node]) -> Function:
        return Function(
            f"{self.prefix}_{name}",
            doc,
            tuple(self.names.given[n] for n in part.takes if not isinstance(n, Number | AxisSize)),
            self.lines(part.nodes, hidden),
            tuple(self.names.given[n] for n in part.gives),
        )

    def lines(self, nodes: Iterable[Node], hidden: set[Node]) -> tuple[str, ...]:
        """One statement per node that has a name."""
        made = []
        for node in nodes:
            if node in hidden or isinstance(node, AxisSize):
                continue
            if isinstance(node, ForwardSubstitution):
                self.body_names[node] = self._body(node)
            printer = TorchPrinter(
                self.names.given, hidden, self.body_names, self.logs, self.careful
            )
            name, shape = self.names.given[node], shape_comment(node.axes)
            made += statement(name, printer.expression(node), shape)
        return tuple(made)

    def _body(self, node: ForwardSubstitution) -> str:
        # No name of a user begins with `_`, so no argument can hide a body.
        name = f"_{self.prefix.removeprefix('_')}_row{len(self.bodies) + 1}"
        section = FunctionEmitter(name, self.bodies, self.logarithms)
        holes = [node.r, *(hole for hole, _ in node.rows)]
        for hole in holes:
            section.names.name(hole, identifier_of(hole.name))
        (body,) = eliminate_common_subexpressions([node.body], is_work)
        root = stored_as(body)
        nodes = body_nodes(root)
        hidden = inlined(nodes, [root])
        for inner in nodes:
            if inner not in hidden:
                section.names.name(inner, "g" if inner is root else suggested_name(inner))
        lines = section.lines(nodes, hidden)
        value = (
            section.value(root)
            if not isinstance(root, Number)
            else f"ops.full({print_number(root.value)}, r.shape, size)"
        )
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


def _shared_cut(program: Program) -> Schedule:
    """A program cut into parts, each of which computes a term once.

    A term that needs no state leaves the loop when it becomes a node, and may meet its like before it.
    """
    cut = schedule(program)
    for _ in range(3):
        parts = [part.nodes for part in (cut.before, cut.loop, cut.after) if part]
        program = eliminate_in_program(cut.program, is_work, parts)
        if program.results == cut.program.results:
            break
        cut = schedule(program)
    return cut


def emit_function(
    name: str,
    doc: str,
    results: Sequence[tuple[str, Node]],
    bodies: list[Function],
    logarithms: Collection[str],
) -> Function:
    """Some results as one function of their inputs; ``logarithms`` names those that are such."""
    section = FunctionEmitter(name, bodies, logarithms)
    roots = [
        stored_as(node)
        for node in eliminate_common_subexpressions([node for _, node in results], is_work)
    ]
    section.logs = log_decay_nodes(postorder(roots), logarithms)
    for x in inputs_of(roots):
        section.names.name(x, identifier_of(x.name))
    nodes = [
        n
        for n in postorder(roots)
        if not isinstance(n, Input | Number | AxisSize) and stored_as(n) is n
    ]
    hidden = inlined(nodes, roots)
    wished = {root: identifier_of(result) for root, (result, _) in zip(roots, results, strict=True)}
    for node in nodes:
        if node not in hidden:
            word = wished.get(node, suggested_name(node))
            section.names.name(
                node, f"{word}_next" if word in section.names.taken and node in wished else word
            )
    made = section.lines(nodes, hidden)
    takes = tuple(section.names.given[x] for x in inputs_of(roots))
    literal = {"zero": "0.0", "one": "1.0"}
    gives = (section.value(root) for root in roots)
    return Function(name, doc, takes, made, tuple(literal.get(word, word) for word in gives))
