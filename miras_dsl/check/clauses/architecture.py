"""The architecture of a memory: its weights, its network M, and the sizes of hidden axes."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import TypeGuard, assert_never

import sympy as sp

from miras_dsl.check.formula.axis_sizes import AxisSizes, size_of
from miras_dsl.check.formula.complex_parts import parts, real_formula
from miras_dsl.check.formula.elaborate import Entry, Operation, Scope, elaborate
from miras_dsl.check.formula.shapes import contract, shown, to_axes
from miras_dsl.check.library.call import resolve_library_call
from miras_dsl.check.library.load import Library
from miras_dsl.diagnostics import Problem, problem
from miras_dsl.source import Span
from miras_dsl.spec import (
    POINTWISE,
    Apply,
    Expr,
    Loss,
    MemorySpec,
    Network,
    Number,
    Ref,
    State,
    iter_nodes,
)
from miras_dsl.syntax import tree as syntax

from .mlp import mlp
from .weights import Architecture, declare, init_of, kind_of


def is_vector(clause: syntax.Clause, library: Library) -> bool:
    """Whether the only weight is a vector, so that all tokens share one axis."""
    match clause.content:
        case syntax.Weights(_, shape):
            return kind_of(shape) == "vector"
        case syntax.NetworkBody(weights):
            return {kind_of(w.shape) for w in weights} - {"number"} == {"vector"}
        case syntax.Name(name) | syntax.Call(name):
            body = library.get(("architecture", name))
            return body is not None and is_vector(replace(clause, content=body.body), library)
        case _:
            return False


def architecture(
    clause: syntax.Clause, library: Library, scope: Scope, sizes: AxisSizes
) -> Architecture:
    """The weights of a memory and its network M.  Raises Problem."""
    match clause.content:
        case syntax.Weights() as weights:
            if len(weights.names) != 1:
                raise problem(
                    "M0301",
                    "several weights need a network that uses them",
                    weights.span,
                    "more than one weight",
                    help="write `{ A: … B: … M(x) = … }`",
                )
            built = Architecture()
            declare(built, weights, scope, sizes, matrix_init="zero")
            state = built.states[0]
            own = built.entries("state")[weights.names[0]]
            axis = "key" if len(state.axes) == 2 else state.axes[0]
            source = Ref("input", "input", (axis,), weights.span)
            weight = own(weights.span) if callable(own) else own
            assert isinstance(weight, Ref | Apply)
            weight = replace(weight, span=weights.span)
            if len(state.axes) == 1:
                body: Expr = Apply("mul", (weight, source), state.axes, (), weights.span)
            else:
                if to_axes(source, state.axes[1:], sizes.sizes) is None:
                    raise _transposed(state, weights.span)
                body = contract(weight, source, sizes.sizes, weights.span)
            body = parts(body)[0]
            built.network = Network(source, _answer(body, sizes, weights.span))
            return built
        case syntax.NetworkBody() as network:
            return _network(network, scope, sizes, {}, None)
        case syntax.Call("mlp") as call:
            return mlp(call, scope, sizes)
        case syntax.Name("mlp", span):
            return mlp(syntax.Call("mlp", (), span, span), scope, sizes)
        case syntax.Index(_, _, span):
            raise problem(
                "M0301",
                "an architecture is a name, a weight or a network",
                span,
                "none of these",
                help=f"give the weight a name: `W: {span.text}`",
            )
        case reference:
            assert isinstance(reference, syntax.Name | syntax.Call)
            return _library(reference, library, scope, sizes)


def check_every_weight_is_read(made: MemorySpec) -> None:
    """Raise Problem for a weight that no formula reads: not M, the read, the bias, nor another's rule."""
    formulas = [made.network.body, made.read]
    for term in made.terms:
        formulas += [term.loss] if isinstance(term, Loss) else [term.error, term.place, term.answer]
    read = {n.name for e in formulas for n in iter_nodes(e) if _names(n, "state")}
    for target, rule in made.algorithm.rules if made.algorithm.by_weight else ():
        kinds = ("newest", "keep")
        read |= {n.name for n in iter_nodes(rule) if _names(n, *kinds) and n.name != target}
    for turn in made.retention.turns:
        # The parts of a complex weight turn into each other.
        both = {turn.real, turn.imaginary}
        read |= both if both & read else set()
    for state in made.states:
        if state.name not in read:
            raise problem(
                "M0304",
                f"nothing reads the weight `{state.name}`",
                state.span,
                "in no formula but its own",
                help="a weight stands in the network, in the read, in the bias or in the rule of another "
                "weight; leave it out",
            )


def _names(node: Expr, *kinds: str) -> TypeGuard[Ref]:
    return isinstance(node, Ref) and node.kind in kinds


def _transposed(state: State, span: Span) -> Problem:
    rows, columns = state.axes
    swapped = (columns, rows) == ("value", "key")
    return problem(
        "M0305",
        f"`{state.name}` must take a [key] to a [value]",
        span,
        f"takes a [{columns}] to a [{rows}]",
        help=("swap the axes: " if swapped else "write ") + f"`{state.name}: matrix[value, key]`",
    )


def _library(
    reference: syntax.Reference, library: Library, scope: Scope, sizes: AxisSizes
) -> Architecture:
    extra = ("init",)
    choice = resolve_library_call(
        "architecture", "M0301", reference, library, also=("mlp",), extra=extra
    )
    body = choice.definition.body
    assert isinstance(body, syntax.NetworkBody)
    init = init_of(choice.extra["init"]) if "init" in choice.extra else None
    names: dict[str, Entry] = {}
    hidden: dict[str, sp.Expr] = {}
    for name, value in choice.values.items():
        if isinstance(value, syntax.Name) and POINTWISE.get(value.name) == 1:
            names[name] = Operation(value.name)
        else:
            hidden[name] = size_of(value, scope)
            sizes.hidden(hidden[name])
    return _network(body, scope.with_names(**names), sizes, hidden, init)


def _network(
    body: syntax.NetworkBody,
    scope: Scope,
    sizes: AxisSizes,
    hidden: dict[str, sp.Expr],
    init: str | None,
) -> Architecture:
    built = Architecture(name=body.name)
    outer = scope.entry

    def entry(node: syntax.Formula, inner: Scope) -> str:
        if isinstance(node, syntax.Name) and node.name in hidden:
            return sizes.hidden(hidden[node.name])
        return outer(node, inner)

    scope = replace(scope, entry=entry)
    layered = sum(len(w.names) for w in body.weights if kind_of(w.shape) == "matrix") > 1
    for weights in body.weights:
        start = init or "learned"
        declare(built, weights, scope, sizes, matrix_init=start, forced=init, layered=layered)
    axis = "value" if sizes.vector else "key"
    source = Ref("input", "input", (axis,), body.span)
    names = built.entries("state")
    if body.input in names:
        raise problem(
            "M0109",
            f"`{body.input}` is a weight and the input",
            body.span,
            "one name, two meanings",
        )
    # A name without a span: each use keeps its own.
    names[body.input] = Ref("input", "input", (axis,))
    inner = replace(
        scope.with_names(**names),
        place="a network",
        features=True,
        own=("value",),
        network_names=(),
    )
    found = real_formula(elaborate(body.body, inner), "the answer of a memory")
    expr = _constants(found, built, sizes, body.span)
    if not any(isinstance(n, Ref) and n.kind == "input" for n in iter_nodes(expr)):
        raise problem(
            "M0302",
            "this network does not use its input",
            body.body.span,
            f"no `{body.input}` here",
        )
    built.network = Network(source, _answer(expr, sizes, body.body.span), tuple(built.params))
    return built


def _constants(expr: Expr, built: Architecture, sizes: AxisSizes, span: Span) -> Expr:
    """``expr`` with learned constants as parameters of the network.  Raises Problem for learned maps."""
    done: dict[int, Expr] = {}
    for node in iter_nodes(expr):
        match node:
            case Apply("param", _, axes):
                free = (f"c{n}" for n in count(len(built.params) + 1))
                name = next(n for n in free if n not in sizes.taken)
                sizes.claim(name, node.span, "a constant of the network")
                built.params.append((name, axes, float(str(node.option("init", 0.0)))))
                done[id(node)] = Ref(name, "constant", axes, node.span)
            case Apply(("linear" | "conv" | "shift") as op):
                raise problem(
                    "M0211",
                    f"`{op}` belongs to the layer and cannot stand in a network",
                    node.span,
                    "learned by the layer",
                    help="a network has weights, which the memory learns, and `param` constants",
                )
            case Apply():
                done[id(node)] = replace(node, args=tuple(done[id(a)] for a in node.args))
            case Number() | Ref():
                done[id(node)] = node
            case _:
                assert_never(node)
    return done[id(expr)]


def _answer(body: Expr, sizes: AxisSizes, span: Span) -> Expr:
    met = to_axes(body, ("value",), sizes.sizes)
    if met is None or met.axes != ("value",):
        raise problem(
            "M0302",
            "a memory answers with a [value]",
            span,
            f"{shown(body.axes)} here",
            help="the last weight should have the rows `value`",
        )
    return met
