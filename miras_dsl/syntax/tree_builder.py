"""From Lark's parse trees to the nodes of `tree`, bottom up and without recursion."""

from __future__ import annotations

from typing import Any

import sympy as sp
from lark import Token, Tree
from lark.visitors import Transformer_NonRecursive, v_args

from miras_dsl.diagnostics import problem
from miras_dsl.source import Span

from . import tree as s
from .prelex import MAX_NESTING, MAX_NODES, Chunk, SourceMap

MAX_DIGITS = 19
MAX_DECIMAL_EXPONENT = 300
FORMS = ("decay", "bregman", "penalty", "link", "at")


class TreeBuilder(Transformer_NonRecursive):
    """Has one method for each rule of the grammar, and counts the nodes of the whole file."""

    def __init__(self, places: SourceMap):
        super().__init__(visit_tokens=False)
        self.places = places
        self.offset = 0
        self.nodes = 0
        self.doc = ""

    def item(self, tree: Tree[Any], piece: Chunk) -> s.Item:
        """The definition that ``tree`` holds, whose text is ``piece``."""
        self.offset, self.doc = piece.start, piece.doc
        return self.transform(tree)

    # places

    def span(self, meta: Any) -> Span:
        return self.places.span(self.offset + meta.start_pos, self.offset + meta.end_pos)

    def at(self, token: Token) -> Span:
        start = self.offset + (token.start_pos or 0)
        return self.places.span(start, start + len(token))

    def new_depth(self, span: Span, *below: Any) -> int:
        """The depth of a new node above ``below``.  Raises Problem if the tree is too deep or too large."""
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise problem(
                "M0003",
                f"this file has more than {MAX_NODES} parts of formulas",
                span,
                "reading stops here",
                help="split the file, or write shorter formulas",
            )
        depth = 1 + max((part.depth for part in below), default=0)
        if depth > MAX_NESTING:
            raise problem(
                "M0002",
                f"this formula is nested more than {MAX_NESTING} deep",
                span,
                "too deep",
                help="give an inner part a name of its own, as a gate or a token",
            )
        return depth

    # formulas

    def number(self, meta: Any, children: list[Any]) -> s.Literal:
        span = self.span(meta)
        return s.Literal(_number(str(children[0]), span), span, self.new_depth(span))

    def name(self, meta: Any, children: list[Any]) -> s.Name:
        return s.Name(str(children[0]), self.span(meta), self.new_depth(self.span(meta)))

    def call(self, meta: Any, children: list[Any]) -> s.Call:
        name, *arguments = children
        span = self.span(meta)
        return s.Call(
            str(name), tuple(arguments), span, self.at(name), self.new_depth(span, *arguments)
        )

    def arg(self, meta: Any, children: list[Any]) -> s.Argument:
        *name, value = children
        return s.Argument(str(name[0]) if name else None, value, self.span(meta), value.depth)

    def index(self, meta: Any, children: list[Any]) -> s.Index:
        name, *entries = children
        span = self.span(meta)
        return s.Index(
            str(name), tuple(entries), span, self.at(name), self.new_depth(span, *entries)
        )

    def unary(self, meta: Any, children: list[Any]) -> s.Unary:
        span = self.span(meta)
        op = str(children[0]) if isinstance(children[0], Token) else "not"
        return s.Unary(op, children[-1], span, self.new_depth(span, children[-1]))

    def binary(self, meta: Any, children: list[Any]) -> s.Binary:
        span = self.span(meta)
        left, right = children[0], children[-1]
        # Lark drops the tokens `^`, `and` and `or`; they are read from the text between the operands.
        between = self.places.source.text[left.span.end : right.span.start]
        op = str(children[1]) if len(children) == 3 else _sign(between)
        return s.Binary(op, left, right, span, self.new_depth(span, left, right))

    def group(self, meta: Any, children: list[Any]) -> Any:
        return children[0]

    # pieces of clauses

    def params(self, meta: Any, children: list[Any]) -> tuple[s.Parameter, ...]:
        return tuple(children)

    def param(self, meta: Any, children: list[Any]) -> s.Parameter:
        return s.Parameter(
            str(children[0]), children[1] if len(children) > 1 else None, self.span(meta)
        )

    def target(self, meta: Any, children: list[Any]) -> s.Target:
        name, *entries = children
        return s.Target(str(name), tuple(entries) or None, self.span(meta))

    def binding(self, meta: Any, children: list[Any]) -> s.Binding:
        targets = tuple(c for c in children if isinstance(c, s.Target))
        values = [c for c in children if not isinstance(c, s.Target)]
        return s.Binding(targets, values[0] if values else None, self.span(meta))

    def weights(self, meta: Any, children: list[Any]) -> s.Weights:
        shape = next(i for i, c in enumerate(children) if not isinstance(c, Token))
        names = tuple(str(c) for c in children[:shape])
        init = str(children[shape + 1]) if len(children) > shape + 1 else None
        return s.Weights(names, children[shape], init, self.span(meta))

    def network(self, meta: Any, children: list[Any]) -> s.NetworkBody:
        *weights, name, argument, body = children
        return s.NetworkBody(tuple(weights), str(name), str(argument), body, self.span(meta))

    def term(self, meta: Any, children: list[Any]) -> s.Term:
        return s.Term(None, children[0], self.span(meta))

    def named_term(self, meta: Any, children: list[Any]) -> s.Term:
        return s.Term(str(children[0]), children[1], self.span(meta))

    def write(self, meta: Any, children: list[Any]) -> s.WriteForm:
        return s.WriteForm(children[0], children[1], self.span(meta))

    def form(self, meta: Any, children: list[Any]) -> s.Form:
        span = self.span(meta)
        word = next(w for w in FORMS if span.text.startswith(w))
        value = children[0]
        if isinstance(value, Token):
            value = s.Name(str(value), self.at(value))
        return s.Form(word, value, children[1] if len(children) > 1 else None, span)

    def kept(self, meta: Any, children: list[Any]) -> s.KeptWeight:
        name, *parts = children
        return s.KeptWeight(str(name), tuple(parts), self.span(meta), self.at(name))

    def carry(self, meta: Any, children: list[Any]) -> tuple[str, ...]:
        return tuple(str(c) for c in children)

    def rules(self, meta: Any, children: list[Any]) -> s.Rules:
        carry = children[0] if children and isinstance(children[0], tuple) else ()
        return s.Rules(
            carry, tuple(c for c in children if isinstance(c, s.Binding)), self.span(meta)
        )

    # clauses

    def _clause(self, word: str, meta: Any, content: Any) -> s.Clause:
        span = self.span(meta)
        return s.Clause(word, content, span, self.places.span(span.start, span.start + len(word)))

    def tokens(self, meta: Any, children: list[Any]) -> s.Clause:
        return self._clause("tokens", meta, tuple(children))

    def gates(self, meta: Any, children: list[Any]) -> s.Clause:
        return self._clause("gates", meta, tuple(children))

    def architecture(self, meta: Any, children: list[Any]) -> s.Clause:
        return self._clause("architecture", meta, children[0])

    def bias(self, meta: Any, children: list[Any]) -> s.Clause:
        return self._clause("bias", meta, tuple(children))

    def retention(self, meta: Any, children: list[Any]) -> s.Clause:
        return self._clause("retention", meta, tuple(children))

    def algorithm(self, meta: Any, children: list[Any]) -> s.Clause:
        return self._clause("algorithm", meta, tuple(children))

    def order(self, meta: Any, children: list[Any]) -> s.Clause:
        return self._clause("order", meta, tuple(s.Name(str(c), self.at(c)) for c in children))

    def read(self, meta: Any, children: list[Any]) -> s.Clause:
        return self._clause("read", meta, children[0])

    # definitions

    def memory(self, meta: Any, children: list[Any]) -> s.Memory:
        name, params, *clauses = children
        return s.Memory(str(name), params, tuple(clauses), self.doc, self.span(meta), self.at(name))

    def _definition(self, kind: str, meta: Any, children: list[Any]) -> s.Definition:
        name, *rest = children
        params = rest.pop(0) if rest and _is_params(rest[0]) else ()
        body = tuple(rest) if kind == "retention" else rest[0]
        return s.Definition(kind, str(name), params, body, self.doc, self.span(meta), self.at(name))

    def define_bias(self, meta: Any, children: list[Any]) -> s.Definition:
        return self._definition("bias", meta, children)

    def define_retention(self, meta: Any, children: list[Any]) -> s.Definition:
        return self._definition("retention", meta, children)

    def define_algorithm(self, meta: Any, children: list[Any]) -> s.Definition:
        return self._definition("algorithm", meta, children)

    def define_architecture(self, meta: Any, children: list[Any]) -> s.Definition:
        return self._definition("architecture", meta, children)

    def _mixing(self, op: str, meta: Any, children: list[Any]) -> s.Composition:
        parts = tuple(c for c in children if not isinstance(c, Token))
        return s.Composition(op, parts, self.span(meta), self.new_depth(self.span(meta), *parts))

    def chain(self, meta: Any, children: list[Any]) -> s.Composition:
        return self._mixing("->", meta, children)

    def together(self, meta: Any, children: list[Any]) -> s.Composition:
        return self._mixing("+", meta, children)

    def layer(self, meta: Any, children: list[Any]) -> s.Layer:
        name, *rest = children
        params = rest.pop(0) if _is_params(rest[0]) else ()
        body, *features = rest
        return s.Layer(
            str(name), params, body, tuple(features), self.doc, self.span(meta), self.at(name)
        )

    def blocks(self, meta: Any, children: list[Any]) -> list[Any]:
        return children

    def repeat(self, meta: Any, children: list[Any]) -> s.Repeat:
        count, blocks = children
        span = self.span(meta)
        return s.Repeat(count, tuple(blocks), span, self.new_depth(span, count, *blocks))

    def model(self, meta: Any, children: list[Any]) -> s.Model:
        name, params, blocks = children
        return s.Model(str(name), params, tuple(blocks), self.doc, self.span(meta), self.at(name))

    def start(self, meta: Any, children: list[Any]) -> s.Item:
        return children[0]


# Every method is given the position of its rule as `meta`.
v_args(meta=True)(TreeBuilder)


def _is_params(part: Any) -> bool:
    return isinstance(part, tuple) and all(isinstance(p, s.Parameter) for p in part)


def _sign(between: str) -> str:
    code = " ".join(line.split("#", 1)[0] for line in between.split("\n"))
    words = code.replace("(", " ").replace(")", " ").split()
    return words[0] if words else ""


def _number(digits: str, span: Span) -> sp.Number:
    """The exact number that is written; a Float of 17 digits if that has over 64 bits.

    Raises Problem for too many digits or too large an exponent.
    """
    mantissa, _, power = digits.lower().partition("e")
    whole, _, fraction = mantissa.partition(".")
    if len(whole) > MAX_DIGITS or len(fraction) > MAX_DIGITS:
        raise problem(
            "M0004",
            f"a number may have {MAX_DIGITS} digits before and {MAX_DIGITS} after the point",
            span,
            "too many digits",
        )
    exponent = int(power) if len(power) <= 5 and power else 0
    if len(power) > 5 or abs(exponent) > MAX_DECIMAL_EXPONENT:
        raise problem(
            "M0004",
            f"powers of ten lie between -{MAX_DECIMAL_EXPONENT} and {MAX_DECIMAL_EXPONENT}",
            span,
            "out of range",
        )
    scale = exponent - len(fraction)
    value = int(whole + fraction)
    exact = sp.Integer(value * 10 ** max(scale, 0)) / sp.Integer(10 ** max(-scale, 0))
    assert isinstance(exact, sp.Rational)
    small = exact.p.bit_length() <= 64 and exact.q.bit_length() <= 64
    return exact if small else sp.Float(exact, 17)
