"""What was derived from a spec, for people: the text, LaTeX and JSON of `miras explain`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from miras_dsl import ir
from miras_dsl.check.lints.gradient_reach import only_compared
from miras_dsl.check.lints.stability import lint
from miras_dsl.codegen.card.card import card_of
from miras_dsl.codegen.card.json_form import card_json
from miras_dsl.codegen.card.text import card_rows, card_text
from miras_dsl.codegen.card.types import Card
from miras_dsl.codegen.emit.identifiers import source_ref
from miras_dsl.codegen.equations.notation import checker_names, definitions
from miras_dsl.codegen.equations.token_events import Event, TokenEvents
from miras_dsl.codegen.model.print_module import print_module
from miras_dsl.codegen.plan.line_names import named_lines, style_of
from miras_dsl.codegen.plan.print_plan import print_plan
from miras_dsl.ir import Program
from miras_dsl.ir.notation.program_lines import PARTS
from miras_dsl.ir.notation.style import Style
from miras_dsl.spec import FileSpec, Gate, Interval, MemorySpec
from miras_dsl.stages import Stage

from .pipeline import CompiledMemory, compile_file

STAGES = tuple(stage.value for stage in Stage)
SHORT_CHUNK = 9
"""Lines up to which the summary shows the chunk form itself."""
Line = tuple[str, str]
"""A name and its formula."""


def explain(spec: FileSpec, *, stage: str = "summary", form: str = "text") -> str:
    """One stage of every memory of a file (`STAGES`), as text, latex or json."""
    rendered = compile_file(spec)
    found = list(rendered.memories.values())
    if form == "json":
        return json.dumps({d.spec.name: as_json(d, stage) for d in found}, indent=2)
    latex = form == "latex"
    if stage == "code":
        return _verbatim(rendered.text, latex)
    stages = STAGES[:-2] if stage == "all" else (stage,)
    said = _Said()
    sections = [
        f"{_heading(d, s, latex)}\n{_section(d, s, latex, said)}" for d in found for s in stages
    ]
    if stage == "all":
        sections.append(_verbatim(rendered.text, latex))
    return "\n\n".join(sections)


def as_json(d: CompiledMemory, stage: str = "summary") -> dict[str, object]:
    """A stage of a derivation as plain data; the summary holds the card and most other stages."""
    spec, chunked, back, style = d.spec, None, None, _style(d, False)
    if d.form is not None and d.reverse is not None:
        chunked, back = _rows(d.form.program, style), _rows(d.reverse, style)
    warnings = [concern.to_json() for concern in dict.fromkeys(lint(spec))]
    events = TokenEvents(d.model, style).events()
    parts: dict[str, object] = {
        "spec": _plain_spec(spec),
        "layer": print_module(d.module).splitlines(),
        "gradient": dict(_gradients(d, style)),
        "update": _rows(d.rule.program, style),
        "chunk": chunked,
        "adjoint": back,
        "plan": _plans(d).splitlines(),
        "code": d.text,
    }
    if stage in parts:
        why = {"obstacle": d.obstacle} if parts[stage] is None else {}
        return {stage: parts[stage], **why, "warnings": warnings}
    if stage == "summary":
        del parts["spec"], parts["layer"], parts["code"]
    return {
        "card": card_json(_card(d)),
        "events": [{"title": e.title, "lines": [list(line) for line in e.lines]} for e in events],
        **parts,
        "warnings": warnings,
    }


def _style(d: CompiledMemory, latex: bool) -> Style:
    return style_of(d.model, d.state_tensors, latex)


def _card(d: CompiledMemory) -> Card:
    compared = (f"`{t}` is only compared: no gradient reaches it" for t in only_compared(d.spec))
    return card_of(d, tuple(compared))


def _plans(d: CompiledMemory) -> str:
    """How the torch text is computed, and the kernels of a rule that has some."""
    return "\n\n".join(print_plan(plan) for plan in (d.plan, d.kernel_plan) if plan)


# ------------------------------------------------------------ sections


@dataclass(slots=True)
class _Said:
    """What a summary has said about earlier memories of the file.

    tokens       formulas of a token -> (memory, titles of its events)
    definitions  of functions
    """

    tokens: dict[tuple[str, ...], tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    definitions: set[str] = field(default_factory=set)


def _section(d: CompiledMemory, stage: str, latex: bool, said: _Said) -> str:
    style = _style(d, latex)
    match stage:
        case "summary":
            return _summary(d, style, said)
        case "spec":
            return _spec(d.spec, style)
        case "layer":
            return _verbatim(print_module(d.module), latex)
        case "gradient":
            return _formulas(_gradients(d, style), style)
        case "update":
            return _program(d.rule.program, style)
        case "chunk":
            return d.obstacle if d.form is None else _program(d.form.program, style)
        case "adjoint":
            return d.obstacle if d.reverse is None else _program(d.reverse, style)
        case "plan":
            return _verbatim(_plans(d), latex)
        case _:
            raise AssertionError(f"no stage {stage}")


def _summary(d: CompiledMemory, style: Style, said: _Said) -> str:
    """What most readers want: the card, then a token, and a chunk where that is short."""
    card, events = _card(d), TokenEvents(d.model, style)
    told = events.events()
    text = "\n".join(formula for event in told for _, formula in event.lines)
    blocks = [*_token_blocks(d, told, style, said), *_chunk_block(d, style)]
    known = definitions(style, events.scalar_functions, events.calls)
    known += [f"{n} = {f}" for n, f in checker_names(d.model.inputs, text).items()]
    fresh = [line for line in known if line not in said.definitions]
    said.definitions |= set(fresh)
    if style.latex:
        items = "\n".join(
            f"\\item[{_plain_latex(w)}] {_plain_latex(s)}" for w, s in card_rows(card)
        )
        parts = [f"\\begin{{description}}\n{items}\n\\end{{description}}"]
        parts += [f"\\paragraph{{{_plain_latex(title)}}}\n{body}" for title, body in blocks]
        parts += [_verbatim("\n".join(fresh) + "\n", True)] if fresh else []
        return "\n\n".join(parts)
    lines = [card_text(card), ""]
    for title, body in blocks:
        lines += [title, *(f"  {line}" for line in body.splitlines())]
    lines += ["where", *(f"  {line}" for line in fresh)] if fresh else []
    return "\n".join(lines)


def _token_blocks(
    d: CompiledMemory, events: list[Event], style: Style, said: _Said
) -> list[tuple[str, str]]:
    """(title, formulas) of the events; those of an earlier memory of the file are not said again."""
    blocks = [(event.title, _formulas(event.lines, style)) for event in events]
    bodies, titles = tuple(body for _, body in blocks), tuple(title for title, _ in blocks)
    name, before = said.tokens.setdefault(bodies, (d.spec.name, titles))
    if name == d.spec.name:
        return blocks
    new = [(title, "") for title in titles if title not in before]
    return [*new, (f"the formulas of a token are those of {name}", "")]


def _chunk_block(d: CompiledMemory, style: Style) -> list[tuple[str, str]]:
    """The chunk form where it is short enough to be read at once, else where to find it."""
    if d.form is None:
        return []
    lines = [(name, formula) for _, name, formula in named_lines(d.form.program, style)]
    if len(lines) > SHORT_CHUNK:
        pointer = f"one chunk: {len(lines)} lines, with --stage chunk"
        return [] if style.latex else [(pointer, "")]
    return [("one chunk of tokens, a row for each", _formulas(lines, style))]


def _program(program: Program, style: Style) -> str:
    """A program with its three parts under headings, one formula a line."""
    found = named_lines(program, style)
    if style.latex:
        return _formulas([(name, formula) for _, name, formula in found], style)
    text: list[str] = []
    by_chunk = any(ir.is_token_axis(axis) for _, node in program.results for axis in node.axes)
    for part, title in PARTS.items():
        here = [f"  {name} = {formula}" for where, name, formula in found if where == part]
        if here:
            text += [title.format(piece="chunk" if by_chunk else "token"), *here]
    return "\n".join(text)


def _spec(spec: MemorySpec, style: Style) -> str:
    sizes = [f"{axis} has size {size}" for axis, size in spec.sizes]
    states = [f"{s.name}[{', '.join(s.axes)}] starts {s.init}" for s in spec.states]
    tokens = [f"token {t.name}[{', '.join(t.axes)}]" for t in spec.tokens]
    gates = [_gate(g) for g in spec.gates]
    return _list([*sizes, *tokens, *states, *gates, f"order {', '.join(spec.order)}"], style)


def _plain_spec(spec: MemorySpec) -> dict[str, object]:
    """The same as `_spec` as plain data."""
    return {
        "sizes": {axis: str(size) for axis, size in spec.sizes},
        "tokens": {token.name: list(token.axes) for token in spec.tokens},
        "states": {s.name: {"axes": list(s.axes), "starts": str(s.init)} for s in spec.states},
        "gates": {
            g.name: {
                "axes": list(g.axes),
                "formula": g.expr.span.text,
                "range": _ends(g.range),
            }
            for g in spec.gates
        },
        "order": list(spec.order),
    }


def _gate(gate: Gate) -> str:
    axes = f"[{', '.join(gate.axes)}]" if gate.axes else ""
    low, high = _ends(gate.range)
    return f"gate {gate.name}{axes} = {gate.expr.span.text}, between {low} and {high}"


def _ends(range_: Interval) -> tuple[object, object]:
    low, high = range_.low, range_.high
    return ("-inf" if low == -inf else low, "inf" if high == inf else high)


def _gradients(d: CompiledMemory, style: Style) -> list[Line]:
    """Each weight's gradient and the answer, lines of shared parts first."""
    model = d.rule.model
    results = [*((f"grad {w}", g) for w, g in model.gradients), ("answer", model.answer)]
    inputs = tuple(ir.inputs_of(node for _, node in results))
    program = Program(inputs, tuple(results), ())
    return [(name, formula) for _, name, formula in named_lines(program, style)]


def _rows(program: Program, style: Style) -> list[dict[str, str]]:
    return [{"part": p, "name": n, "formula": f} for p, n, f in named_lines(program, style)]


def _heading(d: CompiledMemory, stage: str, latex: bool) -> str:
    title = d.spec.name if stage == "summary" else f"{d.spec.name}: {stage}"
    if latex:
        return f"\\subsection*{{{_plain_latex(title)}}}"
    if stage == "summary":
        title = f"{title} ({source_ref(d.model.spans.memory)})"
    return f"{title}\n{'=' * len(title)}"


def _formulas(pairs: Sequence[Line], style: Style) -> str:
    if style.latex:
        if not pairs:
            return ""
        body = " \\\\\n".join(f"  {name} &= {formula}" for name, formula in pairs)
        return f"\\[\n\\begin{{aligned}}\n{body}\n\\end{{aligned}}\n\\]"
    return "\n".join(f"{name} = {formula}" for name, formula in pairs)


def _list(sentences: list[str], style: Style) -> str:
    return "\n\n".join(map(_plain_latex, sentences)) if style.latex else "\n".join(sentences)


def _verbatim(text: str, latex: bool) -> str:
    return f"\\begin{{verbatim}}\n{text}\\end{{verbatim}}" if latex else text


def _plain_latex(text: str) -> str:
    return "".join(f"\\{c}" if c in "_#%&{}$" else "\\^{}" if c == "^" else c for c in text)
