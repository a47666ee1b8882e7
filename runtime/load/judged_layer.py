"""A generated layer for the judge: what it feeds its memory, by the oracle's names, and the answers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from miras_dsl.codegen.pipeline import CompiledMemory
from miras_dsl.ir import axis_names
from miras_dsl.runtime.layers.conv_state import ConvState
from miras_dsl.runtime.layers.state_tree import State


@dataclass(frozen=True, slots=True)
class JudgedLayer:
    """The class of a memory as a layer, which computes tokens and gates from features."""

    memory: CompiledMemory
    kind: type[nn.Module]

    def new(self, width: int, heads: int) -> nn.Module:
        """A layer with its parameters at their start."""
        return self.kind(width=width, heads=heads)

    def gates(self, layer: nn.Module) -> dict[str, nn.Parameter]:
        """The learned parts of its gates, by name."""
        owners = tuple(f"{gate.name}_" for gate in self.memory.spec.gates)
        return {n: p for n, p in layer.named_parameters() if n.startswith(owners)}

    def inputs(self, layer: nn.Module, x: Tensor) -> tuple[dict[str, Tensor], State]:
        """What `oracle.run` takes: inputs by name, decays themselves for their logarithms, and a state."""
        given, state = self._fed(layer, x)
        inputs = {}
        for feed in self.memory.rule.inputs:
            name = feed.of if feed.weight is None else f"{feed.of}.{feed.weight}"
            inputs[name] = torch.exp(given[feed.name]) if feed.log else given[feed.name]
        written = {s.name: s.axes for s in self.memory.spec.states}
        declared = {w.name: written[w.of] for w in self.memory.rule.state_tensors}
        for own in self.memory.rule.states:
            have, want = axis_names(own.axes), declared[own.name]
            if have != want:
                places = (2 + have.index(axis) for axis in want)
                state[own.name] = state[own.name].permute(0, 1, *places)
        return inputs, state

    def answer(self, layer: nn.Module, x: Tensor) -> Tensor:
        """The memory's answers [B, T, H, *axes], by the code that the layer runs."""
        given, state = self._fed(layer, x)
        y, _ = layer.memory(**given, state=state)  # type: ignore[operator]
        return y

    def _fed(self, layer: nn.Module, x: Tensor) -> tuple[dict[str, Tensor], State]:
        state = layer.initial_state(len(x))  # type: ignore[operator]
        given = layer.feeds(x, ConvState(state))  # type: ignore[operator]
        return {**given, **layer.constants()}, dict(state["memory"])  # type: ignore[operator]
