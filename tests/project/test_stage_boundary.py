"""After stage 3 nothing reads a spec: what later stages know of a memory is its `MemoryModel`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import sympy as sp

from miras_dsl import spec as spec_module
from miras_dsl import typed_formula
from miras_dsl.check import read
from miras_dsl.codegen import pipeline
from miras_dsl.codegen.derive.chunk import chunkwise_form
from miras_dsl.codegen.derive.update import update_rule
from miras_dsl.codegen.emit.layer.modules import emit_module
from miras_dsl.codegen.emit.torch.memory import emit_memory
from miras_dsl.codegen.emit.triton.module import emit_kernels, table_name
from miras_dsl.codegen.model.build import build_model
from miras_dsl.codegen.model.build_module import build_module
from miras_dsl.codegen.model.types import MemoryInput, MemoryModel
from miras_dsl.codegen.passes.affine_state import NotChunkable
from miras_dsl.codegen.passes.autodiff import adjoint
from miras_dsl.codegen.plan.token.legality import unsupported_reason
from miras_dsl.codegen.plan.token_kernels import token_plan
from miras_dsl.codegen.plan.torch_plan import plan_in_torch
from miras_dsl.codegen.stage_digests import nameless
from miras_dsl.ir import Axis, Input, Node, Role, substitute
from miras_dsl.scalar.interval import Interval
from miras_dsl.source import Source, Span
from miras_dsl.spec import MemorySpec

ROOT = Path(__file__).resolve().parents[2]
LATER = (
    "derive", "inner_step", "passes", "plan", "plan/token", "plan/check",
    "emit/torch", "emit/triton", "emit/layer",
)  # fmt: skip
"""Folders of codegen whose code runs on what stage 3 has made."""
COMPOSITION = ROOT / "codegen" / "emit" / "layer" / "composition.py"
"""Prints the layers and models of a file, which hold no formula, as they stand."""
MODEL = "miras_dsl.codegen.model"
OPEN = {
    f"{MODEL}.types": None,
    f"{MODEL}.module_types": None,
    f"{MODEL}.inputs": {"POSITION", "VALID"},
    f"{MODEL}.lower": {"POINTWISE", "softmax"},
    f"{MODEL}.log_gates": {"floored_log"},
}
"""What later stages may import of stage 3; None: all of it."""


def later_files() -> list[Path]:
    """The Python files of the stages after the third."""
    found = {p for folder in LATER for p in (ROOT / "codegen" / folder).glob("*.py")}
    return sorted(found - {COMPOSITION})


def violations(text: str) -> list[str]:
    """Where a file of a later stage reads a spec, or makes stage 3 do it."""
    found = []
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.ImportFrom(module="miras_dsl.spec") | ast.Attribute(attr="spec"):
                found.append(f"{node.lineno}: reads a spec")
            case ast.ImportFrom(module="miras_dsl", names=names):
                found += [f"{node.lineno}: reads a spec" for name in names if name.name == "spec"]
            case ast.Import(names=names):
                found += [
                    f"{node.lineno}: reads a spec" for n in names if "miras_dsl.spec" in n.name
                ]
            case ast.ImportFrom(module=str(module), names=names) if module.startswith(MODEL):
                allowed = OPEN.get(module, set())
                wrong = {n.name for n in names} - (allowed or set()) if allowed is not None else ()
                found += [f"{node.lineno}: imports {name} of stage 3" for name in sorted(wrong)]
            case ast.Call(func=ast.Attribute(attr="startswith" | "endswith"), args=[argument]) if (
                "log_" in ast.unparse(argument) or "." in ast.unparse(argument)
            ):
                found.append(f"{node.lineno}: takes a meaning from the spelling of a name")
    return found


def spec_parts(root: object) -> Iterator[str]:
    """Where a value, or anything that it holds, is part of a spec."""
    seen: set[int] = set()
    stack: list[tuple[str, object]] = [(type(root).__name__, root)]
    while stack:
        place, value = stack.pop()
        if id(value) in seen or isinstance(value, sp.Basic | str):
            continue
        seen.add(id(value))
        if type(value).__module__ in (spec_module.__name__, typed_formula.__name__):
            yield place
        if isinstance(value, dict):
            value = tuple(value.items())
        if isinstance(value, tuple | list | set | frozenset):
            stack += [(f"{place}[]", inner) for inner in value]
        elif is_dataclass(value) and not isinstance(value, type):
            stack += [(f"{place}.{f.name}", getattr(value, f.name)) for f in fields(value)]


def shipped() -> dict[str, MemorySpec]:
    """The memories of all shipped specs."""
    found: dict[str, MemorySpec] = {}
    for path in files("miras_dsl.specs").iterdir():
        if path.name.endswith(".mem"):
            found |= read(Source(path.name, path.read_text())).memories
    return found


SHIPPED = shipped()


@pytest.mark.parametrize("path", later_files(), ids=lambda p: f"{p.parent.name}/{p.name}")
def test_a_later_stage_reads_no_spec(path: Path) -> None:
    assert violations(path.read_text()) == []


@pytest.mark.parametrize(
    "text",
    [
        "from miras_dsl.spec import Ref",
        "from miras_dsl import spec",
        "import miras_dsl.spec as s",
        "def f(rule):\n    return rule.model.spec.span",
        "from miras_dsl.codegen.model.build import build_model",
        "from miras_dsl.codegen.model.inputs import VALID, program_input",
        "from miras_dsl.codegen.model.lower import lower",
        "def f(x):\n    return x.name.startswith('log_')",
        "def f(x):\n    return x.name.endswith('.dual')",
    ],
)
def test_a_planted_reading_is_found(text: str) -> None:
    assert violations(text) != []


@pytest.mark.parametrize("name", SHIPPED)
def test_a_model_holds_no_part_of_a_spec(name: str) -> None:
    model = build_model(SHIPPED[name])
    assert list(spec_parts(model)) == []
    assert list(spec_parts(build_module(SHIPPED[name]))) == []
    rule = update_rule(model)
    assert list(spec_parts(rule)) == []
    planted = replace(model, order=(*model.order, SHIPPED[name].read))  # type: ignore[arg-type]
    assert next(spec_parts(planted)) == "MemoryModel.order[]"


@pytest.mark.parametrize("name", SHIPPED)
def test_the_model_alone_makes_the_text(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text of a memory and of its layer come from models whose spec cannot be read any more."""
    spec = SHIPPED[name]
    wanted = pipeline.compile_memory(spec, kernels=True)
    tails = wanted.model.window_inputs
    layer = emit_module(wanted.module, wanted.inputs, wanted.state_tensors, tails)
    model, module = build_model(spec), build_module(spec)

    def gone(self: object, word: str) -> object:
        raise AssertionError(f"a later stage reads {word} of {type(self).__name__}")

    for kind in vars(spec_module).values():
        if isinstance(kind, type) and kind.__module__ == spec_module.__name__:
            monkeypatch.setattr(kind, "__getattribute__", gone)
    with pytest.raises(AssertionError, match="a later stage reads read of MemorySpec"):
        _ = spec.read
    text = text_of(model, wanted.prefix)
    again = emit_module(module, wanted.inputs, wanted.state_tensors, tails)
    monkeypatch.undo()
    assert text == wanted.text
    assert again == layer


@pytest.mark.parametrize("name", SHIPPED)
def test_no_meaning_is_in_a_name(name: str) -> None:
    """Gates under names that lie about them: `log_1` is none, and a logarithm is called `in_2`."""
    model = build_model(SHIPPED[name])
    gates = [feed for feed in model.inputs if feed.role is Role.GATE]
    names = {g.name: f"in_{n}" if g.log else f"log_{n}" for n, g in enumerate(gates)}
    text, lying = text_of(model, "a"), text_of(renamed(model, names), "a")
    assert not names or text != lying
    assert nameless(lying) == nameless(text)


def renamed(model: MemoryModel, names: dict[str, str]) -> MemoryModel:
    """The model with some inputs under other names."""
    given = [*model.inputs, *(model.window.past if model.window else ())]
    exchange: dict[Node, Node] = {}
    for feed in given:
        head, past, age = feed.name.partition("_past")
        if head in names:
            name = f"{names[head]}{past}{age}"
            exchange[feed.as_input()] = replace(feed, name=name).as_input()

    def moved(value: Any) -> Any:
        match value:
            case Input() if value.role is Role.HOLE:
                return value
            case _ if isinstance(value, Node):
                return substitute([value], exchange)[0]
            case MemoryInput():
                new = exchange.get(value.as_input(), value.as_input())
                assert isinstance(new, Input)
                return replace(value, name=new.name)
            case tuple():
                return tuple(map(moved, value))
            case _ if is_dataclass(value) and not isinstance(value, type | Span | Interval | Axis):
                held = {f.name: moved(getattr(value, f.name)) for f in fields(value)}
                return replace(value, **held)
            case _:
                return value

    return moved(model)


def text_of(model: MemoryModel, prefix: str) -> str:
    """Stages 4 to 8 of a model."""
    rule = update_rule(model)
    form, reverse, obstacle = None, None, ""
    try:
        form = chunkwise_form(rule)
        reverse = adjoint(form.program)
    except NotChunkable as reason:
        obstacle = str(reason)
    plan = plan_in_torch(rule, form, reverse, obstacle, prefix)
    if unsupported_reason(rule):
        return emit_memory(plan, prefix)
    text = emit_memory(plan, prefix, table_name(prefix))
    return f"{emit_kernels(token_plan(rule, prefix), prefix)}\n\n{text}"
