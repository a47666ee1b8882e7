"""The text of a rule's token-by-token kernels: forward, backward and the table for the launcher."""

from __future__ import annotations

from collections.abc import Iterable

from miras_dsl.codegen.derive.update import UpdateRule
from miras_dsl.codegen.emit.identifiers import snake_case, source_ref
from miras_dsl.codegen.emit.imports import import_lines
from miras_dsl.codegen.emit.namespace import assert_defined_once
from miras_dsl.codegen.emit.render import render
from miras_dsl.codegen.plan.token_kernels import RecurrentPlan, plan_recurrent
from miras_dsl.ir import VALUE, Input, axis_names

from .backward import backward
from .frame import (
    Variable,
    assign_back,
    block_edge_lines,
    frame_slots,
    given_shapes,
    names_of,
    shape,
    targets,
)
from .printer import Target, folded

TITLE = '"""Token-by-token kernels of {name}, generated from {place}."""'


def recurrent_module(rule: UpdateRule) -> str:
    """A module with the kernels of one rule, and `recurrence_name` for what the launcher takes."""
    title = TITLE.format(name=rule.name, place=source_ref(rule.model.spans.memory))
    text = recurrent_text(rule, snake_case(rule.name))
    return assert_defined_once(f"{title}\n\n{import_lines(text)}\n\n{text}")


def recurrence_name(rule: UpdateRule, prefix: str = "") -> str:
    """The name under which a module has a rule's `Recurrence`; without a prefix, its own module."""
    return f"_{prefix or snake_case(rule.name)}_kernels"


def recurrent_text(rule: UpdateRule, prefix: str) -> str:
    """Both kernels and their table, without imports.  ValueError where there can be none."""
    plan = plan_recurrent(rule)
    there = render("triton/token_fwd.py.j2", _forward(plan, prefix))
    back = render("triton/token_bwd.py.j2", backward(plan, prefix))
    return folded(f"{there}\n\n{back}\n\n{_table(plan, prefix)}")


def _forward(plan: RecurrentPlan, prefix: str) -> dict[str, object]:
    names = names_of(plan)
    states = []
    for x in plan.states:
        name = names.of[x]
        states.append(
            Variable(
                name,
                x.axes,
                next=names.new(f"{name}_next"),
                open=names.new(f"{name}_open"),
                shut=names.new(f"{name}_shut"),
                end=names.new(f"{name}_end"),
                kept=names.new(f"{name}_kept"),
            )
        )
    pointers = [names.of[x] for x in (*plan.tokens, *plan.constants, *plan.states)]
    pointers += ["y", *(v.end for v in states), *(v.kept for v in states)]
    lines = given_shapes(plan, names)
    lines += [(v.name, shape("N, H", v.axes), "before the first token") for v in states]
    lines.append(("y", "[T, H, V]", "out: the answers"))
    lines += [(v.end, shape("N, H", v.axes), f"out: {v.name} after the last token") for v in states]
    lines += [(v.kept, shape("-, H", v.axes), f"out: {v.name} before each segment") for v in states]
    refresh, close = (block_edge_lines(plan, names, states, part) for part in ("open", "shut"))
    step = [Target("y", (VALUE,), plan.step.result("y"))]
    step += targets(plan, states, plan.step, "next")
    return {
        **frame_slots(plan, prefix, pointers, lines, keep=True),
        "tokens": [Variable(names.of[x], x.axes) for x in plan.tokens],
        "constants": [Variable(names.of[x], x.axes) for x in plan.constants],
        "states": states,
        "refresh": refresh + assign_back(states, "open") if refresh else [],
        "step": names.writer.lines(step, names.of),
        "close": close + assign_back(states, "shut") if close else [],
        "y": (VALUE,),
    }


def _table(plan: RecurrentPlan, prefix: str) -> str:
    """What a launcher must know, as an expression."""
    rule = plan.rule
    return (
        f"{recurrence_name(rule, prefix)} = Recurrence(\n"
        f"    forward={prefix}_forward,\n"
        f"    backward={prefix}_backward,\n"
        f"    tokens={_pairs(plan.tokens)},\n"
        f"    constants={_pairs(plan.constants)},\n"
        f"    states={_pairs(plan.states)},\n"
        f"    split={plan.split},\n"
        ")\n"
    )


def _pairs(inputs: Iterable[Input]) -> str:
    lines = "".join(f"        {_quoted((x.name, axis_names(x.axes)))},\n" for x in inputs)
    return f"(\n{lines}    )" if lines else "()"


def _quoted(value: object) -> str:
    return repr(value).replace("'", '"')
