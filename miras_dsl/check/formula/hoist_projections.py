"""Learned maps inside a memory's formulas become gates and tokens of their own (hoisting).

A memory's formulas then read tokens and gates only, which the layer computes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from miras_dsl.diagnostics import Problem, problem
from miras_dsl.source import Span
from miras_dsl.spec import FEATURE, Apply, Expr, Gate, Number, Ref, Token, iter_nodes

from .functions.layer_functions import STATE_KINDS
from .intervals import EVERYTHING

INSIDE = STATE_KINDS | {"position", "constant"}


@dataclass(slots=True)
class Hoisted:
    """The gates and tokens `_1`, `_2` … that are made; ``pairs``: those of a token of the memory."""

    pairs: int
    gates: list[Gate] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)

    def hoist(self, expr: Expr) -> Expr:
        """``expr`` with references to new gates and tokens in place of its learned parts.

        A part is as large as possible without depending on the memory's state.
        """
        learned: dict[int, bool] = {}
        inside: dict[int, bool] = {}
        for node in iter_nodes(expr):
            below = node.args if isinstance(node, Apply) else ()
            op = node.op if isinstance(node, Apply) else ""
            source = isinstance(node, Ref) and node.kind in ("x", "head")
            learned[id(node)] = source or op in FEATURE or any(learned[id(a)] for a in below)
            own = isinstance(node, Ref) and node.kind in INSIDE
            inside[id(node)] = own or any(inside[id(a)] for a in below)
        done: dict[int, Expr] = {}
        for node in iter_nodes(expr):
            if not isinstance(node, Apply) or not learned[id(node)]:
                done[id(node)] = node
            elif inside[id(node)]:
                if node.op in FEATURE:
                    raise _of_the_state(node)
                args = (
                    self.hoist_whole(a) if learned[id(a)] and not inside[id(a)] else done[id(a)]
                    for a in node.args
                )
                done[id(node)] = replace(node, args=tuple(args))
            else:
                done[id(node)] = node
        free = learned[id(expr)] and not inside[id(expr)]
        return self.hoist_whole(expr) if free else done[id(expr)]

    def hoist_whole(self, expr: Expr) -> Ref:
        """A reference to a new gate, or token if it reads one, whose formula is ``expr``.

        ``expr`` does not depend on the memory's state.  Raises Problem for a token of several pairs.
        """
        name = f"_{len(self.gates) + len(self.tokens) + 1}"
        tokens = [n for n in iter_nodes(expr) if isinstance(n, Ref) and n.kind == "token"]
        if not tokens:
            self.gates.append(Gate(name, expr.axes, expr, EVERYTHING, expr.span))
            return Ref(name, "gate", expr.axes, expr.span)
        if self.pairs > 1:
            raise problem(
                "M0211",
                "with several pairs per token this formula needs a name",
                expr.span,
                "learned, and different for each pair",
                help="define it in `tokens { … }`",
            )
        self.tokens.append(Token(name, expr.axes, expr, expr.span))
        return Ref(name, "token", expr.axes, expr.span)


def _of_the_state(node: Apply) -> Problem:
    return problem(
        "M0211",
        f"`{node.op}` is computed by the layer, which does not see what the memory holds",
        node.span,
        "depends on the memory",
        help="use it on tokens and on the layer's input x",
    )


def gate_of(expr: Expr, hoisted: Hoisted, what: str, code: str, span: Span) -> Ref | Number:
    """``expr`` as a number or as a reference to a gate, which is made if necessary.

    what, code, span  for the Problem that is raised if it depends on tokens or on the state
    """
    for node in iter_nodes(expr):
        if isinstance(node, Ref) and (node.kind in INSIDE or node.kind == "token"):
            raise problem(
                code,
                f"{what} must be a gate, and `{node.name}` is not one",
                node.span if node.span.source == span.source else span,
                "depends on the memory" if node.kind in INSIDE else "a token",
                help="gates are formulas over the layer's input x and learned constants",
            )
    if isinstance(expr, Number) or (isinstance(expr, Ref) and expr.kind == "gate"):
        return expr
    return hoisted.hoist_whole(expr)
