"""Values, names and row functions of a plan while it is being made."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from miras_dsl.codegen.analysis.log_precision import log_decay_nodes
from miras_dsl.codegen.analysis.product_precision import fp64_products
from miras_dsl.codegen.passes.cse import eliminate_common_subexpressions, is_work
from miras_dsl.codegen.passes.fuse_maps import fuse, fusible
from miras_dsl.ir import ForwardSubstitution, Input, Label, Node, Number, postorder

from .joint import users_of
from .kernel_plan import RowFunction, Value
from .naming import NameTable, identifier_of
from .partition import is_statement, stored_as


@dataclass(slots=True)
class Scope:
    """The values of one program of a plan."""

    name: str
    names: NameTable
    logs: set[Node] = field(default_factory=set)
    careful: set[Node] = field(default_factory=set)
    ids: dict[Node, int] = field(default_factory=dict)


@dataclass(slots=True)
class PlanBuilder:
    """Hands out ids and names; values of one scope that are the same node are one value.

    citations  the line of each clause of the memory: `bias` -> `robust.mem:4 (bias)`
    logarithms names of the inputs that are logarithms of decays
    """

    prefix: str
    citations: Mapping[str, str]
    logarithms: Collection[str]
    values: list[Value] = field(default_factory=list)
    rows: dict[tuple[Node, tuple[Input, ...]], RowFunction] = field(default_factory=dict)

    def scope(self, name: str, roots: Iterable[Node], labels: Mapping[Node, Label]) -> Scope:
        """A scope for the values that ``roots`` need."""
        order = postorder(roots)
        logs = log_decay_nodes(order, self.logarithms)
        made = Scope(name, NameTable(labels), logs, fp64_products(order))
        for x in order:
            if isinstance(x, Input):
                made.names.name(x, identifier_of(x.name))
        return made

    def id(self, scope: Scope, node: Node, wish: str = "") -> int:
        """The id of a value; a new one gets a name."""
        if node not in scope.ids:
            label = scope.names.labels.get(node)
            name = _literal(node) or scope.names.name(node, wish)
            cited = self.citations.get(label.clause, "") if label else ""
            dtype = "float64" if node in scope.logs else "float32"
            accumulate = "float64" if node in scope.careful else "float32"
            scope.ids[node] = len(self.values)
            made = Value(len(self.values), node, scope.name, name, dtype, accumulate, cited)
            self.values.append(made)
            if isinstance(node, ForwardSubstitution):
                self._row_function(node)
        return scope.ids[node]

    def _row_function(self, node: ForwardSubstitution) -> None:
        holes = (node.r, *(hole for hole, _ in node.rows))
        if (node.body, holes) in self.rows:
            return
        # No name of a user begins with `_`, so no argument can hide a row function.
        name = f"_{self.prefix}_row{len(self.rows) + 1}"
        self.rows[node.body, holes] = RowFunction(name, node.body, holes, (), node.body)
        (body,) = fused_roots([node.body])
        scope = self.scope(name, [body, *holes], {})
        result = stored_as(body)
        order = [n for n in postorder([result]) if is_statement(n)]
        for hole in holes:
            self.id(scope, hole)
        ids = [self.id(scope, n, "g" if n is result else "") for n in order]
        made = tuple(self.values[id] for id in ids)
        self.rows[node.body, holes] = RowFunction(name, node.body, holes, made, result)


def _literal(node: Node) -> str:
    """Results that are the number 0 or 1 have it for a name."""
    if isinstance(node, Number):
        return "zero" if node.value == 0 else "one"
    return ""


def fused_roots(roots: Iterable[Node]) -> list[Node]:
    """Some nodes, with repeated terms computed once and formulas written into their only reader."""
    shared = [stored_as(n) for n in eliminate_common_subexpressions(list(roots), is_work)]
    order = [n for n in postorder(shared) if is_statement(n)]
    made = fuse(postorder(shared), fusible(order, shared, users_of(order)))
    return [made[root] for root in shared]
