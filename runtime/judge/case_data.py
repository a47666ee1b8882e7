"""The tensors of a case: tokens, gates and states, drawn from a seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor
from torch.nn import functional

from miras_dsl.runtime.judge.oracle.gate_values import SPREAD, FreshGates
from miras_dsl.runtime.judge.oracle.run import State, axis_sizes, initial, run
from miras_dsl.runtime.judge.oracle.token_inputs import leaf_axes
from miras_dsl.spec import Axes, Gate, MemorySpec, Ref, iter_nodes

from .cases import DUALS, TINY, Case, parameters


@dataclass(frozen=True, slots=True)
class Data:
    """The tensors of a case in float64, rounded so that the type under test holds them exactly.

    inputs     as `oracle.run` takes them; packed sequences have batch 1
    state      [N, heads, *axes] by name, or None: the memory starts from zeros
    cotangent  the gradient of the loss for the output, [batch, time, heads, value]
    offsets    the N + 1 bounds of packed sequences; None: each row is a sequence
    """

    inputs: dict[str, Tensor]
    state: State | None
    cotangent: Tensor
    offsets: tuple[int, ...] | None


def data(spec: MemorySpec, case: Case, dtype: torch.dtype, seed: int = 0) -> Data:
    """The tensors of a case, drawn from ``seed`` and the case's name.

    dtype  the type of the form under test, for which they are rounded
    """
    random = torch.Generator().manual_seed(seed + sum(map(ord, case.name)))
    sizes = parameters(spec, case)
    extent = axis_sizes(spec, sizes)
    rows = 1 if case.packed else len(case.lengths)
    inputs = _inputs(spec, case, sizes | extent, rows, case.tokens, random)
    state = _state(spec, case, sizes, extent, inputs, random)
    shape = (rows, case.tokens, case.heads, extent["value"])
    cotangent = torch.randn(shape, generator=random, dtype=torch.float64)
    offsets = None
    if case.packed:
        offsets = tuple(int(n) for n in torch.tensor((0, *case.lengths)).cumsum(0))
    inputs = {n: _exact(t, narrow(spec, n, dtype), case.strided) for n, t in inputs.items()}
    if state is not None:
        state = {n: _exact(t, narrow(spec, "", dtype), False) for n, t in state.items()}
    return Data(inputs, state, _exact(cotangent, dtype, case.strided), offsets)


def narrow(spec: MemorySpec, name: str, dtype: torch.dtype) -> torch.dtype:
    """The type in which an input is passed: ``dtype`` for tokens, at least float32 for all others."""
    token = any(token.name == name for token in spec.tokens)
    return dtype if token or dtype == torch.float64 else torch.float32


def _exact(tensor: Tensor, dtype: torch.dtype, strided: bool) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    tensor = tensor.to(dtype).double()
    if strided and tensor.dim() > 2:
        tensor = tensor.transpose(1, 2).contiguous().transpose(1, 2)
    return tensor


def _inputs(
    spec: MemorySpec,
    case: Case,
    extent: Mapping[str, int],
    rows: int,
    time: int,
    random: torch.Generator,
) -> dict[str, Tensor]:
    gates = {gate.name: gate for gate in spec.gates}
    inputs: dict[str, Tensor] = {}
    fresh: FreshGates | None = None
    for (kind, name), axes in leaf_axes(spec).items():
        shape = (rows, time, case.heads, *(extent[axis] for axis in axes))
        gate, _, row = name.partition(".")
        if kind == "token":
            inputs[name] = _token(name, axes, shape, case, random)
        else:
            fresh = fresh or FreshGates(spec, inputs, extent, (rows, time, case.heads), random)
            inputs[name] = fresh.gate(gates[gate], axes, row)
            if case.gates is not None:
                inputs[name] = _gate(spec, gates[gate], inputs[name], case.gates, random)
    for gate in spec.gates:
        if "position" in gate.axes:
            assert spec.algorithm.anchored is not None
            block = spec.algorithm.anchored.block
            places = {**extent, "position": block}
            one = FreshGates(spec, {}, places, (1, 1, case.heads), random)
            usual = one.gate(gate, ("position",))[0, 0]
            if case.gates is not None:
                usual = _gate(spec, gate, usual, case.gates, random)
            inputs[gate.name] = usual
    for name, axes, start in spec.network.params:
        shape = (case.heads, *(extent[axis] for axis in axes))
        inputs[name] = start + 0.1 * torch.randn(shape, generator=random, dtype=torch.float64)
    return inputs


def _token(
    name: str, axes: Axes, shape: tuple[int, ...], case: Case, random: torch.Generator
) -> Tensor:
    x = torch.randn(shape, generator=random, dtype=torch.float64)
    usual = case.gates is None
    if case.values == "activations":
        x = _heavy(x)
    if "key" not in axes or name == "value":
        if case.values == "ending":
            x[:, shape[1] // 4 :] = 0
        return {"tiny": TINY, "activations": 1.0}.get(case.values, SPREAD if usual else 1.0) * x
    x = functional.normalize(x, dim=-1)
    if name == "query":
        return x
    if case.keys is None:
        zero = (torch.arange(shape[1]) % 3 == 0).reshape(1, -1, *([1] * (len(shape) - 2)))
        return torch.where(zero, 0.0, x)
    common = functional.normalize(x[:, :1].mean(1, keepdim=True) if shape[1] else x, dim=-1)
    cosine = case.keys
    return functional.normalize(cosine**0.5 * common + (1 - cosine) ** 0.5 * x, dim=-1)


def _heavy(x: Tensor) -> Tensor:
    """Normal numbers as activations of a trained model often are: some far out, and every eighth channel
    100 times larger."""
    channel = torch.arange(x.shape[-1]) % 8 == 7
    return torch.where(channel, 100.0, 1.0) * torch.sinh(1.5 * x) / 2


def bounds(spec: MemorySpec, gate: Gate) -> tuple[float, float]:
    """The ends of a gate's range; an infinite end is replaced by one where the memory is still stable."""
    low, high = float(gate.range.low), float(gate.range.high)
    decays = {d.factor.name for d in spec.retention.decays if isinstance(d.factor, Ref)}
    used = [formula for _, formula in spec.algorithm.rules] + [term.rate for term in spec.terms]
    rate = any(
        isinstance(node, Ref) and node.kind == "gate" and node.name == gate.name
        for formula in used
        for node in iter_nodes(formula)
    )
    block = spec.algorithm.anchored.block if spec.algorithm.anchored else 1
    cap = 1 / block if rate else 2.0
    if gate.name in decays:
        cap = 1.0
    low = -cap if low == -inf else low
    penalty = spec.retention.penalty
    if (
        penalty is not None
        and low == 0
        and gate.name in {getattr(n, "name", "") for n in iter_nodes(penalty)}
    ):
        # A penalty divides by its rates: at a rate of 0 it is infinite and has no minimum.
        low = cap / 16 if high == inf else high / 16
    drives = gate.name in decays
    if spec.retention.link is not None and drives and low == 0:
        # A decay of 0 puts the carried state on the kink that many links have at 0.  The oracle has
        # exactly 0 there; a form that sums logarithms has a tiny number of either sign.
        low = min(1.0, high) / 16
    return low, max(low, low + cap if high == inf else high)


def _gate(
    spec: MemorySpec, gate: Gate, usual: Tensor, share: float, random: torch.Generator
) -> Tensor:
    """A share of a gate's values at the ends of its range, half of the others anywhere in it, and half
    as ``usual``."""
    low, high = bounds(spec, gate)
    inside = torch.rand(usual.shape, generator=random, dtype=torch.float64)
    choice = torch.rand(usual.shape, generator=random, dtype=torch.float64)
    inside = torch.where(choice < share / 2, 0.0, torch.where(choice < share, 1.0, inside))
    anywhere = low + (high - low) * inside
    return torch.where(choice < (1 + share) / 2, anywhere, usual.clamp(low, high))


def _state(
    spec: MemorySpec,
    case: Case,
    sizes: Mapping[str, int],
    extent: Mapping[str, int],
    inputs: Mapping[str, Tensor],
    random: torch.Generator,
) -> State | None:
    """The initial state, or the one after three tokens if the case is warm; None: zeros.

    A weight that starts positive comes from logits of size 1, as in a layer: nearly equal rows would
    leave almost nothing after a normalisation.
    """
    rows = len(case.lengths)
    if "links" in case.checks:
        return _duals(spec, case, sizes, extent, inputs, random)
    learned = any(weight.init != "zero" for weight in spec.states)
    if not learned and not case.warm:
        return None
    first: State = {}
    for weight in spec.states:
        shape = (rows, case.heads, *(extent[axis] for axis in weight.axes))
        value = torch.randn(shape, generator=random, dtype=torch.float64)
        if weight.init != "positive":
            value = value / shape[-1] ** 0.5
        elif spec.retention.bregman is None:
            value = value.softmax(-1)
        names = [weight.name, *([f"{weight.name}.dual"] if spec.retention.at == "chunk" else [])]
        first |= {name: value for name in names}
    before = 3 if case.warm else 0
    few_tokens = Case("", (before,) * rows, case.sizes, heads=case.heads, gates=case.gates and 0.0)
    past = _inputs(spec, few_tokens, {**sizes, **extent}, rows, before, random)
    past |= {
        name: t
        for name, t in inputs.items()
        if ("token", name) not in leaf_axes(spec) and ("gate", name) not in leaf_axes(spec)
    }
    _, state = run(spec, sizes, past, first)
    return state


def _duals(
    spec: MemorySpec,
    case: Case,
    sizes: Mapping[str, int],
    extent: Mapping[str, int],
    inputs: Mapping[str, Tensor],
    random: torch.Generator,
) -> State:
    """States whose numbers have about one size in each sequence: `DUALS`, above 0 and then below."""
    state: State = {}
    scale = torch.tensor([*DUALS, *(-dual for dual in DUALS)], dtype=torch.float64)
    for weight in spec.states:
        shape = (len(case.lengths), case.heads, *(extent[axis] for axis in weight.axes))
        spread = 0.5 + torch.rand(shape, generator=random, dtype=torch.float64)
        value = scale.reshape(-1, *([1] * (len(shape) - 1))) * spread
        names = [weight.name, *([f"{weight.name}.dual"] if spec.retention.at == "chunk" else [])]
        state |= {name: value for name in names}
    return {**initial(spec, sizes, inputs, len(case.lengths), case.heads), **state}
