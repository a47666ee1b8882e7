"""Digests of every stage of a memory, independent of the names that a user chose.

Names are numbered in order of first use.  So a rule, and the same rule with other names and with every
library word replaced by its formula, have equal digests at every stage: `tests/meaning` checks with them
that no stage depends on a name.  Only words of the language stay: `query`, `key`, `value`, operations,
axes, clauses.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import sympy as sp

from miras_dsl.codegen.plan.kernel_plan import Kernel, KernelPlan, computed, walks
from miras_dsl.ir import ForwardSubstitution, Input, Node, Program, postorder
from miras_dsl.spec import (
    Apply,
    Decay,
    Gate,
    Loss,
    MemorySpec,
    Network,
    Ref,
    State,
    Token,
    Turn,
    Write,
)

from .digest import sha256
from .pipeline import CompiledMemory

STAGES = ("spec", "model", "rule", "chunk", "adjoint", "plan", "text")
OWN = frozenset({"query", "key", "value", "position", "valid", "y", "d_y"})
"""Names that every memory has and no user chooses."""
GENERIC = frozenset({"keep", "weight", "grad", "x", "head", "dual", "position"})
"""Kinds of `Ref` whose name is a word of the language."""


def stage_digests(memory: CompiledMemory) -> dict[str, str]:
    """Stage (one of `STAGES`) -> digest without names; "" for a stage that a rule without a chunk form
    does not have."""
    model, rule, form = memory.model, memory.rule, memory.form
    model_roots = [*(node for _, node in model.gradients), model.answer]
    block_edges = [node for _, node in (*rule.block_start, *rule.block_end)]
    found: dict[str, str] = dict.fromkeys(STAGES, "")
    found["spec"] = sha256(_Anonymous().spec(memory.spec))
    found["model"] = sha256(_Anonymous().nodes(model_roots))
    names = _Anonymous()
    edges = names.nodes(block_edges)
    found["rule"] = sha256(
        f"{names.program(rule.program)}{edges}{rule.block},{rule.steps_per_token}"
    )
    if form is not None and memory.reverse is not None:
        found["chunk"] = sha256(form.family + _Anonymous().program(form.program))
        found["adjoint"] = sha256(_Anonymous().program(memory.reverse))
    plans = [plan for plan in (memory.plan, memory.kernel_plan) if plan is not None]
    kernels = [_kernel(plan, kernel) for plan in plans for kernel in plan.kernels]
    found["plan"] = sha256("|".join(kernels))
    found["text"] = sha256(nameless(memory.text))
    return found


def _kernel(plan: KernelPlan, kernel: Kernel) -> str:
    """A kernel as text without names: its loops, and what it reads, computes and writes."""
    names = _Anonymous()
    loops = [f"{walk.along.value}{walk.step}" for walk in walks(kernel)]
    by_scope: dict[str, list[Node]] = {}
    for id in (*kernel.reads, *computed(kernel.body), *kernel.writes):
        by_scope.setdefault(plan.values[id].scope, []).append(plan.values[id].node)
    texts = [names.nodes(nodes) for nodes in by_scope.values()]
    grid = [getattr(along, "value", along) for along in kernel.grid]
    return f"{kernel.phase.value} {grid} {loops} {texts}"


@dataclass(slots=True)
class _Anonymous:
    """Writes stages as text in which every chosen name is replaced by its kind and a number.

    by_weight  the names of weights that have rules of their own, in which they stand for themselves
    """

    given: dict[tuple[str, str], str] = field(default_factory=dict)
    by_weight: frozenset[str] = frozenset()

    def name(self, kind: str, name: str) -> str:
        """A name's replacement: its kind, and its number among the names of that kind by first use."""
        if name in OWN and kind != "gate":
            return name
        count = sum(known == kind for known, _ in self.given)
        return self.given.setdefault((kind, name), f"{kind}{count + 1}")

    # ------------------------------------------------------------ stage 2

    def spec(self, value: object) -> str:
        """A spec, or a part of one."""
        match value:
            case MemorySpec():
                hidden = {
                    "name": "",
                    "params": [(self.name("size", n), d) for n, d in value.params],
                }
                if value.algorithm.by_weight:
                    self.by_weight = frozenset(state.name for state in value.states)
                return self._fields(value, hidden)
            case Ref(name, "keep" | "grad" | "newest") if name in self.by_weight:
                return self._fields(value, {"name": self.name("state", name)})
            case Ref(name, kind):
                return self._fields(
                    value, {"name": name if kind in GENERIC else self.name(kind, name)}
                )
            case Token() | Gate() | State() | Loss() | Write():
                kind = type(value).__name__.lower()
                return self._fields(value, {"name": self.name(kind, value.name)})
            case Decay(_, weights):
                return self._fields(value, {"weights": [self.name("state", n) for n in weights]})
            case Turn(_, real, imaginary):
                parts = {"real": real, "imaginary": imaginary}
                return self._fields(value, {n: self.name("state", w) for n, w in parts.items()})
            case Apply():
                options = [(n, self._option(n, v)) for n, v in value.options]
                return self._fields(value, {"options": options})
            case Network():
                params = [(self.name("constant", n), axes, at) for n, axes, at in value.params]
                return self._fields(value, {"params": params})
            case sp.Basic():
                sizes = {s: sp.Symbol(self.name("size", str(s))) for s in value.free_symbols}
                return sp.srepr(value.xreplace(sizes))
            case tuple() | list():
                return "[" + ",".join(self.spec(v) for v in value) + "]"
            case _ if is_dataclass(value) and not isinstance(value, type):
                return self._fields(value, {})
            case _:
                return repr(value)

    def _option(self, name: str, value: object) -> object:
        """An option; `index` only tells learned maps apart."""
        return self.name("map", str(value)) if name == "index" else value

    def _fields(self, value: object, instead: dict[str, object]) -> str:
        parts = [type(value).__name__]
        for f in fields(value):  # type: ignore[arg-type]
            if f.name in ("span", "doc"):
                continue
            held: Any = instead.get(f.name, getattr(value, f.name))
            match f.name:
                case "carry":
                    held = [self.name("carry", name) for name in held]
                case "rules":
                    held = [(self._target(t), e) for t, e in held]
            parts.append(self.spec(held))
        return "(" + " ".join(parts) + ")"

    def _target(self, name: str) -> str:
        """What a rule sets: one weight, every weight, or a carried tensor."""
        if name in self.by_weight:
            return self.name("state", name)
        return name if name == "W" else self.name("carry", name)

    # ------------------------------------------------------------ stages 3 to 7

    def nodes(self, roots: Iterable[Node], holes: Sequence[Input] = ()) -> str:
        """Nodes as numbered lines, operands before the nodes that use them."""
        roots = list(roots)
        at: dict[Node, str] = {hole: f"hole{n}" for n, hole in enumerate(holes)}
        lines = []
        for node in postorder(roots):
            if node in at:
                continue
            lines.append(self._input(node) if isinstance(node, Input) else self._node(node, at))
            at[node] = f"%{len(lines)}"
        return ";".join(lines) + "->" + ",".join(at[root] for root in roots)

    def _input(self, x: Input) -> str:
        return f"{self.name(x.role.value, x.name)}{x.shape}"

    def _node(self, node: Node, at: dict[Node, str]) -> str:
        if isinstance(node, ForwardSubstitution):
            holes = [node.r, *(hole for hole, _ in node.rows)]
            body = self.nodes([node.body], holes)
            used = ",".join(at[operand] for operand in node.operands)
            how = f"{node.gates is not None},{node.reverse},{node.row},{node.col}"
            return f"Substitute({used}|{body}|{how})"
        held = [getattr(node, f.name) for f in fields(node)]
        return type(node).__name__ + "(" + ",".join(_value(v, at) for v in held) + ")"

    def program(self, program: Program) -> str:
        """A program: its results in order, which of them are carried, and whether it runs in reverse."""
        names = [name for name, _ in program.results]
        text = self.nodes([node for _, node in program.results])
        carried = [f"{self._input(state)}:{names.index(name)}" for state, name in program.carried]
        return f"{text}|{','.join(carried)}|{program.reverse}"


def _value(value: object, at: dict[Node, str]) -> str:
    match value:
        case _ if isinstance(value, Node):
            return at[value]
        case tuple():
            return "[" + ",".join(_value(v, at) for v in value) + "]"
        case sp.Basic():
            return sp.srepr(value)
        case _:
            return repr(value)


def nameless(text: str) -> str:
    """Generated text as a syntax tree without docstrings, comments and layout, its names numbered.

    Local names of a function are numbered within it.  Attributes (`torch.exp`) and strings with an
    arrow (of einsum) stay; a string of several words is replaced by their number.
    """
    tree = ast.parse(text)
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(body=[ast.Expr(ast.Constant(str())), _, *_]):
                del node.body[0]
    _number_names(tree, {}, set())
    return ast.dump(tree)


def _number_names(tree: ast.AST, given: dict[str, str], own: set[str]) -> None:
    """Number the names below a node: those in ``own`` within the function, others within the module."""
    inside: dict[str, str] = {}

    def number(name: str) -> str:
        table, mark = (inside, "v") if name in own else (given, "n")
        return name if name in OWN else table.setdefault(name, f"{mark}{len(table) + 1}")

    for node in _in_order(tree):
        match node:
            case ast.FunctionDef(name=name) if node is not tree:
                node.name = number(name)
                local = {arg.arg for arg in (*node.args.args, *node.args.kwonlyargs)}
                local |= {
                    n.id
                    for n in ast.walk(node)
                    if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
                }
                _number_names(node, given, local)
            case ast.Name(id=name):
                node.id = number(name)
            case ast.arg(arg=name) | ast.keyword(arg=str(name)):
                node.arg = number(name)
            case ast.Constant(value=str(word)) if "->" not in word:
                words = word.split()
                node.value = number(word) if len(words) == 1 else f"{len(words)} names"


def _in_order(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node of a syntax tree from top to bottom; of a function inside it only the node itself."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.FunctionDef):
            yield child
        else:
            yield from _in_order(child)
