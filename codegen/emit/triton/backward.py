"""The slots of the backward template: a segment's states again, then its tokens in reverse."""

from __future__ import annotations

from miras_dsl.codegen.emit.identifiers import source_ref
from miras_dsl.codegen.plan.token_kernels import RecurrentPlan
from miras_dsl.ir import VALUE, Input, Role

from .frame import (
    KernelNames,
    Line,
    Variable,
    assign_back,
    block_edge_lines,
    frame_slots,
    given_shapes,
    names_of,
    reads,
    shape,
    targets,
)
from .printer import Target, zeros

Inputs = list[tuple[Input, Variable]]
"""Tokens and constants with their variables."""


def backward(plan: RecurrentPlan, prefix: str) -> dict[str, object]:
    """What the template asks for."""
    names = names_of(plan)
    states = [_state(plan, names, x) for x in plan.states]
    constants = [_constant(plan, names, x) for x in plan.constants]
    tokens = [_token(plan, names, x) for x in plan.tokens]
    inputs: Inputs = [
        *zip(plan.tokens, tokens, strict=True),
        *zip(plan.constants, constants, strict=True),
    ]
    turns = [p for t in (plan.refresh, plan.close) if t for p in t]
    forward = [t[0] for t in (plan.refresh, plan.close) if t]
    again, seen = reads(plan.walk, *forward), reads(plan.back, plan.walk, *turns)
    if plan.close is None:
        seen -= reads(plan.walk) - reads(plan.back, *turns)
    pointers = [names.of[x] for x in (*plan.tokens, *plan.constants)] + ["d_y"]
    for part in ("kept", "past", "d_end"):
        pointers += [getattr(v, part) for v in states]
    pointers += [v.d for v in (*tokens, *constants, *states)]
    refresh = block_edge_lines(plan, names, states, "open")
    ends = block_edge_lines(plan, names, states, "shut")
    return {
        **frame_slots(plan, prefix, pointers, _shapes(plan, names, tokens, constants, states)),
        "title": f"Gradients of {plan.rule.name} ({source_ref(plan.rule.model.spans.memory)}), "
        "from the last token to the first:",
        "again": [v for x, v in inputs if x in again and x in plan.tokens],
        "seen": [v for x, v in inputs if x in seen and x in plan.tokens],
        "tokens": tokens,
        "constants": constants,
        "states": states,
        "refresh": refresh + assign_back(states, "open") if refresh else [],
        "walk": names.writer.lines(targets(plan, states, plan.walk, "next"), names.of),
        "close": ends + assign_back(states, "shut") if ends else [],
        "reopen": block_edge_lines(plan, names, states, "open"),
        "reclose": _adjoint_at_block_end(plan, names, states, inputs),
        "back": _back(plan, names, states, inputs),
        "unopen": _adjoint_at_block_start(plan, names, states, inputs),
        "y": (VALUE,),
    }


def _share(plan: RecurrentPlan, x: Input, share: str, whole: str) -> str:
    """The row of a gradient: its own for each block of values, if each has only a share of it."""
    return share if plan.split and VALUE not in x.axes else whole


def _state(plan: RecurrentPlan, names: KernelNames, x: Input) -> Variable:
    name = names.of[x]
    d = names.new(f"d_{name}")
    return Variable(
        name,
        x.axes,
        d,
        row=_share(plan, x, "share", "i_nh"),
        next=names.new(f"{name}_next"),
        open=names.new(f"{name}_open") if plan.refresh else name,
        shut=names.new(f"{name}_shut"),
        kept=names.new(f"{name}_kept"),
        past=names.new(f"{name}_past"),
        past_row="past_v" if plan.split and VALUE in x.axes else "past",
        d_end=names.new(f"{d}_end"),
        d_next=names.new(f"{d}_next"),
        partial=f"d_{x.name}" in plan.partial,
    )


def _constant(plan: RecurrentPlan, names: KernelNames, x: Input) -> Variable:
    d = names.new(f"d_{names.of[x]}")
    row, total = _share(plan, x, "share", "i_nh"), names.new(f"{d}_total")
    return Variable(names.of[x], x.axes, d, row, total=total, zeros=zeros(x.axes))


def _token(plan: RecurrentPlan, names: KernelNames, x: Input) -> Variable:
    d = names.new(f"d_{names.of[x]}")
    return Variable(names.of[x], x.axes, d, _share(plan, x, "share", "row"), zeros=zeros(x.axes))


def _inside(
    plan: RecurrentPlan, names: KernelNames, states: list[Variable], at: str, d: str
) -> dict[Input, str]:
    """Names for an adjoint: states as they were (`at`), and the cotangents that come in (`d`)."""
    inside = dict(names.of)
    for x, v in zip(plan.states, states, strict=True):
        inside[x] = getattr(v, at)
        inside[Input(f"d_{x.name}", x.shape, Role.STATE)] = getattr(v, d)
    return inside


def _back(
    plan: RecurrentPlan, names: KernelNames, states: list[Variable], inputs: Inputs
) -> list[str]:
    """The adjoint of the step.  Where blocks turn, gradients get their full shape: a branch may
    add to them."""
    turns = bool(plan.refresh or plan.close)
    inside = _inside(plan, names, states, "open", "d")
    inside[Input("d_y", (VALUE,), Role.COTANGENT)] = "d_y"
    results = dict(plan.back.results)
    wanted, absent = [], []
    for x, v in inputs:
        if f"d_{x.name}" in results:
            wanted.append(Target(v.d, x.axes, results[f"d_{x.name}"], turns))
        else:
            absent.append(f"{v.d} = {zeros(x.axes)}")
    for x, v in zip(plan.states, states, strict=True):
        wanted.append(Target(v.d_next, x.axes, results[f"d_{x.name}"], True))
    return absent + names.writer.lines(wanted, inside)


def _adjoint_at_block_start(
    plan: RecurrentPlan, names: KernelNames, states: list[Variable], inputs: Inputs
) -> list[str]:
    """The adjoint of what happens where a block begins."""
    if plan.refresh is None:
        return []
    inside = _inside(plan, names, states, "name", "d_next")
    results = dict(plan.refresh[1].results)
    wanted, after = [], []
    for x, v in zip(plan.states, states, strict=True):
        made = names.new(f"{v.d}_open")
        wanted.append(Target(made, x.axes, results[f"d_{x.name}"], True))
        after.append(f"{v.d_next} = {made}")
    for x, v in inputs:
        if f"d_{x.name}" in results:
            made = names.new(f"{v.d}_open")
            wanted.append(Target(made, x.axes, results[f"d_{x.name}"]))
            after.append(f"{v.d} = {v.d} + {made}")
    return names.writer.lines(wanted, inside) + after


def _adjoint_at_block_end(
    plan: RecurrentPlan, names: KernelNames, states: list[Variable], inputs: Inputs
) -> tuple[list[str], list[str], list[str]]:
    """The adjoint of what happens where a block has ended: lines before the branch, in it, and
    after the adjoint of the step.  It acts on the states after the step, so those come again."""
    if plan.close is None:
        return [], [], []
    after = {x: names.new(f"{v.name}_after") for x, v in zip(plan.states, states, strict=True)}
    opened = dict(names.of)
    for x, v in zip(plan.states, states, strict=True):
        opened[x] = v.open
    walk = [Target(after[x], x.axes, plan.walk.result(x.name), True) for x in plan.states]
    lines = names.writer.lines(walk, opened)
    inside = _inside(plan, names, states, "name", "d")
    inside |= after
    results = dict(plan.close[1].results)
    before, adds, wanted = [], [], []
    for x, v in inputs:
        if f"d_{x.name}" in results:
            made = names.new(f"{v.d}_shut")
            before.append(f"{made} = {zeros(x.axes)}")
            wanted.append(Target(made, x.axes, results[f"d_{x.name}"], True))
            adds.append(f"{v.d} = {v.d} + {made}")
    last = []
    for x, v in zip(plan.states, states, strict=True):
        made = names.new(f"{v.d}_shut")
        wanted.append(Target(made, x.axes, results[f"d_{x.name}"], True))
        last.append(f"{v.d} = {made}")
    return before, lines + names.writer.lines(wanted, inside) + last, adds


def _shapes(
    plan: RecurrentPlan,
    names: KernelNames,
    tokens: list[Variable],
    constants: list[Variable],
    states: list[Variable],
) -> list[Line]:
    lines = given_shapes(plan, names)
    lines.append(("d_y", "[T, H, V]", "cotangent of the answers"))
    for v in states:
        shared = "NV * N * H" if plan.split and v.past_row == "past" else "N * H"
        lines.append((v.kept, shape("-, H", v.axes), f"{v.name} before each segment"))
        lines.append((v.past, shape(f"{shared}, SEGMENT", v.axes), "scratch"))
        lines.append((v.d_end, shape("N, H", v.axes), "cotangent of the last state"))
    for v, lead in [*((t, "T, H") for t in tokens), *((s, "N, H") for s in (*constants, *states))]:
        shares = v.row == "share"
        said = "out: a share from each block of values" if shares else "out"
        lines.append((v.d, shape(f"NV, {lead}" if shares else lead, v.axes), said))
    return lines
