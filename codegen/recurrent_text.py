"""The text of a rule's token-by-token kernels: the slots of their two templates."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass

from miras_dsl.ir import Axes, Input, Program, inputs_of
from miras_dsl.show import show
from miras_dsl.source import NOWHERE
from miras_dsl.spec import MemorySpec

from .model import POSITION
from .names import cite, snake
from .render import render
from .triton_code import SIZES, Target, Writer, folded, zeros
from .triton_plan import RecurrentPlan, lanes, plan_recurrent
from .update import UpdateRule

HEADER = '''"""Token-by-token kernels of {names}, generated from {places}."""

import triton
import triton.language as tl

from miras_dsl.runtime.recurrent import Recurrence


'''


def recurrent_module(rule: UpdateRule) -> str:
    """A module with the kernels of one rule, under its name in capitals as a `Recurrence`."""
    spec = rule.model.spec
    return HEADER.format(names=rule.name, places=cite(spec.span)) + recurrent_text(rule)


def recurrence_name(rule: UpdateRule) -> str:
    """The name under which a module has a rule's kernels."""
    return snake(rule.name).upper()


def recurrent_text(rule: UpdateRule) -> str:
    """Both kernels and their table, without imports.  ValueError where there can be none."""
    plan = plan_recurrent(rule)
    forward = render("triton/recurrent_fwd.py.j2", _forward(plan))
    backward = render("triton/recurrent_bwd.py.j2", _backward(plan))
    return folded(f"{forward}\n\n{backward}\n\n{_table(plan)}")


@dataclass(frozen=True, slots=True)
class _Names:
    """The identifiers of a kernel."""

    writer: Writer
    of: dict[Input, str]


def _names(plan: RecurrentPlan, programs: Iterable[Program]) -> _Names:
    writer = Writer(lanes(programs))
    of: dict[Input, str] = {}
    for x in (*plan.tokens, *plan.constants, *plan.states):
        of[x] = writer.name(x.name)
    return _Names(writer, of | {Input(POSITION, (), "token"): "position"})


def _programs(plan: RecurrentPlan) -> list[Program]:
    refresh = plan.refresh or ()
    return [plan.step, plan.back, *refresh]


def _axes(plan: RecurrentPlan) -> Axes:
    every = (*plan.tokens, *plan.constants, *plan.states)
    return tuple(axis for axis in SIZES if any(axis in x.axes for x in every) or axis == "value")


def _forward(plan: RecurrentPlan) -> dict[str, object]:
    names = _names(plan, _programs(plan))
    writer = names.writer
    states = []
    for x in plan.states:
        name = names.of[x]
        states.append({
            "name": name, "axes": x.axes, "next": writer.name(f"{name}_next"),
            "open": writer.name(f"{name}_open"),
            "end": writer.name(f"{name}_end"), "kept": writer.name(f"{name}_kept"),
        })  # fmt: skip
    targets = [Target("y", ("value",), plan.step.result("y"))]
    targets += _next_states(plan, states, plan.step, "next")
    refresh = _open(plan, names, states)
    pointers = [names.of[x] for x in (*plan.tokens, *plan.constants, *plan.states)]
    pointers.append("y")
    for part in ("end", "kept"):
        pointers += [s[part] for s in states]
    shapes = _shapes(plan, names)
    shapes += [("y", "[T, H, V]", "out: the answers")]
    for x, s in zip(plan.states, states, strict=True):
        shapes.append((s["end"], _shape("N, H", x.axes), f"out: {x.name} after the last token"))
    for x, s in zip(plan.states, states, strict=True):
        shapes.append((s["kept"], _shape("-, H", x.axes), f"out: {x.name} before each segment"))
    if refresh:
        refresh += [f"{s['name']} = {s['open']}" for s in states]
    return {
        **_frame(plan, pointers, shapes),
        "tokens": [_token(names, x) for x in plan.tokens],
        "constants": [{"name": names.of[x], "axes": x.axes} for x in plan.constants],
        "states": states,
        "refresh": refresh,
        "step": writer.lines(targets, names.of),
        "y": ("value",),
    }


def _backward(plan: RecurrentPlan) -> dict[str, object]:
    names = _names(plan, _programs(plan))
    writer = names.writer
    states, constants, tokens = [], [], []
    for x in plan.states:
        name = names.of[x]
        d = writer.name(f"d_{name}")
        states.append({
            "name": name, "axes": x.axes, "next": writer.name(f"{name}_next"),
            "open": writer.name(f"{name}_open"), "kept": writer.name(f"{name}_kept"),
            "past": writer.name(f"{name}_past"), "d": d, "d_end": writer.name(f"{d}_end"),
            "d_next": writer.name(f"{d}_next"),
            "past_row": "past_v" if plan.split and "value" in x.axes else "past",
            "end_row": _share(plan, x, "share", "i_nh"), "partial": f"d_{x.name}" in plan.partial,
        })  # fmt: skip
    for x in plan.constants:
        d = writer.name(f"d_{names.of[x]}")
        constants.append({
            "name": names.of[x], "axes": x.axes, "d": d, "total": writer.name(f"{d}_total"),
            "zeros": zeros(x.axes), "end_row": _share(plan, x, "share", "i_nh"),
        })  # fmt: skip
    for x in plan.tokens:
        made = _token(names, x)
        tokens.append({**made, "d": writer.name(f"d_{made['name']}"), "d_row": _share(plan, x, "share", "row")})

    walk = writer.lines(_next_states(plan, states, plan.walk, "next"), names.of)
    opened = _reads(plan.refresh[0]) if plan.refresh else set()
    again = _reads(plan.walk) | opened
    seen = _reads(plan.back) | opened | (_reads(plan.refresh[1]) if plan.refresh else set())
    refresh = _open(plan, names, states)
    if refresh:
        refresh += [f"{s['name']} = {s['open']}" for s in states]
    reopen = _open(plan, names, states)

    inside = dict(names.of)
    for x, s in zip(plan.states, states, strict=True):
        inside[Input(x.name, x.shape, "saved")] = s["open"] if plan.refresh else s["name"]
        inside[Input(f"d_{x.name}", x.shape, "state")] = s["d"]
    inside[Input("d_y", ("value",), "cotangent")] = "d_y"
    every = [*zip(plan.tokens, tokens, strict=True), *zip(plan.constants, constants, strict=True)]
    back = dict(plan.back.results)
    targets = [
        Target(s["d"], x.axes, back[f"d_{x.name}"], bool(plan.refresh))
        for x, s in every
        if f"d_{x.name}" in back
    ]
    absent = [s for x, s in every if f"d_{x.name}" not in back]
    targets += [
        Target(s["d_next"], x.axes, back[f"d_{x.name}"], True)
        for x, s in zip(plan.states, states, strict=True)
    ]
    lines = [f"{s['d']} = {zeros(s['axes'])}" for s in absent] + writer.lines(targets, inside)
    pointers = [names.of[x] for x in (*plan.tokens, *plan.constants)]
    pointers.append("d_y")
    for part in ("kept", "past", "d_end"):
        pointers += [s[part] for s in states]
    pointers += [s["d"] for s in (*tokens, *constants, *states)]
    return {
        **_frame(plan, pointers, _shapes_back(plan, names, states, tokens, constants)),
        "again": [t for x, t in zip(plan.tokens, tokens, strict=True) if x in again],
        "seen": [t for x, t in zip(plan.tokens, tokens, strict=True) if x in seen],
        "tokens": tokens,
        "constants": constants,
        "states": states,
        "refresh": refresh,
        "reopen": reopen,
        "walk": walk,
        "back": lines,
        "close": _close(plan, names, states, every),
        "y": ("value",),
    }


def _reads(program: Program) -> set[Input]:
    return set(inputs_of(node for _, node in program.results))


def _share(plan: RecurrentPlan, x: Input, share: str, whole: str) -> str:
    """The row of a gradient: its own for each block of values, if each has only a share of it."""
    return share if plan.split and "value" not in x.axes else whole


def _next_states(
    plan: RecurrentPlan, states: list[dict], program: Program, part: str
) -> list[Target]:
    return [
        Target(s[part], x.axes, program.result(x.name), True)
        for x, s in zip(plan.states, states, strict=True)
    ]


def _open(plan: RecurrentPlan, names: _Names, states: list[dict]) -> list[str]:
    """What the states become where a block begins."""
    if plan.refresh is None:
        return []
    return names.writer.lines(_next_states(plan, states, plan.refresh[0], "open"), names.of)


def _close(
    plan: RecurrentPlan, names: _Names, states: list[dict], every: list[tuple[Input, dict]]
) -> list[str]:
    """The adjoint of `_open`: cotangents of the states, and shares of the inputs that it read."""
    if plan.refresh is None:
        return []
    inside = dict(names.of)
    for x, s in zip(plan.states, states, strict=True):
        inside[Input(x.name, x.shape, "saved")] = s["name"]
        inside[Input(f"d_{x.name}", x.shape, "state")] = s["d_next"]
    results = dict(plan.refresh[1].results)
    targets, after = [], []
    for x, s in zip(plan.states, states, strict=True):
        made = names.writer.name(f"{s['d']}_open")
        targets.append(Target(made, x.axes, results[f"d_{x.name}"], True))
        after.append(f"{s['d_next']} = {made}")
    for x, s in every:
        if f"d_{x.name}" in results:
            made = names.writer.name(f"{s['d']}_open")
            targets.append(Target(made, x.axes, results[f"d_{x.name}"]))
            after.append(f"{s['d']} = {s['d']} + {made}")
    return names.writer.lines(targets, inside) + after


def _frame(plan: RecurrentPlan, pointers: list[str], shapes: list[tuple[str, str, str]]) -> dict:
    """The slots that both templates have."""
    axes = _axes(plan)
    sizes = ["K: tl.constexpr, BK: tl.constexpr,"] if "key" in axes else []
    law: list[str] = []
    for line in show(plan.step).split("\n"):
        if line.startswith("  "):
            law += textwrap.wrap(line, 92, initial_indent="  ", subsequent_indent="      ")
    place = plan.block > 0
    parameters = _wrapped([f"{p}_ptr" for p in pointers])
    parameters += ["offsets_ptr, place_ptr, T, L, H," if place else "offsets_ptr, T, L, H,"]
    parameters += ["V: tl.constexpr, BV: tl.constexpr,", *sizes]
    parameters += ["SEGMENT: tl.constexpr, PACKED: tl.constexpr, KEEP: tl.constexpr,"]
    width = max(len(name) for name, _, _ in shapes)
    shape = max(len(s) for _, s, _ in shapes)
    written = [f"{n:<{width}}  {s:<{shape}}  {what}".rstrip() for n, s, what in shapes]
    spec = plan.rule.model.spec
    block = plan.block * plan.micro
    counted = f"(place + t) % {block}"
    step = f"({counted}) // {plan.micro}" if plan.micro > 1 else f"({counted})"
    return {
        "name": snake(plan.rule.name),
        "title": f"{plan.rule.name} ({cite(spec.span)}), token by token:",
        "law": law,
        "cited": _cited(spec),
        "shapes": written,
        "parameters": parameters,
        "axes": axes,
        "block": block,
        "place": place,
        "position": f"({step} + 1).to(tl.float32)" if plan.position else "",
        "split": plan.split,
    }


def _cited(spec: MemorySpec) -> str:
    """The places of a memory's clauses: `robust.mem:4 (bias), :5 (retention), :6 (algorithm)`."""
    spans = [(term.span, "bias") for term in spec.terms[:1]]
    spans += [(spec.retention.span, "retention"), (spec.algorithm.span, "algorithm")]
    words: list[str] = []
    file = ""
    for span, clause in spans:
        here, _, line = cite(span).rpartition(":")
        words.append(f"{'' if here == file else here}:{line} ({clause})" if here else f"{line} ({clause})")
        file = here
    return ", ".join(words)


def _wrapped(words: list[str], width: int = 92) -> list[str]:
    """Words with commas, as many on a line as fit."""
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) + 2 > width:
            lines.append("")
        lines[-1] += f"{' ' if lines[-1] else ''}{word},"
    return lines


def _token(names: _Names, x: Input) -> dict:
    return {"name": names.of[x], "axes": x.axes}


def _shape(lead: str, axes: Axes) -> str:
    return f"[{', '.join([lead, *(SIZES[a] for a in axes)])}]"


def _shapes(plan: RecurrentPlan, names: _Names) -> list[tuple[str, str, str]]:
    spec = plan.rule.model.spec
    spans = {d.name: d.span for d in (*spec.tokens, *spec.gates) if d.span is not NOWHERE}
    feeds = {f.name: f.of for f in plan.rule.model.feeds}
    cited = [cite(spans[feeds[x.name]]) if feeds[x.name] in spans else "" for x in plan.tokens]
    shapes = [
        (names.of[x], _shape("T, H", x.axes), place)
        for x, place in zip(plan.tokens, cited, strict=True)
    ]
    shapes += [(names.of[x], _shape("H", x.axes), "the same for every token") for x in plan.constants]
    shapes += [(names.of[x], _shape("N, H", x.axes), "before the first token") for x in plan.states]
    return shapes


def _shapes_back(
    plan: RecurrentPlan, names: _Names, states: list[dict], tokens: list[dict], constants: list[dict]
) -> list[tuple[str, str, str]]:
    shapes = _shapes(plan, names)[: -len(states)] if states else _shapes(plan, names)
    shapes.append(("d_y", "[T, H, V]", "cotangent of the answers"))
    for s in states:
        shapes.append((s["kept"], _shape("-, H", s["axes"]), f"{s['name']} before each segment"))
        lead = "N * H" if s["past_row"] == "past_v" or not plan.split else "NV * N * H"
        shapes.append((s["past"], _shape(f"{lead}, SEGMENT", s["axes"]), "scratch"))
        shapes.append((s["d_end"], _shape("N, H", s["axes"]), "cotangent of the last state"))
    for s in tokens:
        lead = "NV, T, H" if s["d_row"] == "share" else "T, H"
        shapes.append((s["d"], _shape(lead, s["axes"]), "out" if lead == "T, H" else "out: shares"))
    for s in (*constants, *states):
        lead = "NV, N, H" if s["end_row"] == "share" else "N, H"
        shapes.append((s["d"], _shape(lead, s["axes"]), "out"))
    return shapes


def _table(plan: RecurrentPlan) -> str:
    """What a launcher must know, as an expression."""
    rule = plan.rule
    decay = rule.model.retention.decay
    gate = getattr(decay, "name", None)
    decays = tuple(f.name for f in rule.feeds if f.of == gate and f.log)
    order = rule.model.order
    late = "decay" in order and order.index("decay") > order.index("write")
    positions = tuple(f.name for f in rule.feeds if f.kind == "position")
    name = snake(rule.name)

    def pairs(inputs: Iterable[Input]) -> str:
        lines = "".join(f"        {(x.name, x.axes)!r},\n".replace("'", '"') for x in inputs)
        return f"(\n{lines}    )" if lines else "()"

    def words(found: tuple[str, ...]) -> str:
        return repr(found).replace("'", '"')

    return (
        f"{recurrence_name(rule)} = Recurrence(\n"
        f'    name="{rule.name}",\n'
        f"    forward={name}_forward,\n"
        f"    backward={name}_backward,\n"
        f"    tokens={pairs(plan.tokens)},\n"
        f"    constants={pairs(plan.constants)},\n"
        f"    states={pairs(plan.states)},\n"
        f"    positions={words(positions)},\n"
        f"    decays={words(decays)},\n"
        f"    late_decay={late},\n"
        f"    block={plan.block},\n"
        f"    micro={plan.micro},\n"
        f"    split={plan.split},\n"
        ")\n"
    )
