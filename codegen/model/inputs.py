"""The inputs of a memory's programs: which token, gate or constant of the spec each of them is."""

from __future__ import annotations

from dataclasses import replace as replace_fields

from miras_dsl.ir import Axes, I, Input, Node, Role, axes_of, axis_of, ordered
from miras_dsl.scalar.interval import log_range
from miras_dsl.spec import Apply, Expr, Loss, MemorySpec, Ref, Write, iter_nodes

from .lower import size_of
from .types import MemoryInput

POSITION = Input("position", (), Role.POSITION)
"""The program input that counts a token's place in its block, from 1."""
VALID = Input("valid", (I,), Role.PREDICATE)
"""1 for a token, 0 for padding: a padded row writes nothing and passes nothing on."""
WORDS = frozenset({
    "cu_seqlens", "feeds", "one", "ops", "recurrent", "runner", "size", "state", "torch",
    "valid", "y", "zero",
})  # fmt: skip
"""Words that generated functions have for things of their own."""


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


def past_input(feed: MemoryInput, age: int) -> MemoryInput:
    """The same input, so many tokens earlier."""
    return replace_fields(feed, name=f"{feed.name}_past{age}")


def written_past(age: int) -> Input:
    """Whether there was a token so many tokens earlier."""
    return Input(f"written_past{age}", (), Role.PREDICATE)


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
            return Input(ref.name, ordered(axes_of(ref.axes)), Role.WEIGHT)
        case "constant":
            return Input(input_name(ref.name, spec), axes_of(ref.axes), Role.CONSTANT)
        case "size":
            return size_of(ref.name, {axis_of(word): size for word, size in spec.sizes})
        case "position":
            return POSITION
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
    feeds: list[MemoryInput] = []
    for token in spec.tokens:
        name = input_name(token.name, spec)
        axes = axes_of(token.axes)
        feeds.append(MemoryInput(name, token.name, "token", axes, span=token.span))
    for gate in spec.gates:
        kind = "position" if "position" in gate.axes else "gate"
        own = input_name(gate.name, spec)
        for state in spec.states if "row" in gate.axes else (None,):
            name = f"{own}_{state.name}" if state else own
            words = state.with_rows(gate.axes) if state else gate.axes
            for log in (False, True):
                feeds.append(
                    MemoryInput(
                        name=f"log_{name}" if log else name,
                        of=gate.name,
                        kind=kind,
                        axes=axes_of(words),
                        weight=state.name if state else None,
                        log=log,
                        range=log_range(gate.range) if log else gate.range,
                        span=gate.span,
                    )
                )
    for constant, axes, _ in spec.network.params:
        feeds.append(MemoryInput(input_name(constant, spec), constant, "constant", axes_of(axes)))
    return {feed.name: feed for feed in feeds}
