"""The card of a memory: what it is, holds, costs and forgets, and what runs where.

Everything is read off what the compiler made; only sentences that cite a line know the spec.
"""

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp

from miras_dsl.codegen.emit.identifiers import source_ref
from miras_dsl.codegen.model.types import MemoryInput
from miras_dsl.codegen.pipeline import CompiledMemory
from miras_dsl.codegen.plan.check.cost import cost, flops_formula
from miras_dsl.codegen.plan.kernel_plan import Phase
from miras_dsl.codegen.plan.token.legality import unsupported_reason
from miras_dsl.ir import Axis, axis_names
from miras_dsl.scalar.interval import Interval
from miras_dsl.source import NOWHERE, Span

from .decays import FADED, WITHIN, Decay, decays, gate_range
from .gate_starts import gate_starts
from .types import Card, Depth, GateRow, StateRow, Work

SIZE = 64
"""The value of a size parameter that the spec leaves open."""
TOKENS = 1024
"""The length of the sequence whose sequential depth is given."""
BYTES = 4
"""Of a number of the state, which is kept in single precision at least."""

CLASS_REASONS = {
    "additive": "what a token writes does not depend on what the memory holds",
    "anchored": "gradients are taken at the block's first weights; no token changes them",
    "sweeps": "each course learns from the one before it, and the first from the block's start",
}


def card_of(d: CompiledMemory, reasons: tuple[str, ...] = ()) -> Card:
    """The card of a compiled memory; ``reasons`` are further sentences about its class."""
    model, sizes = d.model, {name: default or SIZE for name, default in d.model.params}
    extents = {axis: _value(size, sizes) for axis, size in _axis_sizes(d).items()}
    starts = gate_starts(d.module, sizes)
    found = decays(d.rule, starts)
    depth = d.depth(TOKENS)
    return Card(
        name=model.name,
        place=source_ref(model.spans.memory),
        family=d.family,
        reasons=(*_class_reasons(d), *reasons),
        sizes=sizes,
        state=(*_weights(d, extents), *_window(d, extents)),
        state_numbers=_spelled(state_size(d)),
        state_bytes=BYTES * _value(state_size(d), sizes),
        gates=tuple(_gate(d, given, starts[given.of, given.weight]) for given in _gates(d)),
        decays=found,
        chunk=d.plan.chunk if d.form is not None else 1,
        training=_work(d, extents, Phase.FORWARD if d.form is not None else Phase.STEP),
        decoding=_work(d, extents, Phase.STEP),
        depth=Depth(TOKENS, depth.walks, depth.rows, depth.steps),
        cpu=_on_cpu(d),
        gpu=_on_gpu(d),
        warnings=_warnings(found),
    )


def _axis_sizes(d: CompiledMemory) -> dict[Axis, sp.Expr]:
    """The size of every axis, also of the second ones that a product of a matrix with itself has."""
    sizes = dict(d.model.sizes)
    words = {axis.name: size for axis, size in sizes.items()}
    for value in d.plan.values:
        for axis in value.node.axes:
            if axis not in sizes and axis.name.rstrip("~") in words:
                sizes[axis] = words[axis.name.rstrip("~")]
    return sizes


def _weights(d: CompiledMemory, extents: Mapping[Axis, int]) -> list[StateRow]:
    """The carried tensors of the rule."""
    rows = []
    for state in d.rule.state_tensors:
        axes = _written_axes(d, state.of, state.axes)
        starts = f"as {state.of}" if state.init == "weight" else state.init
        shape = tuple(extents[axis] for axis in axes)
        rows.append(StateRow(state.name, axis_names(axes), shape, starts, state.kind.name.lower()))
    return rows


def _window(d: CompiledMemory, extents: Mapping[Axis, int]) -> list[StateRow]:
    """The last tokens of a memory that learns from several."""
    rows = []
    for given in _carried_tokens(d):
        shape = (_past(d), *(extents[axis] for axis in given.axes))
        axes = ("token", *axis_names(given.axes))
        rows.append(StateRow(f"window.{given.name}", axes, shape, "zero", "window"))
    return rows


def _carried_tokens(d: CompiledMemory) -> list[MemoryInput]:
    return [given for given in d.model.inputs if given.name in d.model.window_inputs]


def _past(d: CompiledMemory) -> int:
    return d.model.window.width - 1 if d.model.window else 0


def state_size(d: CompiledMemory) -> sp.Expr:
    """How many numbers one head carries from token to token, over the memory's parameters."""
    sizes = dict(d.model.sizes)
    each = [sp.prod([sizes[axis] for axis in state.axes]) for state in d.rule.state_tensors]
    each += [
        _past(d) * sp.prod([sizes[axis] for axis in given.axes]) for given in _carried_tokens(d)
    ]
    return sp.expand(sp.Add(*each))


def _written_axes(d: CompiledMemory, weight: str, axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
    """The axes of a weight as the spec writes them, rows first."""
    written = d.module.weight(weight).axes
    return written if set(written) == set(axes) else axes


def _value(size: sp.Expr, sizes: Mapping[str, int]) -> int:
    return int(size.subs({symbol: sizes[str(symbol)] for symbol in size.free_symbols}))


def _spelled(size: sp.Expr) -> str:
    """A size as the language writes it."""
    return str(size).replace("**", "^").replace("*", " * ")


def _work(d: CompiledMemory, extents: Mapping[Axis, int], phase: Phase) -> Work:
    steps = d.rule.steps_per_token
    tokens = TOKENS if phase is not Phase.STEP else 1
    total = cost(d.plan, extents, tokens * steps if tokens > 1 else 1, phase)
    often = steps if tokens == 1 else 1
    formula = flops_formula(d.plan, _axis_sizes(d), phase) * steps
    return Work(total.flops * often // tokens, _leading(formula), total.bytes * often // tokens)


def _leading(formula: sp.Expr) -> str:
    """The terms of highest degree of a count, and that there are others."""
    terms = sp.Add.make_args(sp.expand(formula))
    degree = {t: sp.Poly(t).total_degree() if t.free_symbols else 0 for t in terms}
    most = max(degree.values())
    kept = [t.as_coeff_Mul() for t in terms if degree[t] == most]
    said = [f"{float(n):.4g}" + (f" * {_spelled(rest)}" if rest != 1 else "") for n, rest in kept]
    return " + ".join(said) + (" + …" if len(terms) > len(kept) else "")


# ------------------------------------------------------------ sentences


def _class_reasons(d: CompiledMemory) -> tuple[str, ...]:
    """Why a memory is in its class, or has no chunk form, each with the line that it comes from."""
    spans = d.model.spans
    if d.form is None:
        return (f"{d.obstacle}{_cited(_obstacle_span(d))}",)
    if d.form.family in CLASS_REASONS:
        span = spans.bias if d.form.family == "additive" else spans.algorithm
        said = d.form.evidence or (CLASS_REASONS[d.form.family],)
        return tuple(f"{sentence}{_cited(span)}" for sentence in said)
    return tuple(f"{sentence}{_cited(spans.bias)}" for sentence in d.form.evidence)


def _obstacle_span(d: CompiledMemory) -> Span:
    """The clause that is most likely in the way of a chunk form."""
    model = d.model
    formulas = [f for _, f in model.formulas]
    mirrored = any(f.link or f.potential or f.penalty for f in formulas)
    if (mirrored and not model.at_chunk) or any(gate.signed for gate in model.decay_gates):
        return model.spans.retention
    return model.spans.algorithm if model.implicit or len(formulas) > 1 else model.spans.bias


def _cited(span: Span) -> str:
    return "" if span is NOWHERE else f" ({source_ref(span)})"


def _on_cpu(d: CompiledMemory) -> str:
    if d.form is None:
        return f"PyTorch, token by token: {d.obstacle}"
    rows = d.depth(TOKENS).rows
    inside = ", whose rows are solved one after the other" if rows else ""
    return f"PyTorch, chunks of {d.plan.chunk} tokens{inside}"


def _on_gpu(d: CompiledMemory) -> str:
    if d.kernel_plan is not None:
        return (
            "Triton kernels, token by token with the state on chip; float64 and MIRAS_KERNELS=off run "
            "the PyTorch text; kernels for whole chunks are not generated yet"
        )
    return f"the PyTorch text; no Triton kernel, since {unsupported_reason(d.rule)}"


def _warnings(found: tuple[Decay, ...]) -> tuple[str, ...]:
    return tuple(
        f"the learned start of {', '.join(decay.states)} fades below {FADED:.0%} within {decay.fades:,} "
        f"tokens (limit {WITHIN:,}): at first a token keeps {_share(decay)} of it"
        for decay in found
        if decay.fades is not None
    )


def _share(decay: Decay) -> str:
    return f"{max(abs(decay.start.low), abs(decay.start.high)):.4g}"


# ------------------------------------------------------------ gates


def _gates(d: CompiledMemory) -> list[MemoryInput]:
    """One input for each gate that the programs read: the gate itself where there are both."""
    used = {(g.of, g.weight): g for g in d.inputs if g.kind in ("gate", "position")}
    plain = {(g.of, g.weight): g for g in d.inputs if not g.log and (g.of, g.weight) in used}
    return list((used | plain).values())


def _gate(d: CompiledMemory, given: MemoryInput, start: Interval) -> GateRow:
    range_ = gate_range(given)
    formula = next(g.expr.span for g in d.spec.gates if g.name == given.of)
    return GateRow(
        name=given.of,
        weight=given.weight,
        axes=axis_names(given.axes),
        written=" ".join(formula.text.split()),
        place=source_ref(given.span),
        low=range_.low,
        high=range_.high,
        start_low=start.low,
        start_high=start.high,
    )
