"""Warns of tokens that receive no gradient of the outer loss, because a memory only compares them.

The outer loss depends on a token through what is written: the derivative of the bias by the weights.  If
that derivative is piecewise constant in the token (the bias is `max`, `abs` or `where` of linear formulas
of it, as in a quantile loss), its gradient is 0, and the token's projection learns nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import sympy as sp

from miras_dsl.diagnostics import Diagnostic, warning
from miras_dsl.spec import Apply, Expr, Loss, MemorySpec, Number, Ref, Write, iter_nodes

LINEAR = frozenset({"neg", "add", "sub", "sum", "mean", "retag", "max", "min", "abs", "relu"})
ONE = Number(sp.Integer(1))
PIECEWISE_CONSTANT = frozenset({"exact_sign", "lt", "le", "gt", "ge", "eq", "and", "or", "not"})


def only_compared(made: MemorySpec) -> tuple[str, ...]:
    """The projected tokens that the bias uses but that receive no gradient."""
    if made.algorithm.implicit:
        # An implicit step can end at a kink, and the place of a kink depends on the token.
        return ()
    others = [t.expr for t in made.tokens if t.expr is not None] + [g.expr for g in made.gates]
    others += [made.read, *(e for _, e in made.algorithm.rules), *(t.rate for t in made.terms)]
    elsewhere = set(_tokens(others))
    named = set(_tokens(e for term in made.terms for e in _parts(term)))
    return tuple(
        t.name
        for t in made.tokens
        if t.name in named - elsewhere and all(_only_compares(term, t.name) for term in made.terms)
    )


def no_gradient_tokens(made: MemorySpec) -> Iterator[Diagnostic]:
    """A warning for each token that receives no gradient."""
    for name in only_compared(made):
        yield warning(
            "M0804",
            f"`{name}` is only compared, so its projection learns nothing",
            made.terms[0].span,
            f"depends on `{name}` by comparisons alone",
            help="a bias that is smooth in its error passes gradients on: "
            "`l2`, `logcosh`, `huber(delta)`",
        )


def _only_compares(term: Loss | Write, token: str) -> bool:
    """Whether what the term writes is piecewise constant in the token."""
    if isinstance(term, Loss):
        return _piecewise_linear(term.loss, token)
    return not _holds(term.place, token) and _piecewise_constant(term.error, token)


def _piecewise_linear(expr: Expr, token: str) -> bool:
    """Whether a formula is piecewise linear in the token, with slopes that do not depend on weights."""
    good: dict[int, bool] = {}
    for node in iter_nodes(expr):
        if not isinstance(node, Apply) or not _holds(node, token):
            good[id(node)] = True
        elif node.op in LINEAR or (node.op == "pow" and node.args[1] == ONE):
            good[id(node)] = all(good[id(a)] for a in node.args)
        elif node.op in PIECEWISE_CONSTANT:
            good[id(node)] = True
        elif node.op == "where":
            good[id(node)] = all(good[id(a)] for a in node.args[1:])
        elif node.op in ("mul", "contract", "div", "outer"):
            held = [a for a in node.args if _holds(a, token)]
            rest = [a for a in node.args if not _holds(a, token)]
            fixed = all(not _reads_weights(a) for a in rest) and (
                node.op != "div" or held == [node.args[0]]
            )
            good[id(node)] = len(held) == 1 and good[id(held[0])] and fixed
        else:
            good[id(node)] = False
    return good[id(expr)]


def _piecewise_constant(expr: Expr, token: str) -> bool:
    """Whether a formula is piecewise constant in the token."""
    good: dict[int, bool] = {}
    for node in iter_nodes(expr):
        held = _holds(node, token)
        below = all(good[id(a)] for a in node.args) if isinstance(node, Apply) else True
        if isinstance(node, Apply) and node.op == "where":
            below = all(good[id(a)] for a in node.args[1:])
        stepped = isinstance(node, Apply) and node.op in PIECEWISE_CONSTANT
        good[id(node)] = not held or stepped or (isinstance(node, Apply) and below)
    return good[id(expr)]


def _holds(expr: Expr, token: str) -> bool:
    return any(
        isinstance(n, Ref) and n.kind == "token" and n.name == token for n in iter_nodes(expr)
    )


def _reads_weights(expr: Expr) -> bool:
    return any(isinstance(n, Ref) and n.kind == "state" for n in iter_nodes(expr))


def _parts(term: Loss | Write) -> tuple[Expr, ...]:
    return (term.loss,) if isinstance(term, Loss) else (term.error, term.place, term.answer)


def _tokens(formulas: Iterable[Expr]) -> Iterator[str]:
    for formula in formulas:
        yield from (n.name for n in iter_nodes(formula) if isinstance(n, Ref) and n.kind == "token")
