"""Faults of programs in blocks: of what opens them, and of the rules of reverse mode that only their
operations need."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from miras_dsl.codegen.passes.blocks import inverse, substitution
from miras_dsl.ir import ONE, ZERO, Join, Node, PlaceLast, Shift, Split, contract
from tests.judge.faults import Patch, Shares, fault, in_adjoint

# ------------------------------------------------------------ rules of reverse mode


@fault("delta in blocks", "reverse of a split: its share is forgotten")
def _(patch: Patch) -> None:
    in_adjoint(patch, Split, lambda node, shares: [(x, ZERO) for x, _ in shares])


@fault("delta in blocks", "reverse of a split: the first row of each block, then the second")
def _(patch: Patch) -> None:
    def interleaved(node: Split, shares: Shares) -> Iterable[tuple[Node, Node]]:
        return [(x, replace(s, block=s.row, row=s.block)) for x, s in shares if isinstance(s, Join)]

    in_adjoint(patch, Split, interleaved)


@fault("momentum in blocks", "reverse of a split: a block takes the share of the one before")
def _(patch: Patch) -> None:
    def late(node: Split, shares: Shares) -> Iterable[tuple[Node, Node]]:
        return [(x, replace(s, x=Shift(s.x, s.block, 1))) for x, s in shares if isinstance(s, Join)]

    in_adjoint(patch, Split, late)


@fault("delta in blocks", "reverse of a join: its share is forgotten")
def _(patch: Patch) -> None:
    in_adjoint(patch, Join, lambda node, shares: [(x, ZERO) for x, _ in shares])


@fault("momentum in blocks", "reverse of a join: a block takes the share of the one before")
def _(patch: Patch) -> None:
    in_adjoint(patch, Join, lambda node, shares: [(x, Shift(s, node.block, 1)) for x, s in shares])


@fault("rows in blocks", "reverse of a join: the rows of a block take each other's shares")
def _(patch: Patch) -> None:
    in_adjoint(patch, Join, lambda node, shares: [(x, Shift(s, node.row, -1)) for x, s in shares])


@fault("momentum in blocks", "reverse of a placed row is forgotten")
def _(patch: Patch) -> None:
    in_adjoint(patch, PlaceLast, lambda node, shares: [(x, ZERO) for x, _ in shares])


# ------------------------------------------------------------ what opens them


@fault("delta in blocks", "the blocks of an inverse do not meet")
def _(patch: Patch) -> None:
    patch.setattr(inverse, "contract", lambda x, y, over: contract(x, y, over) * 0)


@fault("momentum in blocks", "what earlier blocks wrote does not reach the next")
def _(patch: Patch) -> None:
    patch.setattr(substitution, "contract", lambda x, y, over: contract(x, y, over) * 0)


@fault("rows in blocks", "what a block wrote does not decay until its end")
def _(patch: Patch) -> None:
    made = substitution._decay

    def kept(a: Node, b: Node) -> Node:
        return ONE if len(a.axes) < len(b.axes) else made(a, b)

    patch.setattr(substitution, "_decay", kept)


@fault("rows in blocks", "decays between blocks are inverted")
def _(patch: Patch) -> None:
    made = substitution._decay
    patch.setattr(substitution, "_decay", lambda a, b: made(b, a))
