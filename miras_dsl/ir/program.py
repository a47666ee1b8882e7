"""Traversing and rewriting graphs of nodes, and programs made of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import assert_never

from .builders import contract, reduce_sum, rename
from .nodes import (
    AxisSize,
    Broadcast,
    Contract,
    Cumsum,
    Decay,
    ForwardSubstitution,
    GatedApply,
    GatedContract,
    GatedSpan,
    Input,
    Inverse,
    Join,
    Map,
    Mask,
    Node,
    Number,
    PlaceLast,
    Reduce,
    Rename,
    Shift,
    Split,
    TakeLast,
    broadcast,
    elementwise,
)


def postorder(roots: Iterable[Node]) -> list[Node]:
    """Every node that the roots depend on, operands first, each once.

    The ``body`` of a `ForwardSubstitution` is a formula of its own and is not entered.
    """
    seen: set[Node] = set()
    order: list[Node] = []
    stack: list[tuple[Node, bool]] = [(root, False) for root in reversed(list(roots))]
    while stack:
        node, opened = stack.pop()
        if node in seen:
            continue
        if opened:
            seen.add(node)
            order.append(node)
        else:
            stack.append((node, True))
            stack.extend(
                (operand, False) for operand in reversed(node.operands) if operand not in seen
            )
    return order


def with_operands(node: Node, operand: Mapping[Node, Node]) -> Node:
    """``node`` on other operands, in normal form; ``operand`` maps every old operand to the new one."""
    if all(operand[o] is o for o in node.operands):
        return node
    match node:
        case Map(formula, args):
            return elementwise(formula, *(operand[a] for a in args))
        case Contract(left, right, over):
            return contract(operand[left], operand[right], over)
        case Reduce("sum", x, over):
            return reduce_sum(operand[x], over)
        case Reduce(kind, x, over):
            return Reduce(kind, operand[x], over)
        case Broadcast(x, along):
            return broadcast(operand[x], along)
        case Rename(x, names):
            return rename(operand[x], dict(names))
        case Cumsum(x, axis, reverse):
            return Cumsum(operand[x], axis, reverse)
        case Shift(x, axis, by):
            return Shift(operand[x], axis, by)
        case TakeLast(x, axis):
            return TakeLast(operand[x], axis)
        case PlaceLast(x, axis):
            return PlaceLast(operand[x], axis)
        case Split(x, axis, block, row, size):
            return Split(operand[x], axis, block, row, size)
        case Join(x, axis, block, row, size):
            return Join(operand[x], axis, block, row, size)
        case Mask(x, triangle):
            return Mask(operand[x], triangle)
        case Decay(a, b, triangle):
            return Decay(operand[a], operand[b], triangle)
        case GatedContract(x, y, a, b, over, triangle):
            return GatedContract(operand[x], operand[y], operand[a], operand[b], over, triangle)
        case GatedApply(m, y, a, b, channel, triangle, over):
            return GatedApply(
                operand[m], operand[y], operand[a], operand[b], channel, triangle, over
            )
        case GatedSpan(channel=channel, triangle=triangle, inclusive=inclusive):
            moved = (operand[part] for part in node.operands)
            return GatedSpan(*moved, channel, triangle, inclusive)
        case Inverse(x, row, col):
            return Inverse(operand[x], row, col)
        case ForwardSubstitution(a, p, rows=rows, gates=gates):
            new_rows = tuple((hole, operand[row]) for hole, row in rows)
            new_gates = (operand[gates[0]], operand[gates[1]]) if gates else None
            return replace(node, a=operand[a], p=operand[p], rows=new_rows, gates=new_gates)
        case Input() | Number() | AxisSize():
            return node
        case _:
            assert_never(node)


def substitute(roots: Iterable[Node], exchange: Mapping[Node, Node]) -> list[Node]:
    """The roots with every occurrence of a key of ``exchange`` replaced by its value."""
    roots = list(roots)
    made: dict[Node, Node] = {}
    for node in postorder(roots):
        made[node] = (
            exchange[node]
            if node in exchange
            else with_operands(node, made)
            if node.operands
            else node
        )
    return [made[root] for root in roots]


def inputs_of(roots: Iterable[Node]) -> list[Input]:
    """The inputs that the roots read, in order of first use."""
    return [node for node in postorder(roots) if isinstance(node, Input)]


@dataclass(frozen=True, slots=True)
class Label:
    """What the derivation calls a value.

    name    a word or two: `error`, `decay`, `since_start`
    clause  the clause of the memory that it comes from (`bias`, `retention` …); "" if none
    of      for a cotangent, the value whose cotangent it is
    """

    name: str
    clause: str = ""
    of: Node | None = None


@dataclass(frozen=True, slots=True)
class Program:
    """A computation for one chunk, or for one token.

    inputs   tokens and gates, carried states, constants
    results  (name, node) of answers and new states
    carried  (state input, name of the result that is its next value)
    reverse  whether chunks run from the last to the first, as in an adjoint
    labels   what the derivation calls some of the values: for naming and printing only
    """

    inputs: tuple[Input, ...]
    results: tuple[tuple[str, Node], ...]
    carried: tuple[tuple[Input, str], ...]
    reverse: bool = False
    labels: Mapping[Node, Label] = field(default_factory=dict, compare=False, repr=False)

    def result(self, name: str) -> Node:
        """A result by name.  Raises KeyError when there is none of this name."""
        return dict(self.results)[name]

    def parts(self) -> dict[Node, str]:
        """Where each node runs: ``before`` (no carried state in it), ``loop`` (a carried state needs
        it), ``after`` (it needs a carried state, and no carried state needs it)."""
        order = postorder(node for _, node in self.results)
        states = {state for state, _ in self.carried}
        sequential: set[Node] = set()
        for node in order:
            if node in states or any(o in sequential for o in node.operands):
                sequential.add(node)
        next_states = [self.result(name) for _, name in self.carried]
        looped = set(postorder(next_states)) & sequential
        return {
            node: "before" if node not in sequential else "loop" if node in looped else "after"
            for node in order
        }

    def with_results(self, made: Mapping[Node, Node]) -> Program:
        """The program after a rewrite: ``made`` maps old nodes, all results among them, to new ones.
        Labels move to the new nodes."""
        results = tuple((name, made[node]) for name, node in self.results)
        labels = {
            made.get(n, n): replace(label, of=made.get(label.of, label.of) if label.of else None)
            for n, label in self.labels.items()
        }
        return Program(self.inputs, results, self.carried, self.reverse, labels)

    def __iter__(self) -> Iterator[tuple[str, Node]]:
        return iter(self.results)
