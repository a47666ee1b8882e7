"""What was derived from a spec, for people: the text, LaTeX and JSON of `miras explain`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from math import inf

import sympy as sp

from miras_dsl import ir
from miras_dsl.check.lints.gradient_reach import only_compared
from miras_dsl.check.lints.stability import lint
from miras_dsl.codegen.model.print_module import print_module
from miras_dsl.codegen.plan.print_plan import print_plan
from miras_dsl.ir import Node, Program, postorder
from miras_dsl.ir.printer import LATEX, TEXT, Style, print_program, program_lines
from miras_dsl.spec import FileSpec, Gate, Interval, MemorySpec
from miras_dsl.stages import Stage

from .pipeline import CompiledMemory, compile_file

STAGES = tuple(stage.value for stage in Stage)
SIZE, CHUNK = 64, 64
"""The size of a head and of a chunk at which costs are given as numbers."""


def explain(spec: FileSpec, *, stage: str = "summary", form: str = "text") -> str:
    """One stage of every memory of a file (`STAGES`), as text, latex or json."""
    rendered = compile_file(spec)
    found = list(rendered.memories.values())
    if form == "json":
        return json.dumps({d.spec.name: as_json(d, stage) for d in found}, indent=2)
    style = LATEX if form == "latex" else TEXT
    if stage == "code":
        return _verbatim(rendered.text, style)
    stages = STAGES[:-2] if stage == "all" else (stage,)
    sections = [
        f"{_heading(d, s, style)}\n{_display(_section(d, s, _with_logs(style, d)))}"
        for d in found
        for s in stages
    ]
    if stage == "all":
        sections.append(_verbatim(rendered.text, style))
    return "\n\n".join(sections)


def _with_logs(style: Style, d: CompiledMemory) -> Style:
    """A style that knows which inputs of a memory are logarithms."""
    logs = ((f.name, f"{f.of}_{f.weight}" if f.weight else f.of) for f in d.inputs if f.log)
    return replace(style, logs=tuple(logs))


def as_json(d: CompiledMemory, stage: str = "summary") -> dict[str, object]:
    """A stage of a derivation as plain data; the summary holds most of the others."""
    spec, chunked, back = d.spec, None, None
    if d.form is not None and d.reverse is not None:
        chunked, back = _rows(d.form.program), _rows(d.reverse)
    warnings = [concern.to_json() for concern in dict.fromkeys(lint(spec))]
    gates = {g.name: {"formula": g.expr.span.text, "range": _ends(g.range)} for g in spec.gates}
    parts: dict[str, object] = {
        "spec": _plain_spec(spec),
        "layer": print_module(d.module).splitlines(),
        "gradient": dict(_gradients(d, TEXT)),
        "update": _rows(d.rule.program),
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
        "class": "token by token" if d.form is None else d.form.family,
        "evidence": evidence(d),
        "gates": gates,
        **parts,
        "state_numbers_per_head": str(state_size(d)),
        "state_bytes_per_head": _number(4 * state_size(d), spec),
        "flops_per_token_and_head": _number(flops(d.rule.program, spec), spec),
        "warnings": warnings,
    }


def _plans(d: CompiledMemory) -> str:
    """How the torch text is computed, and the kernels of a rule that has some."""
    return "\n\n".join(print_plan(plan) for plan in (d.plan, d.kernel_plan) if plan)


def evidence(d: CompiledMemory) -> list[str]:
    """Why the memory is in its class, or has none: at least one sentence."""
    compared = [f"`{t}` is only compared: no gradient reaches it" for t in only_compared(d.spec)]
    if d.form is None:
        return [d.obstacle, *compared]
    plain = {
        "additive": "what a token writes does not depend on what the memory holds",
        "anchored": "gradients are taken at the block's first weights; no token changes them",
        "sweeps": "each course learns from the one before it, and the first from the block's start",
    }
    known = plain.get(d.form.family)
    return ([*d.form.evidence] or ([known] if known else [])) + compared


def state_size(d: CompiledMemory) -> sp.Expr:
    """How many numbers one head carries from token to token, over the memory's parameters."""
    sizes = dict(d.model.sizes)
    each = [sp.prod([sizes[axis] for axis in weight.axes]) for weight in d.rule.state_tensors]
    return sp.expand(sp.Add(*each))


def flops(program: Program, spec: MemorySpec) -> sp.Expr:
    """Floating-point operations of a program: two for each product summed, one for each formula."""
    sizes = {ir.axis_of(word): size for word, size in spec.sizes}

    def size(axis: ir.Axis) -> sp.Expr:
        # A product of a matrix with itself has a second axis for its rows, `value~`.
        return sizes.get(axis) or sizes[ir.axis_of(axis.name.rstrip("~"))]

    def extent(node: Node, *others: Node) -> sp.Expr:
        axes = {axis for n in (node, *others) for axis in n.axes}
        return sp.prod([CHUNK if ir.is_token_axis(a) else size(a) for a in axes])

    total: sp.Expr = sp.Integer(0)
    for node in postorder(value for _, value in program.results):
        match node:
            case ir.Contract(left, right, _):
                total += 2 * extent(left, right)
            case ir.GatedContract(x, y, _, _) | ir.GatedApply(x, y, _, _):
                total += 4 * extent(x, y)
            case ir.GatedSpan(m, x, y):
                total += 8 * extent(m, x, y)
            case ir.Map() | ir.Reduce() | ir.Cumsum() | ir.Decay():
                total += extent(node, *node.operands)
            case ir.Inverse():
                total += sp.Integer(CHUNK) ** 3 / 3
            case ir.ForwardSubstitution(a, p):
                total += 2 * extent(a, p)
            case _:
                pass
    return sp.expand(total)


def _section(d: CompiledMemory, stage: str, style: Style) -> str:
    match stage:
        case "summary":
            return _summary(d, style)
        case "spec":
            return _spec(d.spec, style)
        case "layer":
            return _verbatim(print_module(d.module), style)
        case "gradient":
            return _formulas(_gradients(d, style), style)
        case "update":
            return print_program(d.rule.program, style)
        case "chunk":
            return d.obstacle if d.form is None else print_program(d.form.program, style)
        case "adjoint":
            return d.obstacle if d.form is None else print_program(d.reverse, style)
        case "plan":
            return _verbatim(_plans(d), style)
        case _:
            raise AssertionError(f"no stage {stage}")


def _summary(d: CompiledMemory, style: Style) -> str:
    """What most readers want: gradient, update, class with its evidence, chunk form, costs."""
    verdict = ["runs token by token" if d.form is None else f"class {d.form.family}"]
    verdict += [f"because {sentence}" for sentence in evidence(d)]
    size, bytes_ = state_size(d), _number(4 * state_size(d), d.spec)
    operations = _number(flops(d.rule.program, d.spec), d.spec)
    costs = [f"state {size} numbers a head ({bytes_:,} bytes at {SIZE})"]
    costs.append(f"token by token {operations:,} operations a token and head")
    if d.form is not None:
        chunked = _number(flops(d.form.program, d.spec), d.spec) // CHUNK
        costs.append(f"in chunks of {CHUNK}: {chunked:,}, as matrix products")
    blocks = [
        ("gradient of the bias", _formulas(_gradients(d, style), style)),
        ("one token", print_program(d.rule.program, style)),
        ("class", _list(verdict, style)),
        ("one chunk", _section(d, "chunk", style)),
        ("cost", _list(costs, style)),
    ]
    if style.latex:
        return "\n\n".join(f"\\paragraph{{{title}}}\n{_display(body)}" for title, body in blocks)
    return "\n\n".join(f"{title}\n{_indented(body)}" for title, body in blocks)


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


def _gradients(d: CompiledMemory, style: Style) -> list[tuple[str, str]]:
    """Each weight's gradient and the answer, lines of shared parts first."""
    model = d.rule.model
    results = [*((f"grad {w}", g) for w, g in model.gradients), ("answer", model.answer)]
    program = Program((), tuple(results), ())
    return [(name, formula) for _, name, formula in program_lines(program, style)]


def _rows(program: Program) -> list[dict[str, str]]:
    return [{"part": p, "name": n, "formula": f} for p, n, f in program_lines(program)]


def _number(size: sp.Expr, spec: MemorySpec) -> int:
    """A size with every parameter that has no default at `SIZE`."""
    values: Mapping[str, int] = {name: default or SIZE for name, default in spec.params}
    return int(size.subs({symbol: values[str(symbol)] for symbol in size.free_symbols}))


def _heading(d: CompiledMemory, stage: str, style: Style) -> str:
    title = d.spec.name if stage == "summary" else f"{d.spec.name}: {stage}"
    return (
        f"\\subsection*{{{_plain_latex(title)}}}" if style.latex else f"{title}\n{'=' * len(title)}"
    )


def _formulas(pairs: list[tuple[str, str]], style: Style) -> str:
    if style.latex:
        body = " \\\\\n".join(f"  {name} &= {formula}" for name, formula in pairs)
        return f"\\begin{{aligned}}\n{body}\n\\end{{aligned}}"
    return "\n".join(f"{name} = {formula}" for name, formula in pairs)


def _list(sentences: list[str], style: Style) -> str:
    return "\n\n".join(map(_plain_latex, sentences)) if style.latex else "\n".join(sentences)


def _verbatim(text: str, style: Style) -> str:
    return f"\\begin{{verbatim}}\n{text}\\end{{verbatim}}" if style.latex else text


def _display(body: str) -> str:
    return f"\\[\n{body}\n\\]" if body.startswith("\\begin") else body


def _plain_latex(text: str) -> str:
    return "".join(f"\\{c}" if c in "_#%&{}" else "\\^{}" if c == "^" else c for c in text)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
