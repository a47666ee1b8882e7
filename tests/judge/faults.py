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
from miras_dsl.codegen import pipeline
from miras_dsl.codegen.derive.chunk import ChunkForm
from miras_dsl.codegen.derive.update import UpdateRule
from miras_dsl.codegen.passes import autodiff
from miras_dsl.ir import Node, Program, postorder
from miras_dsl.ir import substitute as exchange_nodes
from miras_dsl.runtime.judge.cases import Case
from miras_dsl.source import Source
from miras_dsl.spec import Apply, MemorySpec, iter_nodes
from tests.judge.fault_memories import TEXTS

N = TypeVar("N", bound=Node)
Patch = pytest.MonkeyPatch
Shares = list[tuple[Node, Node]]


def spec_of(name: str) -> MemorySpec:
    """A memory of `TEXTS`."""
    (spec,) = read(Source(f"{name}.mem", TEXTS[name])).memories.values()
    return spec


def orthogonal(spec: MemorySpec) -> bool:
    """Whether a rule takes an orthogonal factor."""
    formulas = [node for _, rule in spec.algorithm.rules for node in iter_nodes(rule)]
    return any(isinstance(node, Apply) and node.op == "orthogonal" for node in formulas)


def cases(spec: MemorySpec) -> tuple[Case, ...]:
    """More than a chunk, from a state in the middle of a block; and packed sequences."""
    if spec.algorithm.anchored is not None:
        lengths, packed = (11,), (0, 1, 6, 5)
    elif spec.retention.penalty is not None or spec.retention.bregman is not None:
        lengths, packed = (4,), (0, 1, 2)  # what the oracle solves numerically takes long
    elif spec.algorithm.window is not None or orthogonal(spec):
        lengths, packed = (12,), (0, 1, 5, 3)  # these have no chunk to cross
    else:
        lengths, packed = (67,), (0, 1, 5, 3)
    return (
        Case("long", lengths, (4, 3), warm=True, keys=0.5),
        Case("packed", packed, (3, 3), packed=True, warm=True, keys=0.5),
    )


@dataclass(frozen=True)
class Fault:
    """One planted fault: what is wrong, in which memory, layer or model, and the patch.

    cases, dtype  where it shows, if not in the usual `cases` in float64
    """

    name: str
    memory: str
    plant: Callable[[Patch], None]
    cases: tuple[Case, ...] = ()
    dtype: str = "float64"


FAULTS: list[Fault] = []


def fault(
    memory: str, name: str, cases: tuple[Case, ...] = (), dtype: str = "float64"
) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    """Register a function that plants a fault."""

    def register(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
        FAULTS.append(Fault(name, memory, plant, cases, dtype))
        return plant

    return register


# ------------------------------------------------------------ planting


def in_program(patch: Patch, change: Callable[[Program], Program]) -> None:
    """Change the derived chunk program, from which the reverse mode is then derived."""
    made = pipeline.chunkwise_form

    def changed(rule: UpdateRule) -> ChunkForm:
        form = made(rule)
        return replace(form, program=change(form.program))

    patch.setattr(pipeline, "chunkwise_form", changed)


def in_reverse(patch: Patch, change: Callable[[Program], Program]) -> None:
    """Change the derived reverse mode."""
    made = pipeline.adjoint

    def changed(program: Program) -> Program:
        return change(made(program))

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
    made = autodiff.vjp_rule

    def changed(node: Node, g: Node) -> Iterator[tuple[Node, Node]]:
        given = list(made(node, g))
        yield from change(node, given) if isinstance(node, kind) else given

    patch.setattr(autodiff, "vjp_rule", changed)
