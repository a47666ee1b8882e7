"""From stage 1 to stage 2: `syntax.File` to `spec.FileSpec`, or all mistakes of the file at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar, assert_never

from miras_dsl.check.formula.axis_sizes import CLAUSES, free_name
from miras_dsl.check.library.definition import check_definition, references
from miras_dsl.check.library.load import Library, standard
from miras_dsl.check.lints.stability import lint
from miras_dsl.diagnostics import Diagnostic, Findings, Label, Problem, SpecErrors, problem
from miras_dsl.source import Source, Span
from miras_dsl.spec import FileSpec, LayerSpec, MemorySpec, ModelSpec
from miras_dsl.syntax import tree as syntax
from miras_dsl.syntax.parser import parse

from .layers import layer, model
from .memory import memory

T = TypeVar("T")
WORDS = CLAUSES | {"swiglu", "memory", "layer", "model"}


def read(source: Source) -> FileSpec:
    """The meaning of a text.  Raises SpecErrors with all mistakes, in source order."""
    return check(parse(source))


def check(file: syntax.File) -> FileSpec:
    """The spec of a syntax tree: names resolved, shapes known, the library's definitions written out.

    Raises SpecErrors with all mistakes, in source order.
    """
    findings = Findings()
    library = _library(file, findings)
    memories: dict[str, MemorySpec] = {}
    items: dict[str, syntax.Memory] = {}
    failed: set[str] = set()
    _names(file, findings)
    others = _others(file)
    if not any(isinstance(i, syntax.Memory | syntax.Definition) for i in file.items):
        at = Span(file.source, 0, min(1, len(file.source.text)), 1, 1)
        help = "`miras new name.mem` writes a file to start from"
        findings.add(problem("M0111", "this file defines nothing", at, "no memory", help=help))
    for item in file.items:
        match item:
            case syntax.Memory(name) if name not in items:
                items[name] = item
                made = memory(item, library, findings, elsewhere=others)
                if made is None:
                    failed.add(name)
                else:
                    memories[name] = made
            case syntax.Definition():
                used = any((item.kind, item.name) in references(i) for i in file.items)
                _try(findings, partial(check_definition, item, used))
            case syntax.Memory() | syntax.Layer() | syntax.Model():
                pass
            case _:
                assert_never(item)

    def specialize(name: str, fixed: dict[str, int]) -> str | None:
        """The name of a memory with some parameters fixed, which is made if it is new; None if wrong."""
        defaults = dict(memories[name].params)
        changed = {n: v for n, v in fixed.items() if defaults[n] != v}
        if not changed:
            return name
        own = "_".join([name, *(f"{n}{v}" for n, v in sorted(changed.items()))])
        while own in items:
            own += "_"
        if own not in memories:
            made = memory(items[name], library, findings, changed, others)
            if made is None:
                return None
            memories[own] = replace(made, name=own)
        return own

    layers: dict[str, LayerSpec] = {}
    known = {i.name for i in file.items if isinstance(i, syntax.Layer)}
    for item in file.items:
        if isinstance(item, syntax.Layer):
            made_layer = _try(findings, partial(layer, item, memories, failed, specialize, known))
            if made_layer is not None:
                layers[item.name] = made_layer
    models: dict[str, ModelSpec] = {}
    for item in file.items:
        if isinstance(item, syntax.Model):
            made_model = _try(findings, partial(model, item, layers, known, set(items)))
            if made_model is not None:
                models[item.name] = made_model
    if findings:
        raise SpecErrors(findings.found)
    return FileSpec(memories, layers, models)


def warnings(spec: FileSpec) -> tuple[Diagnostic, ...]:
    """The warnings about a file, in source order: steps that may diverge, unused gates …"""
    found = [d for made in spec.memories.values() for d in lint(made)]
    return tuple(sorted(dict.fromkeys(found), key=lambda d: (d.at.span.start, d.code)))


def _others(file: syntax.File) -> dict[str, str]:
    """Name of a memory or layer -> what to write where a formula names it."""
    found = {}
    for item in file.items:
        if isinstance(item, syntax.Memory | syntax.Layer):
            kind = "memory" if isinstance(item, syntax.Memory) else "layer"
            found[item.name] = (
                f"`{item.name}` is a {kind}, and a formula sees the layer's input only; memories are put "
                "together by a layer: `layer L = A -> B` feeds the answer of one into the next"
            )
    return found


def _library(file: syntax.File, findings: Findings) -> Library:
    """The library and the definitions of this file; one that is defined twice is reported."""
    library = dict(standard())
    for item in file.items:
        if isinstance(item, syntax.Definition):
            key = (item.kind, item.name)
            if key in library:
                because = (Label(library[key].name_span, "first defined here"),)
                what = f"`{item.kind} {item.name}` is already defined"
                findings.add(problem("M0109", what, item.name_span, "again", because=because))
            library[key] = item
    return library


def _names(file: syntax.File, findings: Findings) -> None:
    seen: dict[str, syntax.Item] = {}
    for item in file.items:
        if isinstance(item, syntax.Definition):
            continue
        _try(findings, partial(free_name, item.name, item.name_span, "a definition", WORDS))
        if item.name in seen:
            because = (Label(seen[item.name].name_span, "first defined here"),)
            what = f"`{item.name}` is defined twice"
            findings.add(problem("M0109", what, item.name_span, "again", because=because))
        seen.setdefault(item.name, item)


def _try(findings: Findings, part: Callable[[], T]) -> T | None:
    try:
        return part()
    except Problem as mistake:
        findings.add(mistake)
        return None
