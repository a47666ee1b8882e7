"""Text of generated modules: names, citations, templates, and files of layers and models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from jinja2 import UndefinedError
from torch import nn

from miras_dsl import spec
from miras_dsl.codegen.emit.identifiers import METHODS, RESERVED, identifier, snake_case, source_ref
from miras_dsl.codegen.emit.imports import import_lines
from miras_dsl.codegen.emit.layer.composition import layer_text, model_text
from miras_dsl.codegen.emit.layer.modules import emit_module
from miras_dsl.codegen.emit.render import environment, holes, render
from miras_dsl.codegen.model.build_module import build_module
from miras_dsl.source import Source, Span
from tests.module import rules
from tests.module.generated_file import write

TEMPLATES = ("torch/module.py.j2", "torch/layer.py.j2", "torch/model.py.j2")


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_slot_too_many_is_as_wrong_as_one_too_few(template: str) -> None:
    slots = dict.fromkeys(holes(template), "")
    slots.pop("name")
    with pytest.raises(LookupError, match=r"missing slots \['name'\], unused slots \['nme'\]"):
        render(template, {**slots, "nme": ""})


def test_a_misspelt_attribute_inside_a_template_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        environment().from_string("{{ part.nme }}").render(part=object())


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("GatedDelta", "gated_delta"),
        ("TTT_MLP", "ttt_mlp"),
        ("RWKV7", "rwkv7"),
        ("Yaad", "yaad"),
        ("KDA2Net", "kda2_net"),
        ("_x", "_x"),
    ],
)
def test_snake(name: str, made: str) -> None:
    assert snake_case(name) == made


@pytest.mark.parametrize("name", ["lambda", "torch", "Tensor", "max", "Backbone", "state", "None"])
def test_names_that_would_hide_others(name: str) -> None:
    assert identifier(name) == f"{name}_"


@pytest.mark.parametrize("name", ["a b", "", "x\n", "a" * 65, "é", "1x", "a;b"])
def test_what_is_no_identifier_reaches_no_text(name: str) -> None:
    with pytest.raises(AssertionError, match="not an identifier"):
        identifier(name)


@pytest.mark.parametrize(
    ("file", "shown"),
    [
        ("some/where/robust.mem", "robust.mem:7"),
        ("C:\\x\\robust.mem", "robust.mem:7"),
        ('a"""\nimport os\n"""', "spec:7"),
        ("<string>", "spec:7"),
    ],
)
def test_a_citation_repeats_only_a_plain_file_name(file: str, shown: str) -> None:
    assert source_ref(Span(Source(file, ""), 0, 0, 7, 1)) == shown


def test_a_part_cannot_hide_a_method(tmp_path: Path) -> None:
    assert {name for name in dir(nn.Module()) if not name.startswith("_")} <= METHODS
    assert "ConvState" in RESERVED
    texts = [
        emit_module(build_module(rules.memory("Train")), rules.FEEDS, rules.WEIGHTS),
        layer_text(spec.LayerSpec("Forward", spec.Use("Train"), heads=2)),
    ]
    layer = write(tmp_path / "m.py", "train", texts).Forward(width=8)
    assert layer.eval().training is False and set(layer.initial_state(1)) == {"train_part"}


def test_imports_are_those_in_use() -> None:
    assert import_lines("class A(nn.Module):\n    def f(self, x: Tensor): pass\n") == (
        "from torch import Tensor, nn\n"
    )
    assert import_lines("y = unit(F.silu(x), -1)") == (
        "from torch.nn import functional as F\n\nfrom miras_dsl.runtime.generated import unit\n"
    )


def test_a_model_of_other_blocks(tmp_path: Path) -> None:
    """A bare memory as a block, a block without a state, blocks that do not repeat."""
    kinds = ("swiglu", "Delta", "swiglu")
    model = spec.ModelSpec("Odd", 8, 5, tuple(map(spec.Block, kinds)))
    only = spec.ModelSpec("Only", 8, 5, (spec.Block("swiglu"),))
    texts = [
        emit_module(build_module(rules.memory()), rules.FEEDS, rules.WEIGHTS),
        *map(model_text, (model, only)),
    ]
    module = write(tmp_path / "m.py", "delta", texts)
    made = module.Odd()
    logits, state = made(torch.tensor([[1, 2, 4]]))
    assert logits.shape == (1, 3, 5) and set(state) == set(made.initial_state(1)) == {"0", "1", "2"}
    assert len(module.Only().blocks) == 1 and "given" not in model_text(only)


def test_sizes_of_a_use_reach_the_memory(tmp_path: Path) -> None:
    layer = spec.LayerSpec("L", spec.Use("Delta", (("dk", 3), ("dv", 5))), heads=2)
    texts = [
        emit_module(build_module(rules.memory()), rules.FEEDS, rules.WEIGHTS),
        layer_text(layer),
    ]
    module = write(tmp_path / "m.py", "delta", texts)
    made = module.L(width=9)
    y, state = made(torch.randn(2, 4, 9))
    assert y.shape == (2, 4, 9) and state["delta"]["memory"]["W"].shape == (2, 2, 5, 3)


def test_the_backbone_of_a_layer(tmp_path: Path) -> None:
    texts = [emit_module(build_module(rules.memory()), rules.FEEDS, rules.WEIGHTS)]
    texts += [
        layer_text(spec.LayerSpec("Bare", spec.Use("Delta"), output_norm=False)),
        layer_text(
            spec.LayerSpec(
                "Full",
                spec.Use("Delta"),
                conv=3,
                activation="silu",
                normalize=("key",),
                output_gate=True,
            )
        ),
    ]
    module = write(tmp_path / "m.py", "delta", texts)
    bare, whole = module.Bare(width=8).delta, module.Full(width=8).delta
    assert bare.answer.norm is None and bare.answer.gate is None and bare.query_shape.conv is None
    assert not bare.key_shape.normalize and module.Delta(width=8).key_shape.normalize
    assert whole.answer.norm is not None and whole.answer.gate is not None
    assert whole.value_shape.conv.lags == 2 and whole.value_shape.activation == "silu"
    assert whole.key_shape.normalize and not whole.query_shape.normalize
    assert set(whole.initial_state(2)["conv"]) == {"query", "key", "value"}
