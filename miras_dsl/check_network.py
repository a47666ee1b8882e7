"""The architecture of a memory: its weights, its network M, and the sizes of hidden axes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import sympy as sp

from . import syntax
from .check_call import choose
from .check_formula import Entry, Operation, Scope, elaborate, whole
from .check_sizes import Axis_sizes, size_of
from .diagnostics import did_you_mean, problem
from .library import Library
from .shapes import contract, shown, to_axes, together
from .source import Span
from .spec import POINTWISE, Apply, Axes, Expr, Network, Ref, State, walk

INITS = ("zero", "learned", "positive")


@dataclass(slots=True)
class Architecture:
    """Weights and M; ``name`` is what the spec calls M, besides `M` itself."""

    states: list[State] = field(default_factory=list)
    network: Network | None = None
    name: str = "M"
    params: list[tuple[str, Axes, float]] = field(default_factory=list)

    def apply(self, argument: Expr, sizes: Axis_sizes, span: Span) -> Expr:
        """M at ``argument``."""
        assert self.network is not None
        wanted = self.network.input
        met = to_axes(argument, wanted.axes, sizes)
        if met is None or len(met.axes) != 1:
            raise problem(
                "M0203",
                f"the memory looks up {shown(wanted.axes)} vectors",
                span,
                f"{shown(argument.axes)} here",
            )
        return substitute(self.network.body, wanted, met)


def is_vector(clause: syntax.Clause, library: Library) -> bool:
    """Whether the only weight is a vector, so that all tokens share one axis."""
    match clause.content:
        case syntax.Weights(_, shape):
            return _kind(shape) == "vector"
        case syntax.NetworkBody(weights):
            return all(_kind(w.shape) == "vector" for w in weights)
        case syntax.Name(name) | syntax.Call(name):
            body = library.get(("architecture", name))
            return body is not None and is_vector(replace(clause, content=body.body), library)
        case _:
            return False


def architecture(
    clause: syntax.Clause, library: Library, scope: Scope, sizes: Axis_sizes
) -> Architecture:
    """What the `architecture` clause means."""
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
            _declare(built, weights, scope, sizes, matrix_init="zero")
            state = built.states[0]
            axis = "key" if len(state.axes) == 2 else state.axes[0]
            source = Ref("input", "input", (axis,), weights.span)
            weight = Ref(state.name, "state", state.axes, weights.span)
            if len(state.axes) == 1:
                body: Expr = Apply("mul", (weight, source), state.axes, (), weights.span)
            else:
                body = contract(weight, source, sizes.sizes, weights.span)
            built.network = Network(source, _answer(body, sizes, weights.span))
            return built
        case syntax.NetworkBody() as body:
            return _network(body, scope, sizes, {}, None)
        case syntax.Call("mlp") as call:
            return _mlp(call, scope, sizes)
        case syntax.Name("mlp", span):
            return _mlp(syntax.Call("mlp", (), span, span), scope, sizes)
        case syntax.Index(_, _, span):
            raise problem(
                "M0301", "an architecture is a name, a weight or a network", span, "none of these"
            )
        case reference:
            return _library(reference, library, scope, sizes)


def substitute(expr: Expr, old: Ref, new: Expr) -> Expr:
    """``expr`` with every ``old`` replaced."""
    done: dict[int, Expr] = {}
    for node in walk(expr):
        if node == old:
            done[id(node)] = new
        elif isinstance(node, Apply):
            done[id(node)] = replace(node, args=tuple(done[id(a)] for a in node.args))
        else:
            done[id(node)] = node
    return done[id(expr)]


def _library(
    reference: syntax.Reference, library: Library, scope: Scope, sizes: Axis_sizes
) -> Architecture:
    extra = ("init",)
    choice = choose("architecture", "M0301", reference, library, also=("mlp",), extra=extra)
    body = choice.definition.body
    assert isinstance(body, syntax.NetworkBody)
    init = _init(choice.extra["init"]) if "init" in choice.extra else None
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
    sizes: Axis_sizes,
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
    for weights in body.weights:
        _declare(built, weights, scope, sizes, matrix_init=init or "learned", forced=init)
    axis = "value" if sizes.vector else "key"
    source = Ref("input", "input", (axis,), body.span)
    names: dict[str, Entry] = {s.name: Ref(s.name, "state", s.axes, s.span) for s in built.states}
    if body.input in names:
        raise problem(
            "M0109",
            f"`{body.input}` is a weight and the input",
            body.span,
            "one name, two meanings",
        )
    names[body.input] = source
    inner = replace(
        scope.with_names(**names),
        place="a network",
        features=True,
        own=("value",),
        network_names=(),
    )
    found = elaborate(body.body, inner)
    expr = _constants(found, built, body.span)
    if not any(isinstance(n, Ref) and n.kind == "input" for n in walk(expr)):
        raise problem(
            "M0302",
            "this network does not use its input",
            body.body.span,
            f"no `{body.input}` here",
        )
    used = {n.name for n in walk(expr) if isinstance(n, Ref) and n.kind == "state"}
    for state in built.states:
        if state.name not in used:
            raise problem(
                "M0304",
                f"the weight `{state.name}` is never used",
                state.span,
                "not used by the network",
            )
    built.network = Network(source, _answer(expr, sizes, body.body.span), tuple(built.params))
    return built


def _constants(expr: Expr, built: Architecture, span: Span) -> Expr:
    """Learned constants of a network become its parameters; other learned maps have no place there."""
    done: dict[int, Expr] = {}
    for node in walk(expr):
        match node:
            case Apply("param", _, axes):
                name = f"c{len(built.params) + 1}"
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
            case _:
                done[id(node)] = node
    return done[id(expr)]


def _declare(
    built: Architecture,
    weights: syntax.Weights,
    scope: Scope,
    sizes: Axis_sizes,
    *,
    matrix_init: str,
    forced: str | None = None,
) -> None:
    kind = _kind(weights.shape)
    if kind not in ("matrix", "vector"):
        raise problem(
            "M0305",
            "a weight is a `matrix[rows, columns]` or a `vector[axis]`",
            weights.shape.span,
            "neither",
        )
    wanted = 2 if kind == "matrix" else 1
    entries = weights.shape.entries if isinstance(weights.shape, syntax.Index) else ()
    if len(entries) != wanted:
        raise problem(
            "M0305",
            f"a {kind} has {wanted} ax{'es' if wanted > 1 else 'is'}",
            weights.shape.span,
            f"{len(entries)} here",
            help="`matrix[value, key]` maps keys to values",
        )
    axes = _weight_axes(entries, scope, sizes)
    default = matrix_init if kind == "matrix" else "zero"
    init = default
    if weights.init is not None and forced is None:
        init = _init(syntax.Name(weights.init, weights.span))
    for name in weights.names:
        if any(s.name == name for s in built.states):
            raise problem("M0109", f"the weight `{name}` is declared twice", weights.span, "again")
        sizes.claim(name, weights.span, "a weight")
        built.states.append(State(name, axes, init, weights.span))


def _weight_axes(entries: tuple[syntax.Formula, ...], scope: Scope, sizes: Axis_sizes) -> Axes:
    axes = tuple(scope.entry(e, scope) for e in entries)
    if len(axes) == 2 and axes[0] == axes[1]:
        if sizes.twins("key", "value") and axes[0] in ("key", "value") and not sizes.named(entries):
            return ("value", "key")
        raise problem(
            "M0305",
            "the two axes of a matrix need different names",
            entries[1].span,
            "the same axis again",
            help="write `matrix[value, key]`",
        )
    for axis, entry in zip(axes, entries, strict=True):
        if axis in ("pair", "row", "position"):
            raise problem(
                "M0305",
                f"a weight cannot have the axis {axis}",
                entry.span,
                "belongs to tokens and gates",
            )
    return axes


def _kind(shape: syntax.Reference) -> str:
    return shape.name


def _init(node: syntax.Formula) -> str:
    name = node.name if isinstance(node, syntax.Name) else ""
    if name not in INITS:
        raise problem(
            "M0303",
            f"a weight begins as {', '.join(INITS[:-1])} or {INITS[-1]}",
            node.span,
            "none of these",
            help=did_you_mean(name, INITS),
        )
    return name


def _answer(body: Expr, sizes: Axis_sizes, span: Span) -> Expr:
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


MLP: dict[str, Callable[[Scope, syntax.Formula], object]] = {
    "hidden": lambda scope, node: size_of(node, scope),
    "activation": lambda _, node: _activation(node),
    "depth": lambda scope, node: whole(node, scope, "the depth", 1, 16),
    "init": lambda _, node: _init(node),
}
"""The named arguments of `mlp`; its flags are residual, layernorm and bias."""
FLAGS = ("residual", "layernorm", "bias")


def _mlp(call: syntax.Call, scope: Scope, sizes: Axis_sizes) -> Architecture:
    """A network of ``depth`` linear layers: W1 next to the input, then activation, W2 …"""
    if sizes.vector:
        raise problem("M0301", "an mlp needs keys and values", call.span, "not a vector memory")
    given: dict[str, object] = {"activation": "gelu", "depth": 2, "init": "learned"}
    flags: set[str] = set()
    for place, argument in enumerate(call.arguments):
        value = argument.value
        if argument.name is None and isinstance(value, syntax.Name) and value.name in FLAGS:
            flags.add(value.name)
        elif argument.name in MLP or (argument.name is None and place == 0):
            given[argument.name or "hidden"] = MLP[argument.name or "hidden"](scope, value)
        else:
            word = argument.name or argument.span.text
            help = did_you_mean(word, (*MLP, *FLAGS))
            raise problem(
                "M0206", f"`mlp` has no argument `{word}`", argument.span, "unknown", help=help
            )
    depth, init, act = int(str(given["depth"])), str(given["init"]), str(given["activation"])
    if depth > 1 and "hidden" not in given:
        raise problem(
            "M0205",
            "`mlp` needs `hidden`",
            call.span,
            "no hidden size",
            help="write `mlp(hidden = 4 * d)`",
        )
    built, span = Architecture(), call.span
    axes = ["key", *(sizes.layer(given["hidden"]) for _ in range(depth - 1)), "value"]
    source = Ref("input", "input", ("key",), span)
    x: Expr = source
    for layer, (low, high) in enumerate(zip(axes, axes[1:], strict=False), start=1):
        x = contract(
            _state(built, f"W{layer}", (high, low), init, sizes, span), x, sizes.sizes, span
        )
        if "bias" in flags:
            shift = _state(built, f"b{layer}", (high,), "zero", sizes, span)
            x = Apply("add", (x, shift), x.axes, (), span)
        if layer < depth:
            x = Apply(act, (x,), x.axes, (), span)
    if "layernorm" in flags:
        built.params += [("norm_weight", ("value",), 1.0), ("norm_shift", ("value",), 0.0)]
        affine = (Ref(n, "constant", ("value",), span) for n in ("norm_weight", "norm_shift"))
        x = Apply("layernorm", (x, *affine), x.axes, (("over", ("value",)),), span)
    if "residual" in flags:
        args, axes_ = together("residual", (source, x), sizes.sizes, span)
        x = Apply("add", args, axes_, (), span)
    built.network = Network(source, x, tuple(built.params))
    return built


def _state(
    built: Architecture, name: str, axes: Axes, init: str, sizes: Axis_sizes, span: Span
) -> Ref:
    sizes.claim(name, span, "a weight")
    built.states.append(State(name, axes, init, span))
    return Ref(name, "state", axes, span)


def _activation(node: syntax.Formula) -> str:
    name = node.name if isinstance(node, syntax.Name) else ""
    if POINTWISE.get(name) != 1:
        known = [op for op, places in POINTWISE.items() if places == 1]
        raise problem(
            "M0202",
            "an activation is a function of one number",
            node.span,
            "unknown",
            help=did_you_mean(name, known),
        )
    return name
