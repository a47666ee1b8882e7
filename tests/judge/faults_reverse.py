"""Faults of reverse mode: of the rule of each operation, and of reverse programs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from miras_dsl.codegen.passes import autodiff
from miras_dsl.codegen.passes.decay_gradient import DecayLog
from miras_dsl.ir import (
    ZERO,
    Contract,
    Cumsum,
    Decay,
    ForwardSubstitution,
    GatedApply,
    GatedContract,
    I,
    Inverse,
    J,
    Map,
    Mask,
    Node,
    Program,
    Reduce,
    Shift,
    TakeLast,
    Triangle,
    rename,
)
from tests.judge.faults import Patch, Shares, fault, in_adjoint, in_reverse, nodes

# ------------------------------------------------------------ rules of reverse mode


def _sign(*places: int) -> Any:
    def change(node: Node, shares: Shares) -> Shares:
        return [(o, -x if n in places else x) for n, (o, x) in enumerate(shares)]

    return change


def _without(*places: int) -> Any:
    def change(node: Node, shares: Shares) -> Shares:
        return [(o, ZERO if n in places else x) for n, (o, x) in enumerate(shares)]

    return change


def _span(patch: Patch, change: Callable[[DecayLog], DecayLog]) -> None:
    """Change which pairs of tokens a decay's gradient sums over."""
    made = autodiff.decay_log

    def changed(a: Node, b: Node) -> DecayLog | None:
        found = made(a, b)
        return None if found is None else change(found)

    patch.setattr(autodiff, "decay_log", changed)


@fault("sum", "gradient of a decay: pairs that end at its token do not count")
def _(patch: Patch) -> None:
    _span(patch, lambda decay: replace(decay, inclusive=False))


@fault("channels", "gradient of a decay per channel: pairs that end at its token do not count")
def _(patch: Patch) -> None:
    _span(patch, lambda decay: replace(decay, inclusive=False))


@fault("sum", "reverse of a decay: its logarithm is forgotten")
def _(patch: Patch) -> None:
    in_adjoint(patch, Decay, _without(0))


@fault("channels", "reverse of a gated product: its gate is forgotten")
def _(patch: Patch) -> None:
    in_adjoint(patch, GatedContract, _without(2))


@fault("rows", "reverse of a gated sum: its gates are forgotten")
def _(patch: Patch) -> None:
    in_adjoint(patch, GatedApply, _without(2, 3))


@fault("rows", "reverse of a gated sum: the sign of its triangle")
def _(patch: Patch) -> None:
    in_adjoint(patch, GatedApply, _sign(0))


@fault("sum", "reverse of a running sum runs the same way")
def _(patch: Patch) -> None:
    def same(node: Cumsum, shares: Shares) -> Iterable[tuple[Node, Node]]:
        return [(x, replace(s, reverse=node.reverse)) for x, s in shares if isinstance(s, Cumsum)]

    in_adjoint(patch, Cumsum, same)


@fault("momentum", "reverse of a shift goes the same way")
def _(patch: Patch) -> None:
    def same(node: Shift, shares: Shares) -> Iterable[tuple[Node, Node]]:
        return [(x, replace(s, by=node.by)) for x, s in shares if isinstance(s, Shift)]

    in_adjoint(patch, Shift, same)


@fault("momentum", "reverse of a last row is forgotten")
def _(patch: Patch) -> None:
    in_adjoint(patch, TakeLast, _without(0))


@fault("plain sum", "reverse of a mask is not masked")
def _(patch: Patch) -> None:
    def bare(node: Mask, shares: Shares) -> Iterable[tuple[Node, Node]]:
        return [(x, s.x if isinstance(s, Mask) else s) for x, s in shares]

    in_adjoint(patch, Mask, bare)


@fault("delta", "reverse of an inverse: the wrong sign")
def _(patch: Patch) -> None:
    in_adjoint(patch, Inverse, _sign(0))


@fault("delta", "reverse of an inverse: not transposed")
def _(patch: Patch) -> None:
    def turned(node: Inverse, shares: Shares) -> Iterable[tuple[Node, Node]]:
        return [(x, Mask(rename(s, {I: J, J: I}), Triangle(I, J, True))) for x, s in shares]

    in_adjoint(patch, Inverse, turned)


@fault("delta", "reverse of a product: the sign of its left side")
def _(patch: Patch) -> None:
    in_adjoint(patch, Contract, _sign(0))


@fault("network", "reverse of a sum is halved")
def _(patch: Patch) -> None:
    in_adjoint(patch, Reduce, lambda node, shares: [(x, s * 0.5) for x, s in shares])


@fault("network", "reverse of a repetition counts half")
def _(patch: Patch) -> None:
    def half(node: Map, shares: Shares) -> Iterable[tuple[Node, Node]]:
        return [(x, s if x.axes == node.axes else s * 0.5) for x, s in shares]

    in_adjoint(patch, Map, half)


@fault("network", "reverse of a formula forgets its second operand")
def _(patch: Patch) -> None:
    in_adjoint(patch, Map, _without(1))


@fault("momentum", "reverse of a substitution: the sign of its couplings")
def _(patch: Patch) -> None:
    def flipped(node: ForwardSubstitution, shares: Shares) -> Iterable[tuple[Node, Node]]:
        return [(x, -s if x is node.a else s) for x, s in shares]

    in_adjoint(patch, ForwardSubstitution, flipped)


@fault("momentum", "reverse of a substitution: its rows forget what later rows took")
def _(patch: Patch) -> None:
    made = autodiff._substitution

    def alone(node: ForwardSubstitution, g: Node) -> Iterator[tuple[Node, Node]]:
        for x, share in made(node, g):
            yield (
                x,
                replace(share, a=share.a * 1e-9)
                if isinstance(share, ForwardSubstitution)
                else share,
            )

    patch.setattr(autodiff, "_substitution", alone)


@fault("rows", "reverse of a substitution: parameters of its rows are forgotten")
def _(patch: Patch) -> None:
    def bare(node: ForwardSubstitution, shares: Shares) -> Iterable[tuple[Node, Node]]:
        rows = {row for _, row in node.rows}
        return [(x, ZERO if x in rows else s) for x, s in shares]

    in_adjoint(patch, ForwardSubstitution, bare)


# ------------------------------------------------------------ the reverse program


@fault("momentum", "the transposed substitution runs forwards")
def _(patch: Patch) -> None:
    in_reverse(patch, nodes(ForwardSubstitution, lambda n: replace(n, reverse=False)))


@fault("delta", "the cotangent of the state is not carried")
def _(patch: Patch) -> None:
    def stuck(program: Program) -> Program:
        states = {name: state for state, name in program.carried}
        kept = tuple((name, states.get(name, node)) for name, node in program.results)
        return replace(program, results=kept)

    in_reverse(patch, stuck)


@fault("channels", "the gradient of a gate has the wrong sign")
def _(patch: Patch) -> None:
    def flipped(program: Program) -> Program:
        return replace(
            program,
            results=tuple((n, -x if n == "d_log_alpha" else x) for n, x in program.results),
        )

    in_reverse(patch, flipped)
