"""A layer of memories, and a model of layers: how parts are composed.

These print a `LayerSpec` and a `ModelSpec` as they stand: a composition holds no formula.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from miras_dsl.codegen.emit.identifiers import identifier, module_attribute, snake_case, source_ref
from miras_dsl.codegen.emit.line_wrap import wrap_names
from miras_dsl.codegen.emit.namespace import FileNames
from miras_dsl.codegen.emit.render import render
from miras_dsl.spec import Chain, LayerSpec, Mixing, ModelSpec, Together, Use

from .modules import ALONE, HEADS


def layer_text(layer: LayerSpec, names: FileNames = ALONE) -> str:
    """The class of a layer: its memories in their composition, each in the layer's backbone."""
    own: dict[int, str] = {}
    parts = []
    for use in _uses(layer.body):
        name = _unused(module_attribute(snake_case(use.memory)), own.values())
        own[id(use)] = name
        given = "".join(f", {identifier(k)}={v}" for k, v in use.arguments)
        made = names.class_of(use.memory)
        parts.append((name, f"{made}(width, heads{given}, backbone=backbone)"))
    calls = _compose(layer.body, "x", own, [])
    slots = {
        "name": names.class_of(layer.name),
        "place": source_ref(layer.span),
        "heads": layer.heads or HEADS,
        "backbone": [
            f"conv={layer.conv}",
            f"activation={_quoted(layer.activation)}",
            f"normalize={_tuple(layer.normalize)}",
            f"output_norm={layer.output_norm}",
            f"output_gate={layer.output_gate}",
        ],
        "parts": parts,
        "calls": _statements(calls.steps, "", ", cu_seqlens"),
        "steps": _statements(calls.steps, ".step", ""),
        "result": calls.result,
        "wrap": wrap_names,
    }
    return render("torch/layer.py.j2", slots)


def model_text(model: ModelSpec, names: FileNames = ALONE) -> str:
    """The class of a language model: embedding, residual blocks, norm and head."""
    kinds = [block.kind for block in model.blocks]
    period, times = _repeated(kinds)
    blocks = [
        "FeedForward(width)"
        if kind == "swiglu"
        else f"MixerBlock(width, {names.class_of(kind)}(width, **given))"
        for kind in period
    ]
    slots = {
        "name": names.class_of(model.name),
        "place": source_ref(model.span),
        "width": model.width,
        "vocab": model.vocab,
        "blocks": blocks,
        "given": any(kind != "swiglu" for kind in period),
        "times": times,
    }
    return render("torch/model.py.j2", slots)


class _Calls:
    """Statements of a composition: (target, part, argument) calls and sums, and the result."""

    def __init__(self, steps: list[tuple[str, str, str]], result: str) -> None:
        self.steps, self.result = steps, result


def _compose(
    body: Mixing, source: str, names: Mapping[int, str], steps: list[tuple[str, str, str]]
) -> _Calls:
    match body:
        case Use():
            name = names[id(body)]
            target = f"{name}_out"
            steps.append((target, name, source))
            return _Calls(steps, target)
        case Chain(parts=parts):
            for inner in parts:
                source = _compose(inner, source, names, steps).result
            return _Calls(steps, source)
        case Together(parts=parts):
            outputs = [_compose(inner, source, names, steps).result for inner in parts]
            target = _unused("total", (step[0] for step in steps))
            steps.append((target, "", " + ".join(outputs)))
            return _Calls(steps, target)


def _statements(steps: list[tuple[str, str, str]], method: str, rest: str) -> list[str]:
    lines: list[str] = []
    for target, name, source in steps:
        call = f'{target}, kept["{name}"] = self.{name}{method}('
        given = f'{source}, substate(state, "{name}"){rest}'
        if not name:
            lines.append(f"{target} = {source}")
        elif len(call + given) < 92:
            lines.append(f"{call}{given})")
        else:
            lines += [call, f"    {given}", ")"]
    return lines


def _uses(body: Mixing) -> list[Use]:
    match body:
        case Use():
            return [body]
        case Chain(parts=parts) | Together(parts=parts):
            return [use for inner in parts for use in _uses(inner)]


def _unused(name: str, taken: Iterable[str]) -> str:
    known, number, made = set(taken), 1, name
    while made in known:
        number += 1
        made = f"{name}_{number}"
    return made


def _repeated(kinds: list[str]) -> tuple[list[str], int]:
    """The shortest list that gives ``kinds`` when repeated, and how often."""
    for size in range(1, len(kinds)):
        if len(kinds) % size == 0 and kinds == kinds[:size] * (len(kinds) // size):
            return kinds[:size], len(kinds) // size
    return kinds, 1


def _quoted(name: str | None) -> str:
    return "None" if name is None else f'"{identifier(name)}"'


def _tuple(names: Sequence[str]) -> str:
    inside = ", ".join(_quoted(name) for name in names)
    return f"({inside},)" if len(names) == 1 else f"({inside})"
