"""Stage 3: every formula of a memory as nodes.  The gradient of the bias is derived here."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import sympy as sp

from miras_dsl.codegen.passes.autodiff import gradient, vjp
from miras_dsl.ir import (
    ONE,
    ZERO,
    Input,
    Node,
    Role,
    axes_of,
    axis_of,
    elementwise,
    ordered,
    substitute,
)
from miras_dsl.ir import Number as Constant
from miras_dsl.scalar.functions import OPERANDS
from miras_dsl.source import NOWHERE
from miras_dsl.spec import Expr, Loss, MemorySpec, Number, Ref, State, Write, iter_nodes

from .inputs import (
    gate_input,
    memory_inputs,
    past_input,
    per_pair,
    program_input,
    weight_axes,
    window_inputs,
    written_past,
)
from .lower import lower
from .types import (
    AnchoredLearning,
    ClauseSpans,
    DecayGate,
    ElementFormula,
    MemoryInput,
    MemoryModel,
    StateTensor,
    WeightFormulas,
    WeightTurn,
    Window,
)


def build_model(spec: MemorySpec) -> MemoryModel:
    """The memory's formulas as nodes; weights stand as inputs of role WEIGHT.

    A token with several pairs takes one step for each of them, so the formulas are those of one pair.
    """
    spec = per_pair(spec)

    def name(ref: Ref) -> Node:
        return program_input(ref, spec)

    algorithm, feeds = spec.algorithm, memory_inputs(spec)
    return MemoryModel(
        name=spec.name,
        spans=ClauseSpans(
            memory=spec.span,
            bias=spec.terms[0].span if spec.terms else NOWHERE,
            retention=spec.retention.span,
            algorithm=spec.algorithm.span,
        ),
        params=spec.params,
        sizes=tuple((axis_of(word), size) for word, size in spec.sizes),
        inputs=tuple(feeds.values()),
        weights=tuple(
            StateTensor(s.name, s.name, ordered(axes_of(s.axes)), s.init) for s in spec.states
        ),
        gradients=tuple(_windowed(spec, _gradients(spec, name), name).items()),
        given_write=any(isinstance(term, Write) for term in spec.terms),
        answer=lower(spec.read, name),
        formulas=_weight_formulas(spec),
        decay_gates=tuple(_decay_gates(spec).values()),
        turns=tuple(
            WeightTurn(lower(turn.angle, name), turn.real, turn.imaginary)
            for turn in spec.retention.turns
        ),
        at_chunk=spec.retention.at == "chunk",
        carry=algorithm.carry,
        anchored=_anchored(spec, name),
        window=_window(spec, feeds),
        steps=algorithm.steps,
        pairs=algorithm.pairs,
        implicit=algorithm.implicit,
        reset=algorithm.reset,
        order=spec.order,
    )


def _gradients(spec: MemorySpec, name: Callable[[Ref], Node]) -> dict[str, Node]:
    """The gradient of the bias for each weight, rates applied."""
    points = {s.name: Input(s.name, ordered(axes_of(s.axes)), Role.WEIGHT) for s in spec.states}
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
    return gradients


# ------------------------------------------------------------ windows


def _window(spec: MemorySpec, feeds: dict[str, MemoryInput]) -> Window | None:
    if spec.algorithm.window is None:
        return None
    width, names = spec.algorithm.window[0], window_inputs(spec)
    past = (past_input(feeds[name], age) for age in range(1, width) for name in names)
    return Window(width, names, tuple(past))


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
        there = factor * written_past(age)
        exchange: dict[Node, Node] = {
            feeds[leaf].as_input(): past_input(feeds[leaf], age).as_input()
            for leaf in window_inputs(spec)
        }
        for weight, gradient_ in gradients.items():
            (moved,) = substitute([gradient_], exchange)
            total[weight] = total[weight] + moved * there
    return total


# ------------------------------------------------------------ retention and algorithm


def _weight_formulas(spec: MemorySpec) -> tuple[tuple[str, WeightFormulas], ...]:
    """What retention and algorithm say about each weight, in the order in which their rules run."""
    states = {state.name: state for state in spec.states}
    names = [target for target, _ in spec.algorithm.rules] if spec.algorithm.by_weight else states
    return tuple((name, _formulas(spec, states[name])) for name in names)


def _hole(spec: MemorySpec, word: str, weight: str) -> Input:
    """What stands in a rule for the gradient of a weight (`grad`), its value that the write finds
    (`kept`) and its value as the rules before have left it (`newest`)."""
    axes = ordered(axes_of(weight_axes(spec, weight)))
    return Input(f"{word} {weight}" if spec.algorithm.by_weight else word, axes, Role.HOLE)


def _formulas(spec: MemorySpec, state: State) -> WeightFormulas:
    """What retention and algorithm say about one weight."""
    retention, algorithm = spec.retention, spec.algorithm
    own = axes_of(state.axes)
    axes = ordered(own)
    dual = Input("dual", axes, Role.HOLE)
    carried = {name: Input(f"carried {name}", axes, Role.HOLE) for name in algorithm.carry}
    rules = algorithm.rules
    if algorithm.by_weight:
        rules = tuple(("W", rule) for target, rule in rules if target == state.name)

    def name(ref: Ref) -> Node:
        of = ref.name if algorithm.by_weight else state.name
        match ref.kind:
            case "grad":
                return _hole(spec, "grad", of)
            case "keep":
                return _hole(spec, "kept", of)
            case "weight" | "newest":
                return _hole(spec, "newest", of)
            case "carry":
                return carried[ref.name]
            case "dual":
                return dual
            case _:
                return program_input(ref, spec, state.name)

    return WeightFormulas(
        decays=tuple(_decays(spec, state.name)),
        link=lower(retention.link, name, own) if retention.link is not None else None,
        potential=_element_formula(spec, state.name, retention.bregman),
        penalty=_element_formula(spec, state.name, retention.penalty),
        mass=lower(retention.simplex, name) if retention.simplex is not None else None,
        column=own[-1] if own else None,
        rules=tuple((target, lower(rule, name, own)) for target, rule in rules),
        grad=_hole(spec, "grad", state.name),
        kept=_hole(spec, "kept", state.name),
        newest=_hole(spec, "newest", state.name),
        carried=tuple(carried.items()),
        dual=dual,
    )


def _element_formula(spec: MemorySpec, weight: str, formula: Expr | None) -> ElementFormula | None:
    """A potential or penalty over `w` and `w0`, with the axes that these have in it."""
    if formula is None:
        return None
    elements = (n for n in iter_nodes(formula) if isinstance(n, Ref) and n.kind == "dual")
    axes = axes_of(next((element.axes for element in elements), ()))
    unknown, before = Input("w", axes, Role.HOLE), Input("w0", axes, Role.HOLE)

    def name(ref: Ref) -> Node:
        if ref.kind == "dual":
            return unknown if ref.name == "w" else before
        return program_input(ref, spec, weight)

    return ElementFormula(lower(formula, name), unknown, before)


def _decays(spec: MemorySpec, weight: str) -> Iterator[Node]:
    """The factors of a weight at each token: e^log, the form that chains, where there is a logarithm."""
    gates = _decay_gates(spec)
    for decay in spec.retention.factors(weight):
        if isinstance(decay, Number):
            yield Constant(decay.value)
        elif gates[decay.name].signed:
            yield gate_input(decay.name, spec, weight)
        else:
            log = gate_input(decay.name, spec, weight, log=True)
            yield elementwise(sp.exp(OPERANDS[0]), log)


def _decay_gates(spec: MemorySpec) -> dict[str, DecayGate]:
    """The gates that are decays, by name."""
    found: dict[str, DecayGate] = {}
    read = {
        ref.name
        for formula in _learning_formulas(spec)
        for ref in iter_nodes(formula)
        if isinstance(ref, Ref)
    }
    for decay in spec.retention.decays:
        if isinstance(factor := decay.factor, Ref):
            declared = next(gate for gate in spec.gates if gate.name == factor.name)
            signed, shared = declared.range.low < 0, factor.name in read
            found[factor.name] = DecayGate(factor.name, signed, shared)
    return found


def _learning_formulas(spec: MemorySpec) -> Iterator[Expr]:
    """The formulas of rules, rates, losses and the answer: what happens in each step of a token."""
    yield from (formula for _, formula in spec.algorithm.rules)
    for term in spec.terms:
        yield term.rate
        yield term.loss if isinstance(term, Loss) else term.error
    yield spec.read


def _anchored(spec: MemorySpec, name: Callable[[Ref], Node]) -> AnchoredLearning | None:
    anchored = spec.algorithm.anchored
    if anchored is None:
        return None
    scale = lower(anchored.scale, name) if anchored.scale is not None else None
    return AnchoredLearning(anchored.block, anchored.sweeps, anchored.reads == "start", scale)
