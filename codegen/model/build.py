"""Stage 3: a memory's bias, read and gates as nodes.  The gradient of the bias is derived here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace as replace_fields

from miras_dsl.codegen.passes.affine_state import AffineUpdate
from miras_dsl.codegen.passes.autodiff import gradient, vjp
from miras_dsl.codegen.passes.inline_maps import has_logarithm
from miras_dsl.ir import (
    ONE,
    ZERO,
    Axes,
    Input,
    Node,
    Role,
    axes_of,
    axis_of,
    elementwise,
    inputs_of,
    ordered,
    substitute,
)
from miras_dsl.scalar.functions import OPERANDS
from miras_dsl.spec import Apply, Expr, Loss, MemorySpec, Ref, Write, iter_nodes

from .lower import lower, size_of
from .types import MemoryInput, MemoryModel, StateTensor

POSITION = "position"
"""The program input that counts a token's place in its block, from 1."""
WORDS = frozenset({
    "cu_seqlens", "feeds", "one", "ops", "recurrent", "runner", "size", "state", "torch",
    "valid", "y", "zero",
})  # fmt: skip
"""Words that generated functions have for things of their own."""


def build_model(spec: MemorySpec) -> MemoryModel:
    """The memory's formulas as nodes; weights stand as inputs of kind ``point``.

    A token with several pairs takes one step for each of them, so the formulas are those of one pair.
    """
    spec = per_pair(spec)

    def name(ref: Ref) -> Node:
        return program_input(ref, spec)

    points = {s.name: Input(s.name, axes_of(s.axes), Role.WEIGHT) for s in spec.states}
    gradients: dict[str, Node] = {state: ZERO for state in points}
    for term in spec.terms:
        match term:
            case Loss():
                loss = lower(term.loss, name)
                shares = {w: gradient(loss, points[w]) for w in points}
            case Write():
                answer, error = lower(term.answer, name), lower(term.error, name)
                found = vjp({answer: error}, points.values())
                shares = {w: found[points[w]] for w in points}
        for w in points:
            rate = lower(term.rate, lambda ref, w=w: program_input(ref, spec, w))
            gradients[w] = gradients[w] + rate * shares[w]
    gradients = _windowed(spec, gradients, name)
    return MemoryModel(
        name=spec.name,
        spec=spec,
        feeds=tuple(memory_inputs(spec).values()),
        weights=tuple(
            StateTensor(s.name, s.name, ordered(axes_of(s.axes)), s.init) for s in spec.states
        ),
        gradients=tuple(gradients.items()),
        answer=lower(spec.read, name),
        retention=spec.retention,
        algorithm=spec.algorithm,
        order=spec.order,
        sizes=tuple((axis_of(word), size) for word, size in spec.sizes),
    )


def window_inputs(spec: MemorySpec) -> tuple[str, ...]:
    """The tokens and gates whose past a memory with a window learns from again."""
    if spec.algorithm.window is None:
        return ()
    formulas: list[Expr] = []
    for term in spec.terms:
        match term:
            case Loss():
                formulas += [term.loss, term.rate]
            case Write():
                formulas += [term.error, term.place, term.answer, term.rate]
    used = {
        r.name
        for f in formulas
        for r in iter_nodes(f)
        if isinstance(r, Ref) and r.kind in ("token", "gate")
    }
    return tuple(
        name for name, feed in memory_inputs(spec).items() if feed.of in used and not feed.log
    )


def _windowed(
    spec: MemorySpec, gradients: dict[str, Node], name: Callable[[Ref], Node]
) -> dict[str, Node]:
    """The gradient of the last tokens together, older ones discounted: the same formula over inputs
    `key_past1` …, where such a token was there (`written_past1`)."""
    if spec.algorithm.window is None:
        return gradients
    width, formula = spec.algorithm.window
    discount, feeds = lower(formula, name), memory_inputs(spec)
    factor: Node = ONE
    total = dict(gradients)
    for age in range(1, width):
        factor = factor * discount
        there = factor * Input(f"written_past{age}", (), Role.PREDICATE)
        exchange: dict[Node, Node] = {
            feeds[leaf].as_input(): replace_fields(feeds[leaf], name=f"{leaf}_past{age}").as_input()
            for leaf in window_inputs(spec)
        }
        for weight, gradient_ in gradients.items():
            (moved,) = substitute([gradient_], exchange)
            total[weight] = total[weight] + moved * there
    return total


def per_pair(spec: MemorySpec) -> MemorySpec:
    """The spec with formulas for a single pair: the `pair` axis is gone."""
    if spec.algorithm.pairs == 1:
        return spec

    def strip(expr: Expr) -> Expr:
        axes = tuple(axis for axis in expr.axes if axis != "pair")
        match expr:
            case Apply():
                options = tuple(
                    (
                        name,
                        tuple(a for a in value if a != "pair")
                        if name == "over" and isinstance(value, tuple)
                        else value,
                    )
                    for name, value in expr.options
                )
                return replace_fields(
                    expr, args=tuple(strip(a) for a in expr.args), axes=axes, options=options
                )
            case _:
                return replace_fields(expr, axes=axes)

    def term(old: Loss | Write) -> Loss | Write:
        match old:
            case Loss():
                return replace_fields(old, loss=strip(old.loss), rate=strip(old.rate))
            case Write():
                return replace_fields(
                    old,
                    error=strip(old.error),
                    place=strip(old.place),
                    answer=strip(old.answer),
                    rate=strip(old.rate),
                )

    def bare(axes: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(axis for axis in axes if axis != "pair")

    return replace_fields(
        spec,
        terms=tuple(term(t) for t in spec.terms),
        tokens=tuple(replace_fields(t, axes=bare(t.axes)) for t in spec.tokens),
        gates=tuple(replace_fields(g, axes=bare(g.axes)) for g in spec.gates),
        algorithm=replace_fields(
            spec.algorithm, rules=tuple((name, strip(e)) for name, e in spec.algorithm.rules)
        ),
        read=strip(spec.read),
    )


def program_input(ref: Ref, spec: MemorySpec, weight: str | None = None) -> Node:
    """What a name of a formula is in a program; ``weight`` says whose row a gate per row steers."""
    match ref.kind:
        case "token":
            return Input(input_name(ref.name, spec), axes_of(ref.axes), Role.TOKEN)
        case "gate":
            return gate_input(ref.name, spec, weight)
        case "state":
            return Input(ref.name, axes_of(ref.axes), Role.WEIGHT)
        case "constant":
            return Input(input_name(ref.name, spec), axes_of(ref.axes), Role.CONSTANT)
        case "size":
            return size_of(ref.name, {axis_of(word): size for word, size in spec.sizes})
        case "position":
            return Input(POSITION, (), Role.POSITION)
        case _:
            raise AssertionError(f"a {ref.kind} has no place in a bias or read")


def gate_input(gate: str, spec: MemorySpec, weight: str | None, log: bool = False) -> Input:
    """The program input of a gate, or of its logarithm."""
    declared = next(g for g in spec.gates if g.name == gate)
    name, axes = input_name(gate, spec), declared.axes
    if "row" in axes:
        assert weight is not None, f"{gate}[row] is used outside a weight's own rule"
        name, axes = f"{name}_{weight}", weight_axes(spec, weight)[:1]
    if "position" in axes:
        axes = ()
    return Input(f"log_{name}" if log else name, axes_of(axes), Role.GATE)


def input_name(name: str, spec: MemorySpec) -> str:
    """What a token, gate or constant is called in programs: by its name, unless that could also be
    the name of a state, a cotangent or something else that generated code has."""
    owners = [*(s.name for s in spec.states), *spec.algorithm.carry]
    owners += [g.name for g in spec.gates if "row" in g.axes]
    meant = name in WORDS or name.startswith(("in_", "log_", "d_", "open_")) or "_past" in name
    return f"in_{name}" if meant or any(name.startswith(f"{o}_") for o in owners) else name


def weight_axes(spec: MemorySpec, weight: str) -> tuple[str, ...]:
    """The words for the axes of a weight, outputs first."""
    return next(s.axes for s in spec.states if s.name == weight)


def row_and_column(spec: MemorySpec, weight: str) -> Axes:
    """The axes that formulas for every weight call `row` and `column`."""
    return axes_of(weight_axes(spec, weight))


def memory_inputs(spec: MemorySpec) -> dict[str, MemoryInput]:
    """Every input that programs of this memory may have, by name."""
    feeds: dict[str, MemoryInput] = {}
    for token in spec.tokens:
        name = input_name(token.name, spec)
        feeds[name] = MemoryInput(name, token.name, "token", axes_of(token.axes))
    for gate in spec.gates:
        kind = "position" if "position" in gate.axes else "gate"
        own = input_name(gate.name, spec)
        if "row" in gate.axes:
            for state in spec.states:
                for log in (False, True):
                    name = f"{'log_' if log else ''}{own}_{state.name}"
                    axes = tuple(state.axes[0] if a == "row" else a for a in gate.axes)
                    feeds[name] = MemoryInput(name, gate.name, kind, axes_of(axes), state.name, log)
            continue
        for log in (False, True):
            name = f"log_{own}" if log else own
            feeds[name] = MemoryInput(name, gate.name, kind, axes_of(gate.axes), None, log)
    for constant, axes, _ in spec.network.params:
        name = input_name(constant, spec)
        feeds[name] = MemoryInput(name, constant, "constant", axes_of(axes))
    return feeds


def signed_gates(spec: MemorySpec) -> set[str]:
    """The gates that may be negative: they have no logarithm."""
    return {gate.name for gate in spec.gates if gate.range.low < 0}


def with_logarithms(
    linear: Mapping[Input, AffineUpdate], spec: MemorySpec
) -> dict[Input, AffineUpdate]:
    """Every state's factor of itself with its gates written as e^log, the form that chains; the same
    gates are written so where they multiply another state.

    A factor stays as it is where it has no logarithm: it is no product, or a gate in it may be negative.
    """
    feeds, signed = memory_inputs(spec), signed_gates(spec)

    def chained(node: Node, only: set[str] | None) -> Node:
        gates = [feeds[x.name] for x in inputs_of([node]) if x.name in feeds]
        gates = [g for g in gates if g.kind in ("gate", "position") and not g.log]
        if not has_logarithm(node) or any(g.of in signed for g in gates):
            return node
        exchange: dict[Node, Node] = {
            g.as_input(): exp(gate_input(g.of, spec, g.weight, log=True))
            for g in gates
            if only is None or g.of in only
        }
        return substitute([node], exchange)[0] if exchange else node

    own = {s: chained(c, None) for s, form in linear.items() for t, c in form.keep if t is s}
    logs = {
        feeds[x.name].of for x in inputs_of(own.values()) if x.name in feeds and feeds[x.name].log
    }
    return {
        s: AffineUpdate(
            tuple((t, own[s] if t is s else chained(c, logs)) for t, c in form.keep), form.writes
        )
        for s, form in linear.items()
    }


def exp(x: Node) -> Node:
    """e^x."""
    import sympy as sp

    return elementwise(sp.exp(OPERANDS[0]), x)
