"""How soon a new memory forgets: the half-life of each weight that decays, with its first gates."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf, log

import torch
from torch import Tensor

from miras_dsl.runtime.judge.oracle.gate_values import FreshGates
from miras_dsl.runtime.judge.oracle.run import axis_sizes
from miras_dsl.spec import MemorySpec, Number, Ref

from .bench import Layer
from .cases import Case, parameters

HORIZON = 1024
FADED = 0.01
"""A learned start of which less is left after `HORIZON` tokens is as good as none."""
TOKENS, WIDTH, HEADS = 256, 64, 4


@dataclass(frozen=True, slots=True)
class HalfLife:
    """The tokens after which half of a weight is left, with the gates of a new layer at x ~ N(0, 1).

    slowest, fastest  over heads and channels; inf where nothing decays
    left              what is left of the slowest after `HORIZON` tokens
    fades             whether it has a learned start, of which then less than `FADED` is left
    """

    weight: str
    slowest: float
    fastest: float
    left: float
    fades: bool

    @property
    def told(self) -> str:
        """As words."""
        if self.slowest == inf:
            return "endless"
        low, high = f"{self.fastest:.3g}", f"{self.slowest:.3g}"
        return low if low == high else f"{low} to {high}"


def half_lives(spec: MemorySpec, layer: Layer | None = None) -> tuple[HalfLife, ...]:
    """The half-life of each weight that a gate or number decays.

    layer  whose gates are measured; None: gates drawn from their formulas
    """
    found = []
    for state in spec.states:
        factors = spec.retention.factors(state.name)
        if not factors:
            continue
        slow = fast = 0.0
        for factor in factors:
            rates = _rates(spec, factor, state.name, layer)
            slow, fast = slow + float(rates.min()), fast + float(rates.max())
        left = min(1.0, exp(-HORIZON * max(slow, 0.0)))
        learned = state.init != "zero"
        found.append(
            HalfLife(state.name, _tokens(slow), _tokens(fast), left, learned and left < FADED)
        )
    return tuple(found)


def _rates(spec: MemorySpec, factor: Ref | Number, weight: str, layer: Layer | None) -> Tensor:
    """How fast a factor takes a weight away, -log of it per token, for each head and channel."""
    if isinstance(factor, Number):
        return torch.tensor([-log(float(factor.value))] if factor.value > 0 else [inf])
    return -_logarithms(spec, factor, weight, layer).mean((0, 1)).flatten()


def _tokens(rate: float) -> float:
    return log(2) / rate if rate > 0 else inf


def _logarithms(spec: MemorySpec, decay: Ref, weight: str, layer: Layer | None) -> Tensor:
    """The logarithms of a decay [batch, time, heads, *axes] in a new layer."""
    gate = next(g for g in spec.gates if g.name == decay.name)
    name = f"{gate.name}.{weight}" if "row" in gate.axes else gate.name
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        if layer is not None:
            made = layer.new(WIDTH, HEADS).double()
            x = torch.randn(1, TOKENS, WIDTH, dtype=torch.float64)
            value = layer.inputs(made, x)[0][name]
        else:
            sizes = parameters(spec, Case("", (TOKENS,), (WIDTH // HEADS,) * 2))
            axes = next(s for s in spec.states if s.name == weight).with_rows(gate.axes)
            extent = {**sizes, **axis_sizes(spec, sizes)}
            random = torch.Generator().manual_seed(0)
            fresh = FreshGates(spec, {}, extent, (1, TOKENS, HEADS), random)
            value = fresh.gate(gate, axes, weight)
    return value.clamp_min(1e-300).log()
