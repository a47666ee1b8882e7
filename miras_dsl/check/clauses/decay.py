"""Decays: the factors of what a memory carries, at every token."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from miras_dsl.check.formula.complex_parts import real_formula
from miras_dsl.check.formula.elaborate import Scope, elaborate
from miras_dsl.check.formula.functions.call_arguments import REQUIRED, arguments
from miras_dsl.check.formula.hoist_projections import Hoisted, gate_of
from miras_dsl.check.formula.shapes import shown
from miras_dsl.diagnostics import Label, problem
from miras_dsl.source import Span
from miras_dsl.spec import (
    Algorithm,
    Apply,
    Axes,
    Decay,
    Expr,
    Gate,
    Interval,
    Number,
    Ref,
    Retention,
    State,
    Turn,
)
from miras_dsl.syntax import tree as syntax


def decays_of(
    form: syntax.Form,
    scope: Scope,
    hoisted: Hoisted,
    states: list[State],
    named: bool,
    pairs: Iterable[tuple[State, State]],
) -> tuple[tuple[Decay, ...], tuple[Turn, ...]]:
    """What `decay …` gives to each of ``states``: factors, and angles of complex weights.  Raises Problem.

    `outer(a, b)` gives two factors, `polar(r, t)` a factor and an angle.

    named  the retention is written for these weights, not for every weight of the memory
    pairs  the real and imaginary parts of complex weights
    """
    value = form.value
    inner = replace(scope, place="a decay")
    if isinstance(value, syntax.Call) and value.name == "polar":
        length, angle = _polar(value, inner, hoisted, states, pairs)
        own = [pair for pair in pairs if pair[0] in states]
        turns = tuple(Turn(angle, real.name, imaginary.name) for real, imaginary in own)
        return _factors_of(length, value.span, hoisted, states, named), turns
    expr = real_formula(
        elaborate(value, inner), "a decay that is not written `polar(length, angle)`"
    )
    return _factors_of(expr, value.span, hoisted, states, named), ()


def _polar(
    value: syntax.Call,
    scope: Scope,
    hoisted: Hoisted,
    states: list[State],
    pairs: Iterable[tuple[State, State]],
) -> tuple[Expr, Ref | Number]:
    """The length and the angle of a complex decay.  Raises Problem."""
    real = [s for s in states if not any(s in pair for pair in pairs)]
    if real:
        raise problem(
            "M0510",
            f"`{real[0].name}` is real, and this decay is complex",
            value.span,
            "turns what it keeps",
            because=(Label(real[0].span, "a real weight"),),
            help="declare it complex, `h: vector[d, complex]` or `W: matrix[value, key, complex]`",
        )
    given = arguments(value, {"length": REQUIRED, "angle": REQUIRED})
    length, turn = (
        real_formula(elaborate(given[n], scope), "each part") for n in ("length", "angle")
    )
    angle = gate_of(turn, hoisted, "an angle", "M0510", given["angle"].span)
    _fits(angle, given["angle"].span, states)
    return length, angle


def _factors_of(
    expr: Expr, span: Span, hoisted: Hoisted, states: list[State], named: bool
) -> tuple[Decay, ...]:
    found = []
    for part in _factors(expr, states):
        factor = gate_of(part, hoisted, "a decay", "M0510", span)
        _fits(factor, span, states)
        if isinstance(factor, Number) and factor.value < -1:
            raise problem(
                "M0502",
                "a decay cannot be below -1",
                span,
                "too low",
                help="a decay is the share that is kept: between 0 and 1, or -1 and 1 where it may turn",
            )
        found.append(Decay(factor, tuple(s.name for s in states) if named else ()))
    return tuple(found)


def _factors(expr: Expr, states: list[State]) -> Iterator[Expr]:
    """The factors of a decay: one for the rows and one for the columns, where it is an outer product."""
    match expr:
        case Apply("outer", (left, right)) if all(set(expr.axes) <= set(s.axes) for s in states):
            yield from (left, right)
        case _:
            yield expr


def _fits(decay: Ref | Number, span: Span, states: list[State]) -> None:
    """Raise Problem for a decay that is no number and does not run along one axis of every weight."""
    lacking = [s for s in states if any(a not in ("row", *s.axes) for a in decay.axes)]
    if not lacking and len(decay.axes) <= 1:
        return
    raise problem(
        "M0510",
        f"a decay of shape {shown(decay.axes)} does not fit the weights of this memory",
        span,
        f"{shown(decay.axes)} here",
        because=tuple(
            Label(s.span, f"{s.name} is {shown(s.axes)}") for s in (lacking or states)[:2]
        ),
        help="a decay is one number, or has one axis of every weight, or `[row]`; weights may be kept "
        "apart, `retention A: decay a, B: none`, and `decay outer(a, b)` has a factor for each row and "
        "one for each column",
    )


def row_decay_axes(made: Retention, states: list[State]) -> Axes | None:
    """The axes of the first decay that is not the same along each row; None where all are."""
    rows = ((), ("row",))
    for state in states:
        for factor in made.factors(state.name):
            if factor.axes not in (*rows, state.axes[:1]):
                return factor.axes
    return None


def constant_decays_as_gates(
    kept: Retention, gates: tuple[Gate, ...], steps: int
) -> tuple[Retention, tuple[Gate, ...]]:
    """Constant decays as gates, if a token takes several steps: only one of them decays."""
    if steps == 1:
        return kept, gates
    made = list(gates)
    decays = []
    for number, decay in enumerate(kept.decays):
        if isinstance(factor := decay.factor, Number):
            value, name = float(factor.value), f"_decay{number or ''}"
            made.append(Gate(name, (), factor, Interval(value, value), factor.span))
            decay = replace(decay, factor=Ref(name, "gate", (), factor.span))
        decays.append(decay)
    return replace(kept, decays=tuple(decays)), tuple(made)


def check_decay_range(kept: Retention, gates: tuple[Gate, ...]) -> None:
    """Raise Problem for a decay that can be below -1."""
    used = {d.factor.name: d.factor for d in kept.decays if isinstance(d.factor, Ref)}
    for gate in gates:
        if gate.name in used and gate.range.low < -1:
            low, high = gate.range.low, gate.range.high
            raise problem(
                "M0502",
                f"the decay `{gate.name}` can be below -1",
                gate.span,
                f"lies between {low:g} and {high:g}",
                because=(Label(used[gate.name].span, "used as a decay here"),),
                help="a decay keeps a share: `sigmoid(linear(x))` lies between 0 and 1, "
                "`tanh(linear(x))` between -1 and 1",
            )


def check_turns_once(kept: Retention, learned: Algorithm) -> None:
    """Raise Problem for a complex decay of a token that takes several steps: it would turn in each."""
    if kept.turns and max(learned.steps, learned.pairs) > 1:
        raise problem(
            "M0608",
            "a token of several steps cannot turn a complex weight",
            kept.span,
            "turns once a token",
            because=(Label(learned.span, "several steps here"),),
            help="learn from one pair a token, or let the decay be real",
        )
