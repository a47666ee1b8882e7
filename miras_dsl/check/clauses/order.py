"""The `order` clause: the events of one token, in order."""

from __future__ import annotations

from typing import assert_never

from miras_dsl.diagnostics import Label, problem
from miras_dsl.spec import Apply, Loss, Number, Ref, Retention, Term, iter_nodes
from miras_dsl.suggestions import did_you_mean
from miras_dsl.syntax import tree as syntax

EVENTS = ("decay", "predict", "write", "read")


def order(clause: syntax.Clause, terms: list[Term], kept: Retention) -> tuple[str, ...]:
    """The events in order.

    Raises Problem unless they are exactly those that the memory has, each once, and predict comes
    before write.
    """
    names: tuple[syntax.Name, ...] = clause.content  # type: ignore[assignment]
    seen: dict[str, syntax.Name] = {}
    predicts = any(_needs_prediction(term) for term in terms)
    for name in names:
        if name.name not in EVENTS:
            help = did_you_mean(name.name, EVENTS)
            raise problem(
                "M0701", f"`{name.name}` is not an event", name.span, "unknown", help=help
            )
        if name.name in seen:
            first = (Label(seen[name.name].span, "first here"),)
            raise problem(
                "M0704", f"`{name.name}` happens once per token", name.span, "again", because=first
            )
        seen[name.name] = name
    if not kept.decays and "decay" in seen:
        raise problem(
            "M0703",
            "this retention has no decay",
            seen["decay"].span,
            "nothing to do",
            because=(Label(kept.span, "no decay here"),),
            help="leave `decay` out of the order, or write `retention decay alpha`",
        )
    needed = [e for e in EVENTS if not (e == "decay" and not kept.decays)]
    needed = [e for e in needed if not (e == "predict" and not predicts)]
    missing = [e for e in needed if e not in seen]
    if missing:
        because = (Label(kept.span, "the decay"),) if missing[0] == "decay" else ()
        raise problem(
            "M0702",
            f"`order` does not say when to {missing[0]}",
            clause.span,
            f"no `{missing[0]}`",
            because=because,
            help=f"an order is a permutation of {', '.join(needed)}",
        )
    places = [n.name for n in names]
    if "predict" in seen and places.index("predict") > places.index("write"):
        raise problem(
            "M0705",
            "a memory predicts before it writes",
            seen["predict"].span,
            "too late",
            because=(Label(seen["write"].span, "the write uses the prediction"),),
            help="move `predict` before `write`",
        )
    return tuple(places)


def _needs_prediction(term: Term) -> bool:
    """Whether the gradient of a term depends on the weights, so that the memory must predict."""
    if not isinstance(term, Loss):
        return any(
            isinstance(n, Ref) and n.kind == "state" for n in iter_nodes(term.error)
        ) or _deep(term)
    return not _linear(term)


def _deep(term: Term) -> bool:
    formula = term.loss if isinstance(term, Loss) else term.answer
    return (
        len({n.name for n in iter_nodes(formula) if isinstance(n, Ref) and n.kind == "state"}) > 1
    )


def _linear(term: Loss) -> bool:
    """Whether the loss is linear in the state for certain: a product adds the degrees of its factors."""
    degree: dict[int, float] = {}
    for node in iter_nodes(term.loss):
        match node:
            case Ref(_, "state"):
                degree[id(node)] = 1
            case Ref():
                degree[id(node)] = 0
            case Number():
                degree[id(node)] = 0
            case Apply(op, args):
                degree[id(node)] = _degree(op, [degree[id(a)] for a in args])
            case _:
                assert_never(node)
    return degree[id(term.loss)] <= 1


def _degree(op: str, below: list[float]) -> float:
    match op:
        case "add" | "sub" | "neg" | "retag" | "sum" | "mean":
            return max(below)
        case "mul" | "contract" | "outer":
            return sum(below)
        case "div" if below[1] == 0:
            return below[0]
        case _:
            return 0 if not any(below) else float("inf")
