"""What the forward and the backward kernel have in common: names, docstring, parameters."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from miras_dsl.codegen.analysis.padding import padding_values
from miras_dsl.codegen.emit.identifiers import source_ref
from miras_dsl.codegen.model.inputs import POSITION
from miras_dsl.codegen.model.types import ClauseSpans
from miras_dsl.codegen.plan.token_kernels import RecurrentPlan
from miras_dsl.ir import KEY, VALUE, Axes, Input, Program, axis_names, inputs_of
from miras_dsl.ir.printer import print_program
from miras_dsl.source import NOWHERE

from .printer import SIZES, Target, TritonPrinter

Line = tuple[str, str, str]
"""A tensor in a docstring: name, shape, what it is."""


@dataclass(frozen=True, slots=True)
class KernelNames:
    """The identifiers of one kernel: what writes its lines, and the variable of each input."""

    writer: TritonPrinter
    of: dict[Input, str]

    def new(self, wanted: str) -> str:
        """A name of its own that reads like ``wanted``."""
        return self.writer.name(wanted)


@dataclass(frozen=True, slots=True)
class Variable:
    """An input or state in a kernel, for the templates: its name, its axes, names derived from it.

    d          its cotangent or gradient, and the pointer that takes it
    row        where the gradient goes: the token's row, or the block's own share of it
    next       a state after the step; open, shut: where a block begins and after it has ended
    """

    name: str
    axes: Axes
    d: str = ""
    row: str = ""
    next: str = ""
    open: str = ""
    shut: str = ""
    end: str = ""
    kept: str = ""
    past: str = ""
    past_row: str = ""
    d_end: str = ""
    d_next: str = ""
    total: str = ""
    zeros: str = ""
    partial: bool = False


def names_of(plan: RecurrentPlan) -> KernelNames:
    """Names for the inputs of a plan; every kernel starts with these."""
    programs = [plan.step, plan.back, *(plan.refresh or ()), *(plan.close or ())]
    writer = TritonPrinter(padding_values(programs))
    of: dict[Input, str] = {}
    for x in (*plan.tokens, *plan.constants, *plan.states):
        of[x] = writer.name(x.name)
    return KernelNames(writer, of | {POSITION: "position"})


def targets(
    plan: RecurrentPlan, states: list[Variable], program: Program, part: str
) -> list[Target]:
    """The new states of a program as variables, each with its full shape."""
    return [
        Target(getattr(v, part), v.axes, program.result(x.name), True)
        for x, v in zip(plan.states, states, strict=True)
    ]


def block_edge_lines(
    plan: RecurrentPlan, names: KernelNames, states: list[Variable], part: str
) -> list[str]:
    """Lines for what the states become where a block begins (`open`) or has ended (`shut`)."""
    turned = plan.refresh if part == "open" else plan.close
    if turned is None:
        return []
    return names.writer.lines(targets(plan, states, turned[0], part), names.of)


def assign_back(states: list[Variable], part: str) -> list[str]:
    """Lines after which the states are what has been worked out."""
    return [f"{v.name} = {getattr(v, part)}" for v in states]


def reads(*programs: Program) -> set[Input]:
    """What some programs read."""
    return {x for p in programs for x in inputs_of(node for _, node in p.results)}


def frame_slots(
    plan: RecurrentPlan,
    prefix: str,
    pointers: list[str],
    shapes: list[Line],
    keep: bool = False,
) -> dict[str, object]:
    """The slots that both templates have; ``keep`` for a kernel that may keep checkpoints."""
    spans, every = plan.rule.model.spans, (*plan.tokens, *plan.constants, *plan.states)
    axes = tuple(a for a in SIZES if a == VALUE or any(a in x.axes for x in every))
    law: list[str] = []
    for line in print_program(plan.rule.program).split("\n"):
        if line.startswith("  "):
            law += textwrap.wrap(line, 92, initial_indent="  ", subsequent_indent="      ")
    place = "place_ptr, " if plan.block else ""
    parameters = _listed([f"{p}_ptr" for p in pointers])
    parameters += [f"offsets_ptr, {place}T, L, H,", "V: tl.constexpr, BV: tl.constexpr,"]
    parameters += ["K: tl.constexpr, BK: tl.constexpr,"] if KEY in axes else []
    kinds = ("SEGMENT", "PACKED", *(("KEEP",) if keep else ()))
    parameters.append(" ".join(f"{kind}: tl.constexpr," for kind in kinds))
    block = plan.block * plan.micro
    step = f"((place + t) % {block})" + (f" // {plan.micro}" if plan.micro > 1 else "")
    return {
        "name": prefix,
        "title": f"{plan.rule.name} ({source_ref(spans.memory)}), token by token:",
        "law": law,
        "cited": _cited(spans),
        "shapes": _aligned(shapes),
        "parameters": parameters,
        "axes": axis_names(axes),
        "block": block,
        "place": bool(plan.block),
        "position": f"({step} + 1).to(tl.float32)" if plan.position else "",
        "split": plan.split,
        "why": plan.why,
    }


def shape(lead: str, axes: Axes) -> str:
    """`[T, H, V, K]`"""
    return f"[{', '.join([lead, *(SIZES[a] for a in axes)])}]"


def given_shapes(plan: RecurrentPlan, names: KernelNames) -> list[Line]:
    """The docstring's lines for what both kernels read."""
    spans = {feed.name: feed.span for feed in plan.rule.model.feeds}
    lines = []
    for x in plan.tokens:
        span = spans.get(x.name)
        said = (
            "of an earlier token" if span is None else "" if span is NOWHERE else source_ref(span)
        )
        lines.append((names.of[x], shape("T, H", x.axes), said))
    for x in plan.constants:
        lines.append((names.of[x], shape("H", x.axes), "the same for every token"))
    return lines


def _aligned(lines: list[Line]) -> list[str]:
    width, room = (max(len(line[n]) for line in lines) for n in (0, 1))
    return [f"{n:<{width}}  {s:<{room}}  {what}".rstrip() for n, s, what in lines]


def _cited(spans: ClauseSpans) -> str:
    """The places of a memory's clauses: `robust.mem:4 (bias), :5 (retention), :6 (algorithm)`."""
    clauses = [
        (spans.bias, "bias"),
        (spans.retention, "retention"),
        (spans.algorithm, "algorithm"),
    ]
    words: list[str] = []
    last = ""
    for span, clause in clauses:
        if span is NOWHERE:
            continue
        file, colon, line = source_ref(span).rpartition(":")
        words.append(f"{'' if file == last else file}{colon}{line} ({clause})")
        last = file
    return ", ".join(words) or "the step"


def _listed(words: list[str], width: int = 92) -> list[str]:
    """Words with commas, as many on a line as fit."""
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) + 2 > width:
            lines.append("")
        lines[-1] += f"{' ' if lines[-1] else ''}{word},"
    return lines
