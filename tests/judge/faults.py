"""Planted faults: the memories they are planted in, and how one is planted.

A fault changes one thing in the compiler or in the runtime under it, by a patch that ends with its
test.  The oracle and the judge are never touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import pytest

from miras_dsl.check import read
from miras_dsl.codegen import differentiate, pipeline
from miras_dsl.codegen.chunk import ChunkForm
from miras_dsl.codegen.update import UpdateRule
from miras_dsl.ir import Node, Program, postorder
from miras_dsl.ir import replace as exchange_nodes
from miras_dsl.runtime.cases import Case
from miras_dsl.source import Source
from miras_dsl.spec import MemorySpec

N = TypeVar("N", bound=Node)
Patch = pytest.MonkeyPatch
Shares = list[tuple[Node, Node]]

MATRIX = """
memory {name}(dk, dv) {{
  architecture W: matrix[value, key]
  bias         {bias}
  retention    l2(alpha)
  algorithm    {algorithm}
  order        {order}
  gates        {{ alpha = 0.5 + 0.5 * sigmoid(linear(x))   {gates} }}
}}
"""
NETWORK = """
memory {name}(d) {{
  architecture mlp(hidden = 3, activation = gelu, residual{flags})
  bias         logcosh
  retention    {retention}
  algorithm    {algorithm}
  order        predict, {decay}write, read
  gates        {{ {gates}   eta = sigmoid(linear(x)) / 4 }}
}}
"""
ETA = "eta = sigmoid(linear(x))"
DECAY = "alpha = 0.5 + 0.5 * sigmoid(linear(x))"


def _matrix(name: str, **given: str) -> str:
    usual = {
        "bias": "l2",
        "algorithm": "gd(eta), exact",
        "order": "decay, predict, write, read",
        "gates": ETA,
    }
    return MATRIX.format(name=name, **(usual | given))


def _network(name: str, **given: str) -> str:
    usual = {"flags": "", "retention": "l2(alpha)", "decay": "decay, ", "gates": DECAY}
    return NETWORK.format(name=name, **(usual | given))


TEXTS = {
    "sum": _matrix(
        "Sum", bias="dot", algorithm="gd(1), exact", order="decay, write, read", gates=""
    ),
    "plain sum": """
memory PlainSum(dk, dv) {
  architecture W: matrix[value, key]
  bias         dot
  retention    none
  algorithm    gd(1), exact
  order        write, read
}
""",
    "channels": """
memory Channels(dk, dv) {
  architecture W: matrix[value, key]
  bias         dot
  retention    l2(alpha)
  algorithm    gd(1), exact
  order        decay, write, read
  gates        { alpha[key] = 0.01 + 0.99 * sigmoid(linear(x)) }
}
""",
    "delta": _matrix("Delta"),
    "late decay": _matrix("LateDecay", order="predict, decay, write, read"),
    "pairs": """
memory Pairs(dk, dv, n = 2) {
  tokens       { query[dk]  key[n, dk]  value[n, dv] }
  architecture W: matrix[value, key]
  bias         l2
  retention    l2(alpha)
  algorithm    gd(eta), pairs(n), exact
  order        decay, predict, write, read
  gates        { alpha = 0.5 + 0.5 * sigmoid(linear(x))   eta[n] = sigmoid(linear(x)) }
}
""",
    "pairs, reset": """
memory PairsReset(dk, dv, n = 2) {
  tokens       { query[dk]  key[n, dk]  value[n, dv] }
  architecture W: matrix[value, key]
  bias         l2
  retention    l2(alpha)
  algorithm    gd(eta), pairs(n), exact, reset(5)
  order        decay, predict, write, read
  gates        { alpha = 0.5 + 0.5 * sigmoid(linear(x))   eta[n] = sigmoid(linear(x)) }
}
""",
    "rows": """
memory Rows(dk, dv) {
  architecture W: matrix[value, key]
  bias         logcosh
  retention    l2(alpha)
  algorithm    gd(eta), exact
  order        predict, decay, write, read
  gates        { alpha[value] = 0.01 + 0.99 * sigmoid(linear(x))   eta[value] = sigmoid(linear(x)) }
}
""",
    "momentum": _matrix(
        "Momentum",
        bias="logcosh",
        algorithm="momentum(eta, mu), exact",
        gates=f"{ETA}   mu = sigmoid(linear(x)) / 2",
    ),
    "by token": _matrix("ByToken").replace("l2(alpha)", "soft(alpha, 0.1) at token"),
    "by token, anchored": _matrix(
        "ByTokenAnchored",
        algorithm="{ W = keep(W) - eta * tanh(grad) }, anchored(4)",
        order="predict, decay, write, read",
    ),
    "network": _network("Network", algorithm="gd(eta), anchored(4)", flags=", layernorm"),
    "sweeps": _network("Sweeps", algorithm="gd(eta), anchored(4, sweeps = 2)"),
    "link": _network(
        "Link", retention="soft(alpha, 0.1) at chunk", algorithm="gd(eta), anchored(4)"
    ),
    "scaled": _network(
        "Scaled",
        retention="none",
        decay="",
        gates="",
        algorithm="gd(eta), anchored(4, scale = 1 / position + param[position])",
    ),
}
"""Small memories, one for each mechanism that can go wrong."""


def spec_of(name: str) -> MemorySpec:
    """A memory of `TEXTS`."""
    (spec,) = read(Source(f"{name}.mem", TEXTS[name])).memories.values()
    return spec


def cases(spec: MemorySpec) -> tuple[Case, ...]:
    """More than a chunk, from a state in the middle of a block; and packed sequences."""
    if spec.algorithm.anchored is not None:
        lengths, packed = (11,), (0, 1, 6, 5)
    else:
        lengths, packed = (67,), (0, 1, 5, 3)
    return (
        Case("long", lengths, (4, 3), warm=True, keys=0.5),
        Case("packed", packed, (3, 3), packed=True, warm=True, keys=0.5),
    )


@dataclass(frozen=True)
class Fault:
    """One planted fault: what is wrong, in which memory, and the patch that plants it."""

    name: str
    memory: str
    plant: Callable[[Patch], None]


FAULTS: list[Fault] = []


def fault(memory: str, name: str) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    """Register a function that plants a fault."""

    def register(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
        FAULTS.append(Fault(name, memory, plant))
        return plant

    return register


# ------------------------------------------------------------ planting


def in_program(patch: Patch, change: Callable[[Program], Program]) -> None:
    """Change the derived chunk program, from which the reverse mode is then derived."""
    made = pipeline.chunk_of

    def changed(rule: UpdateRule) -> ChunkForm:
        form = made(rule)
        return replace(form, program=change(form.program))

    patch.setattr(pipeline, "chunk_of", changed)


def in_reverse(patch: Patch, change: Callable[[Program], Program]) -> None:
    """Change the derived reverse mode."""
    made = pipeline.adjoint

    def changed(program: Program, constant: frozenset[str]) -> Program:
        return change(made(program, constant))

    patch.setattr(pipeline, "adjoint", changed)


def nodes(kind: type[N], change: Callable[[N], Node]) -> Callable[[Program], Program]:
    """A program with every operation of a kind changed; it must have one that changes."""

    def rewrite(program: Program) -> Program:
        found = [n for n in postorder(n for _, n in program.results) if isinstance(n, kind)]
        exchange: dict[Node, Node] = {n: m for n in found if (m := change(n)) is not n}
        assert exchange, f"no {kind.__name__} to change"
        names = [name for name, _ in program.results]
        new = exchange_nodes([n for _, n in program.results], exchange)
        return replace(program, results=tuple(zip(names, new, strict=True)))

    return rewrite


def in_adjoint(
    patch: Patch, kind: type[N], change: Callable[[N, Shares], Iterable[tuple[Node, Node]]]
) -> None:
    """Change the rule of reverse mode of one operation."""
    made = differentiate.shares

    def changed(node: Node, g: Node) -> Iterator[tuple[Node, Node]]:
        given = list(made(node, g))
        yield from change(node, given) if isinstance(node, kind) else given

    patch.setattr(differentiate, "shares", changed)
