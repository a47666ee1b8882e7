"""Every shipped spec: its module is fed what its memory asks for, in the right shapes."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from torch import Tensor

from miras_dsl.check import read
from miras_dsl.codegen.derive.update import update_rule
from miras_dsl.codegen.emit.identifiers import identifier, snake_case
from miras_dsl.codegen.emit.layer.composition import layer_text, model_text
from miras_dsl.codegen.emit.layer.modules import emit_module
from miras_dsl.codegen.model.build import build_model
from miras_dsl.codegen.model.build_module import build_module
from miras_dsl.runtime.layers import state_tree as states
from miras_dsl.runtime.load.loader import load
from miras_dsl.source import Source
from miras_dsl.spec import FileSpec
from tests.module.generated_file import write
from tests.shipped_specs import by_file

RULE = '''
def {name}_memory(*, state, cu_seqlens=None, **fed):
    """An answer of the value's shape that depends on everything that is fed."""
    seen["fed"], seen["state"] = fed, state
    value = fed["value"] if fed["value"].dim() == 4 else fed["value"].sum(-2)
    every = sum(u.float().mean() for u in (*fed.values(), *state.values()))
    return value + every.to(value.dtype), state


def {name}_step(*, state, **fed):
    """The same without the axis of time."""
    seen["step"] = fed
    value = fed["value"] if fed["value"].dim() == 3 else fed["value"].sum(-2)
    every = sum(u.float().mean() for u in (*fed.values(), *state.values()))
    return value + every.to(value.dtype), state


seen = {{}}
'''


def text_of(name: str) -> tuple[FileSpec, str]:
    source = files("miras_dsl.specs").joinpath(name).read_text(encoding="utf-8")
    layer = next(line.split()[1] for line in source.splitlines() if line.startswith("layer"))
    source += f"\nmodel Whole(width = 16, vocab = 7) = repeat 2 {{ {layer} ; swiglu }}\n"
    return read(Source(name, source)), source


@pytest.mark.parametrize("name", by_file(".mem"))
def test_a_shipped_module(name: str, tmp_path: Path) -> None:
    spec, _ = text_of(name)
    models = {n: build_model(m) for n, m in spec.memories.items()}
    weights = {n: update_rule(m).state_tensors for n, m in models.items()}
    modules = {n: build_module(m) for n, m in spec.memories.items()}
    for memory, model in models.items():
        texts = [emit_module(modules[n], m.inputs, weights[n]) for n, m in models.items()]
        texts += [layer_text(item) for item in spec.layers.values()]
        texts += [model_text(item) for item in spec.models.values()]
        path = tmp_path / f"{memory}.py"
        others = (n for n in models if n != memory)
        rules = "".join(RULE.replace("{name}", snake_case(n)) for n in others)
        module = write(path, snake_case(memory), texts, rules + RULE)
        layer = getattr(module, identifier(memory))(width=16, heads=2)
        y, _ = layer(torch.randn(3, 5, 16))
        assert y.shape == (3, 5, 16) and torch.isfinite(y).all()
        made = spec.memories[memory]
        free = {"d": 8, "dk": 8, "dv": 8}
        sizes = {
            axis: int(size.subs({v: free[v.name] for v in size.free_symbols}))
            for axis, size in made.sizes
        }
        anchored = made.algorithm.anchored
        sizes["position"] = anchored.block if anchored else 0
        lead = {"token": (3, 5, 2), "gate": (3, 5, 2), "constant": (2,), "position": (2,)}
        paired = {i.name for i in (*made.tokens, *made.gates) if "pair" in i.axes}
        for feed in model.inputs:
            pairs = (made.algorithm.pairs,) if feed.of in paired else ()
            wanted = (*lead[feed.kind], *pairs, *(sizes[a.name] for a in feed.axes))
            assert module.seen["fed"][feed.name].shape == wanted, feed.name
        for weight in weights[memory]:
            wanted = (3, 2, *(sizes[a.name] for a in weight.axes))
            assert module.seen["state"][weight.name].shape == wanted, weight.name
        y.square().mean().backward()
        for parameter, value in layer.named_parameters():
            assert value.grad is not None, f"{parameter} is not in use"
        _check_steps(module, layer)


def _check_steps(module, layer) -> None:
    """A step is fed what the whole was fed at its token."""
    x = torch.randn(1, 4, 16)
    layer(x)
    whole: dict[str, Tensor] = module.seen["fed"]
    state = None
    for t in range(4):
        _, state = layer.step(x[:, t], state)
        for name, value in module.seen["step"].items():
            wanted = whole[name] if value.shape == whole[name].shape else whole[name][:, t]
            if name.startswith("log_"):  # of a number near 0 the logarithm has few digits
                value, wanted = value.exp(), wanted.exp()
            torch.testing.assert_close(value, wanted, msg=name)
    assert all(torch.isfinite(v).all() for _, v in states.leaves(state))


@pytest.mark.parametrize("name", by_file(".mem"))
def test_text_is_clean(name: str, tmp_path: Path) -> None:
    pytest.importorskip("ruff")
    spec, _ = text_of(name)
    models = {n: build_model(m) for n, m in spec.memories.items()}
    weights = {n: update_rule(m).state_tensors for n, m in models.items()}
    modules = {n: build_module(m) for n, m in spec.memories.items()}
    texts = [emit_module(modules[n], m.inputs, weights[n]) for n, m in models.items()]
    texts += [layer_text(item) for item in spec.layers.values()]
    texts += [model_text(item) for item in spec.models.values()]
    rule = "\n\n".join(RULE.format(name=snake_case(n)).strip() for n in models)
    write(tmp_path / "m.py", "", texts, rule.replace("{", "{{").replace("}", "}}"))
    rules = ["--select", "E,F", "--ignore", "F811", "--line-length", "100"]
    command = [sys.executable, "-m", "ruff", "check", "--isolated", *rules, tmp_path / "m.py"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("name", by_file(".mem"))
def test_a_shipped_layer(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled: whole, split and steps agree; every parameter gets a gradient that is not zero."""
    monkeypatch.setenv("MIRAS_CACHE_DIR", str(tmp_path / "cache"))
    spec, source = text_of(name)
    library = load(Source(name, source))
    for layer_name in spec.layers:
        torch.manual_seed(0)
        layer = library[layer_name](width=8, heads=2).double()
        x = torch.randn(2, 21, 8, dtype=torch.float64)
        whole, last = layer(x)
        whole.square().mean().backward()
        for parameter, value in layer.named_parameters():
            assert value.grad is not None and torch.isfinite(value.grad).all(), parameter
            assert value.grad.abs().max() > 0, parameter
        with torch.no_grad():
            first, state = layer(x[:, :9])
            answers = [first]
            for t in range(9, 21):
                y, state = layer.step(x[:, t], state)
                answers.append(y[:, None])
        torch.testing.assert_close(torch.cat(answers, 1), whole)
        torch.testing.assert_close(states.flatten(state), states.flatten(last))
