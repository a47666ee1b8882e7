"""Layers of a formula or two, and the values that they feed their memory."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from miras_dsl import spec
from miras_dsl.codegen.emit.layer.modules import emit_module
from miras_dsl.codegen.model.build_module import build_module
from miras_dsl.codegen.model.types import MemoryInput
from miras_dsl.ir import axes_of
from miras_dsl.runtime.layers.conv_state import ConvState
from tests.module import rules
from tests.module.generated_file import write

Layer = nn.Module


def build(path: Path, made: spec.MemorySpec, feeds: tuple[MemoryInput, ...], **sizes: int) -> Layer:
    """The layer of a spec in float64; its memory is never called.  Axes of feeds are words."""
    feeds = tuple(replace(feed, axes=axes_of(map(str, feed.axes))) for feed in feeds)
    torch.manual_seed(2)
    module: ModuleType = write(
        path / "m.py", "m", [emit_module(build_module(made), feeds, rules.WEIGHTS)]
    )
    if importlib.util.find_spec("ruff") is not None:
        command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "E,F"]
        command += ["--line-length", "100"]
        found = subprocess.run([*command, path / "m.py"], capture_output=True, text=True)
        assert found.returncode == 0, found.stdout
    layer = getattr(module, made.name)(width=8, heads=2, **sizes).double()
    for parameter in layer.parameters():  # away from special values
        parameter.data += 0.1 * torch.randn_like(parameter)
    return layer


def fed(layer: Layer, x: Tensor) -> dict[str, Tensor]:
    values = layer.feeds(x, ConvState(layer.initial_state(x.shape[0])))
    return {**values, **layer.constants()}


x = torch.randn(2, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
