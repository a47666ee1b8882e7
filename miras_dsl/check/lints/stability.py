"""Warnings from static analysis: divergence, weights that cannot grow, unused names.

The bounds come from writing one pair repeatedly, with a key of length 1: the error r becomes
r - eta phi(r), which shrinks while eta phi(r) / r < 2.  In a block, all steps start from the same
weights, so eta is multiplied by the length of the block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from miras_dsl.check.formula.intervals import interval
from miras_dsl.diagnostics import Diagnostic, Label, warning
from miras_dsl.spec import (  # fmt: skip
    Apply,
    Expr,
    Interval,
    Loss,
    MemorySpec,
    Number,
    Ref,
    Term,
    Write,
    iter_nodes,
)

from .domains import domain_warnings
from .gradient_reach import no_gradient_tokens
from .overflow import overflow_warnings


def lint(made: MemorySpec) -> Iterator[Diagnostic]:
    """All warnings about one memory."""
    ranges = {g.name: g.range for g in made.gates}
    yield from _unused(made)
    yield from _decay(made, ranges)
    yield from _steps(made, ranges)
    yield from _link(made)
    yield from domain_warnings(made, _everywhere(made), ranges)
    yield from overflow_warnings(made, formulas(made), ranges)
    yield from no_gradient_tokens(made)


def _unused(made: MemorySpec) -> Iterator[Diagnostic]:
    used = {n.name for e in formulas(made) for n in iter_nodes(e) if isinstance(n, Ref)}
    for item in (*made.gates, *made.tokens):
        if item.name not in used:
            what = f"`{item.name}` is never used"
            yield warning("M0801", what, item.span, "has no effect", help="leave it out")
    for name in made.unused:
        yield warning(
            "M0801",
            f"the size `{name}` of `{made.name}` is never used",
            made.span,
            f"`{name}` has no effect",
            help=f"leave it out, or write it where a size or a number stands: `anchored({name})`, "
            f"`matrix[{name}, key]`",
        )


def formulas(made: MemorySpec) -> Iterator[Expr]:
    """Every formula of a memory."""
    for term in made.terms:
        parts = (term.loss,) if isinstance(term, Loss) else (term.error, term.place, term.answer)
        yield from (*parts, term.rate)
    kept = made.retention
    optional: tuple[Expr | None, ...] = tuple(decay.factor for decay in kept.decays)
    optional += tuple(turn.angle for turn in kept.turns)
    optional += (kept.bregman, kept.link, kept.simplex, kept.penalty)
    anchored, window = made.algorithm.anchored, made.algorithm.window
    optional += (anchored.scale if anchored else None, window[1] if window else None)
    yield from (e for e in optional if e is not None)
    yield from (e for _, e in made.algorithm.rules)
    yield from (t.expr for t in made.tokens if t.expr is not None)
    yield from (g.expr for g in made.gates)
    yield from (made.read, made.network.body)


def _everywhere(made: MemorySpec) -> Iterator[Expr]:
    """Every formula but the potential: its domain is that of the weights, which it bounds itself."""
    return (e for e in formulas(made) if e is not made.retention.bregman)


def _decay(made: MemorySpec, ranges: dict[str, Interval]) -> Iterator[Diagnostic]:
    for decay in dict.fromkeys(d.factor for d in made.retention.decays):
        high = ranges[decay.name].high if isinstance(decay, Ref) else float(decay.value)
        if high > 1:
            yield warning(
                "M0503",
                "this decay can exceed 1, and the memory would then grow by itself",
                decay.span,
                f"as large as {high:g}",
                help="`sigmoid(…)` and `exp(-…)` of something positive stay below 1",
            )


def _steps(made: MemorySpec, ranges: dict[str, Interval]) -> Iterator[Diagnostic]:
    """Warnings of steps that can diverge: of one pair, or of a block of anchored learning."""
    if made.algorithm.implicit or made.algorithm.carry or len(made.states) > 1:
        return
    for term in made.terms:
        slope = max_slope(term, made)
        eta = _rate(made, term, ranges)
        if slope is None or eta is None or made.algorithm.window is not None:
            continue
        largest = eta.high * slope
        block = made.algorithm.anchored.block if made.algorithm.anchored else 0
        if (
            block
            and made.algorithm.anchored
            and made.algorithm.anchored.scale is None
            and largest * block > 2
        ):
            yield warning(
                "M0606",
                f"{block} steps of up to {eta.high:g} from the same weights can overshoot",
                made.algorithm.span,
                f"the rate times the block is up to {largest * block:g}, safe up to 2",
                because=(Label(term.span, f"slope up to {slope:g}"),),
                help=f"divide the rate by {block}, take a shorter block, or learn with `exact`",
            )
        elif not block and largest > 2:
            yield warning(
                "M0609",
                "a pair written again and again can diverge",
                made.algorithm.span,
                f"rate times slope is up to {largest:g}, safe up to 2",
                because=(Label(term.span, f"slope up to {slope:g}"),),
                help="bound the rate: `sigmoid(linear(x))` stays below 1",
            )


def max_slope(term: Term, made: MemorySpec) -> float | None:
    """The largest phi(r) / r of a bias, phi being its derivative by the error; None if not known.

    It is 1 for half a square and 2 for a square.
    """
    if isinstance(term, Write):
        return 1.0 if any(n == _error_of(term) for n in iter_nodes(term.error)) else None
    squares = [n for n in iter_nodes(term.loss) if _is_square_of_answer(n)]
    if len(squares) != 1 or not any(
        isinstance(n, Ref) and n.kind == "state" for n in iter_nodes(term.loss)
    ):
        return None
    match term.loss:
        case Apply("div", (Apply("sum", (inner,)), Number(value))) if inner is squares[0]:
            return 2.0 / float(value)
        case Apply("sum", (inner,)) if inner is squares[0]:
            return 2.0
        case _:
            return None


def _error_of(term: Write) -> Expr | None:
    return next(
        (
            n
            for n in iter_nodes(term.error)
            if isinstance(n, Apply) and n.op == "sub" and n.args[0] == term.answer
        ),
        None,
    )


def _is_square_of_answer(node: Expr) -> bool:
    if not (isinstance(node, Apply) and node.op == "pow" and isinstance(node.args[1], Number)):
        return False
    return node.args[1].value == 2 and any(
        isinstance(n, Ref) and n.kind == "state" for n in iter_nodes(node)
    )


def _rate(made: MemorySpec, term: Term, ranges: dict[str, Interval]) -> Interval | None:
    """The range of the rate of a term's gradient, for the rule `W = keep(W) - rate * grad`; else None."""
    (_, rule), *others = made.algorithm.rules
    if others:
        return None
    match rule:
        case Apply("sub", (Ref(_, "keep"), Apply("mul", (rate, Ref(_, "grad"))))):
            pass
        case Apply("sub", (Ref(_, "keep"), Ref(_, "grad"))):
            return interval(term.rate, ranges)
        case _:
            return None
    product = Apply("mul", (rate, term.rate))
    return interval(product, ranges)


def _link(made: MemorySpec) -> Iterator[Diagnostic]:
    link = made.retention.link
    degree = homogeneity(link) if link is not None else None
    if link is not None and degree is not None and degree <= 0:
        yield warning(
            "M0508",
            "this link does not grow with what is carried, so the memory cannot grow stronger",
            link.span,
            f"degree {degree:g} in `a`",
            help="a link of degree 1 doubles the weight when the carried state doubles",
        )


def homogeneity(expr: Expr) -> float | None:
    """The degree n of a homogeneous formula, f(s a) = s^n f(a); None if it has none or is not known."""
    degree: dict[int, float | None] = {}
    for node in iter_nodes(expr):
        match node:
            case Ref(_, "dual"):
                degree[id(node)] = 1
            case Apply(op, args):
                degree[id(node)] = _degree(op, [degree[id(a)] for a in args], args)
            case Number() | Ref():
                degree[id(node)] = 0
            case _:
                assert_never(node)
    return degree[id(expr)]


def _degree(op: str, below: list[float | None], args: tuple[Expr, ...]) -> float | None:
    if any(d is None for d in below):
        return None
    known = [d for d in below if d is not None]
    match op:
        case "mul":
            return sum(known)
        case "div":
            return known[0] - known[1]
        case "neg" | "abs" | "norm" | "sum" | "mean" | "retag" | "relu":
            return known[0]
        case "exact_sign":
            return 0
        case "add" | "sub":
            return known[0] if known[0] == known[1] else None
        case "max" | "min":
            # A small constant, which guards against 0, does not change the degree.
            guard = any(isinstance(a, Number) and 0 <= a.value < 1e-3 for a in args)
            return max(known) if guard or known[0] == known[1] else None
        case "pow":
            return known[0] * float(args[1].value) if isinstance(args[1], Number) else None
        case _:
            return 0 if not any(known) else None
