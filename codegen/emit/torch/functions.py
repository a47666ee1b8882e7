"""The functions of a plan as torch text."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from miras_dsl.codegen.emit.scalar_printer import print_number
from miras_dsl.codegen.plan.kernel_plan import (
    AtBlock,
    Compute,
    Edge,
    Exchange,
    Kernel,
    Phase,
    RowFunction,
    Statement,
    Value,
    Walk,
    statements,
    walks,
)
from miras_dsl.codegen.plan.partition import stored_as
from miras_dsl.ir import AxisSize, Input, Node, Number, inputs_of

from .printer import TorchPrinter
from .shared_parts import Assignment, Body, share_parts
from .statements import Statements, measure

DOCS = {
    "before": "what needs no carried state, for all chunks at once",
    "before_forward": "more of that, which the backward pass does not need",
    "loop": "what reads the states at the start of a chunk, and later states need",
    "next_state": "the states after a chunk",
    "after": "what reads the states at a chunk's start, and no later state needs",
    "answer": "what leaves the memory",
    "back_before": "gradients: what needs no carried cotangent, for all chunks at once",
    "back_loop": "gradients: one chunk after the other, from the last",
    "back_after": "gradients: what reads the cotangents of all chunks",
    "token": "one token",
}
EDGE_NAMES = {Edge.START: "block_start", Edge.END: "block_end"}
EDGE_DOCS = {Edge.START: "what a new block starts from", Edge.END: "what a block ends with"}


@dataclass(frozen=True, slots=True)
class Function:
    """A generated function: name, parameters, statements, what it returns."""

    name: str
    doc: str
    params: tuple[str, ...]
    statements: tuple[Assignment, ...]
    returns: tuple[str, ...]

    @property
    def lines(self) -> list[str]:
        """Its statements as text."""
        return [line for made in self.statements for line in made.lines()]


@dataclass(frozen=True, slots=True)
class EdgeFunction:
    """The function for the edge of a block, and the results that its values are."""

    function: Function
    results: tuple[str, ...]


class FunctionEmitter:
    """Prints the kernels of a plan, given its values; those of one scope share their names."""

    def __init__(self, values: Sequence[Value], rows: Iterable[RowFunction], prefix: str) -> None:
        self.values, self.prefix = values, prefix
        self.rows = {(row.body, row.holes): row.name for row in rows}
        scopes: dict[str, list[Value]] = {}
        for value in values:
            scopes.setdefault(value.scope, []).append(value)
        self.ids = {scope: {v.node: v.id for v in found} for scope, found in scopes.items()}
        self.printers = {scope: TorchPrinter(found, self.rows) for scope, found in scopes.items()}
        self.measures = {scope: measure(found, self.rows) for scope, found in scopes.items()}

    def functions(self, kernels: Sequence[Kernel], results: Iterable[int]) -> list[list[Function]]:
        """The functions of each kernel, one for each run of statements in it; the same statements in
        two kernels are one function."""
        runs = [_runs(kernel.body) for kernel in kernels]
        wanted = {id for kernel in runs for run in kernel for id in self._reads(run)} | set(results)
        wanted |= {c.next for kernel in kernels for walk in walks(kernel) for c in walk.carry}
        known: dict[tuple[int, ...], Function] = {}
        found = []
        for kernel, each in zip(kernels, runs, strict=True):
            for at, run in enumerate(each):
                if run.values not in known:
                    title = "next_state" if at else kernel.name
                    known[run.values] = self._function(title, run, wanted)
            found.append([known[run.values] for run in each])
        return found

    def _function(self, title: str, run: Compute, wanted: set[int]) -> Function:
        return Function(
            f"{self.prefix}_{title}",
            DOCS[title],
            tuple(self._value(id).name for id in self._reads(run)),
            self._statements(map(self._value, run.values), wanted),
            tuple(self._value(id).name for id in run.values if id in wanted),
        )

    def _reads(self, run: Compute) -> list[int]:
        """What a run of statements reads, in order of first use."""
        if not run.values:
            return []
        ids = self.ids[self._value(run.values[0]).scope]
        here = set(run.values)
        operands = (stored_as(o) for id in run.values for o in self._value(id).node.operands)
        read = (ids[o] for o in operands if not isinstance(o, Number | AxisSize))
        return [id for id in dict.fromkeys(read) if id not in here]

    def token(self, kernel: Kernel) -> Function:
        """The function of one token: it returns all results, numbers among them."""
        (run,) = _runs(kernel.body) or [Compute(())]
        return Function(
            f"{self.prefix}_{kernel.name}",
            DOCS[kernel.name],
            tuple(self._value(id).name for id in kernel.reads),
            self._statements(map(self._value, run.values), kernel.writes),
            tuple(
                _number_text(self._value(id).node) or self._value(id).name for id in kernel.writes
            ),
        )

    def edges(self, kernels: Iterable[Kernel]) -> dict[Edge, EdgeFunction]:
        """The functions of some kernels for the edges of blocks."""
        found: dict[Edge, EdgeFunction] = {}
        for kernel in kernels:
            for each in statements(kernel.body):
                if isinstance(each, AtBlock):
                    found[each.when] = self._edge(each, kernel.phase)
        return found

    def _edge(self, edge: AtBlock, phase: Phase) -> EdgeFunction:
        back = phase is Phase.BACKWARD
        results = [self._value(c.next) for c in edge.carry]
        results += [self._value(id) for id in edge.results]
        states = [self._value(c.state).node for c in edge.carry]
        named = [node.name for node in states if isinstance(node, Input)]
        named += [self._value(id).name for id in edge.results]
        ids = [id for s in edge.body if isinstance(s, Compute) for id in s.values]
        inputs = inputs_of(value.node for value in results)
        names = self.printers[results[0].scope].names
        function = Function(
            f"{self.prefix}_{EDGE_NAMES[edge.when]}{'_back' if back else ''}",
            f"{'gradients of ' if back else ''}{EDGE_DOCS[edge.when]}",
            tuple(names[x] for x in inputs),
            self._statements(map(self._value, ids), {value.id for value in results}),
            tuple(_number_text(value.node) or value.name for value in results),
        )
        return EdgeFunction(function, tuple(named))

    def row_function(self, row: RowFunction) -> Function:
        """The body of a substitution."""
        printer = self.printers[row.name]
        holes = set(row.holes)
        ends = {value.id for value in row.values if value.node is row.result}
        made = self._statements((v for v in row.values if v.node not in holes), ends)
        if isinstance(row.result, Number):
            returned = f"ops.full({print_number(row.result.value)}, r.shape, size)"
        else:
            returned = printer.names[row.result]
        doc = "a row of the write, given what the memory answers"
        return Function(
            row.name, doc, tuple(printer.names[h] for h in row.holes), made, (returned,)
        )

    def _value(self, id: int) -> Value:
        return self.values[id]

    def _statements(self, values: Iterable[Value], kept: Collection[int]) -> tuple[Assignment, ...]:
        """Statements that compute some values of one scope; ``kept`` are those that need a name."""
        values = list(values)
        if not values:
            return ()
        scope = values[0].scope
        return tuple(
            Statements(self.printers[scope], self.measures[scope], values, kept).assignments()
        )


def with_shared_parts(
    functions: Sequence[Function], prefix: str
) -> tuple[list[Function], list[Function]]:
    """Functions that call what they have in common, and the functions of that."""
    bodies = [Body(f.params, f.statements, f.returns) for f in functions]
    bodies, parts = share_parts(bodies, prefix)
    made = [replace(f, statements=b.statements) for f, b in zip(functions, bodies, strict=True)]
    shared = [
        Function(
            part.name,
            f"`{part.body.returns[-1]}` and what else is needed of it, the same in {part.places} places",
            part.body.params,
            part.body.statements,
            part.body.returns,
        )
        for part in parts
    ]
    return made, shared


def _number_text(node: Node) -> str:
    return print_number(node.value) if isinstance(node, Number) else ""


def _runs(body: Iterable[Statement]) -> list[Compute]:
    """The runs of statements of a body and of its loops; what happens at the edges of blocks aside."""
    found: list[Compute] = []
    for each in body:
        match each:
            case Compute():
                found.append(each)
            case Walk(_, _, _, inner):
                found += _runs(inner)
            case AtBlock() | Exchange():
                pass
    return found
