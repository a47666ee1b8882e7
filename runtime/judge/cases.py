"""The inputs on which a memory is judged: eight cases that cover the values below, and their data.

Each of these occurs in at least one case: lengths 0, 1, 2, odd ones and those around a chunk; sizes from
1 to 128, key and value unequal where the memory allows; packed sequences; initial and later states;
gates at both ends of their range; keys at cosine 0, 0.5, 0.95 and 1 to one another, and zero keys;
contiguous tensors and others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from math import inf

import torch
from torch import Tensor
from torch.nn import functional

from miras_dsl.runtime.judge.oracle.run import State, axis_sizes, run
from miras_dsl.runtime.judge.oracle.token_inputs import leaf_axes
from miras_dsl.spec import Axes, Gate, MemorySpec, Ref, iter_nodes

HEADS = 2


@dataclass(frozen=True, slots=True)
class Case:
    """One case.

    lengths  of the sequences: a batch of equal ones, or ``packed`` ones in one row
    sizes    of keys and of values (a memory with one size takes the first)
    warm     start from the state after some tokens, not from the initial one
    keys     cosine between the keys of any two tokens; None: every third key is zero
    gates    share of the gate values that are put at an end of their range
    strided  inputs are not contiguous
    """

    name: str
    lengths: tuple[int, ...]
    sizes: tuple[int, int]
    packed: bool = False
    warm: bool = False
    keys: float | None = 0.0
    gates: float = 0.2
    strided: bool = False

    @property
    def tokens(self) -> int:
        """The length of the time axis."""
        return sum(self.lengths) if self.packed else self.lengths[0]


def covering(chunk: int = 64, longest: int = 130) -> tuple[Case, ...]:
    """The eight cases for a form that works in chunks of ``chunk`` tokens."""
    c = max(2, min(chunk, longest // 2 - 1))
    half = c // 2 + 1
    return (
        Case("two chunks and one", (2 * c + 1,) * 2, (16, 33), keys=0.0),
        Case("chunk and one, warm", (c + 1,), (33, 16), warm=True, keys=0.95, strided=True),
        Case("one chunk, equal keys", (c,), (60, 64), keys=1.0, gates=0.4),
        Case("chunk less one, warm", (c - 1,), (64, 60), warm=True, keys=0.5),
        Case("packed", (0, 1, half, c + 1, 2), (16, 16), packed=True, warm=True, keys=0.5),
        Case("size one", (min(63, c + 2),), (1, 1), warm=True, keys=0.0, strided=True),
        Case("two tokens, zero keys", (2,) * 2, (128, 100), warm=True, keys=None),
        Case("one token", (1,) * 4, (100, 128), keys=0.0, gates=1.0),
    )


def full_product(chunk: int = 64) -> tuple[Case, ...]:
    """Every length with every size, going through keys, gates and states in turn: for a GPU."""
    lengths = sorted({0, 1, 2, chunk - 1, chunk, chunk + 1, 2 * chunk + 1, 63, 65, 1000})
    sizes = (1, 16, 33, 60, 64, 100, 128)
    keys = (0.0, 0.5, 0.95, 1.0, None)
    shares = (0.0, 0.2, 1.0)
    cases = []
    for number, (time, size) in enumerate(product(lengths, sizes)):
        other = sizes[(sizes.index(size) + number) % len(sizes)]
        cases.append(
            Case(
                f"T {time} D {size}",
                (time,) * 2,
                (size, other),
                warm=number % 2 == 1,
                keys=keys[number % 5],
                gates=shares[number % 3],
                strided=number % 4 == 3,
            )
        )
    packings = ((0, 1, chunk + 1, chunk - 1), (5, 0, 0, 2 * chunk), (1, 1, 1, 64, 300))
    cases += [
        Case(f"packed {packing} D {size}", packing, (size, size), packed=True, warm=True, keys=0.5)
        for packing, size in product(packings, (33, 64, 128))
    ]
    return tuple(cases)


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


def parameters(spec: MemorySpec, case: Case) -> dict[str, int]:
    """The size parameters of a memory in a case; a parameter with a default keeps it."""
    axes = dict(spec.sizes)
    values: dict[str, int] = {name: d for name, d in spec.params if d is not None}
    for axis, size in zip(("value", "key"), reversed(case.sizes), strict=True):
        symbol = axes.get(axis)
        if symbol is not None and symbol.is_Symbol and str(symbol) not in values:
            values[str(symbol)] = size
    for name, _ in spec.params:
        values.setdefault(name, case.sizes[0])
    return values


def data(spec: MemorySpec, case: Case, dtype: torch.dtype, seed: int = 0) -> Data:
    """The tensors of a case, drawn from ``seed`` and the case's name.

    dtype  the type of the form under test, for which they are rounded
    """
    random = torch.Generator().manual_seed(seed + sum(map(ord, case.name)))
    sizes = parameters(spec, case)
    extent = axis_sizes(spec, sizes)
    rows = 1 if case.packed else len(case.lengths)
    inputs = _inputs(spec, case, extent, rows, case.tokens, random)
    state = _state(spec, case, sizes, extent, inputs, random)
    shape = (rows, case.tokens, HEADS, extent["value"])
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
    for (kind, name), axes in leaf_axes(spec).items():
        shape = (rows, time, HEADS, *(extent[axis] for axis in axes))
        if kind == "token":
            inputs[name] = _token(name, axes, shape, case, random)
        else:
            inputs[name] = _gate(spec, gates[name.split(".")[0]], shape, case.gates, random)
    for gate in spec.gates:
        if "position" in gate.axes:
            assert spec.algorithm.anchored is not None
            shape = (HEADS, spec.algorithm.anchored.block)
            inputs[gate.name] = _gate(spec, gate, shape, case.gates, random)
    for name, axes, start in spec.network.params:
        shape = (HEADS, *(extent[axis] for axis in axes))
        inputs[name] = start + 0.1 * torch.randn(shape, generator=random, dtype=torch.float64)
    return inputs


def _token(
    name: str, axes: Axes, shape: tuple[int, ...], case: Case, random: torch.Generator
) -> Tensor:
    x = torch.randn(shape, generator=random, dtype=torch.float64)
    if "key" not in axes or name == "value":
        return x
    x = functional.normalize(x, dim=-1)
    if name == "query":
        return x
    if case.keys is None:
        zero = (torch.arange(shape[1]) % 3 == 0).reshape(1, -1, *([1] * (len(shape) - 2)))
        return torch.where(zero, 0.0, x)
    common = functional.normalize(x[:, :1].mean(1, keepdim=True) if shape[1] else x, dim=-1)
    cosine = case.keys
    return functional.normalize(cosine**0.5 * common + (1 - cosine) ** 0.5 * x, dim=-1)


def bounds(spec: MemorySpec, gate: Gate) -> tuple[float, float]:
    """The ends of a gate's range; an infinite end is replaced by one where the memory is still stable."""
    low, high = float(gate.range.low), float(gate.range.high)
    decay = spec.retention.decay
    used = [formula for _, formula in spec.algorithm.rules] + [term.rate for term in spec.terms]
    rate = any(
        isinstance(node, Ref) and node.kind == "gate" and node.name == gate.name
        for formula in used
        for node in iter_nodes(formula)
    )
    block = spec.algorithm.anchored.block if spec.algorithm.anchored else 1
    cap = 1 / block if rate else 2.0
    if isinstance(decay, Ref) and decay.name == gate.name:
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
    drives = isinstance(decay, Ref) and decay.name == gate.name
    if spec.retention.link is not None and drives and low == 0:
        # A decay of 0 puts the carried state on the kink that many links have at 0.  The oracle has
        # exactly 0 there; a form that sums logarithms has a tiny number of either sign.
        low = min(1.0, high) / 16
    return low, max(low, low + cap if high == inf else high)


def _gate(
    spec: MemorySpec, gate: Gate, shape: tuple[int, ...], share: float, random: torch.Generator
) -> Tensor:
    low, high = bounds(spec, gate)
    inside = torch.rand(shape, generator=random, dtype=torch.float64)
    choice = torch.rand(shape, generator=random, dtype=torch.float64)
    inside = torch.where(choice < share / 2, 0.0, torch.where(choice < share, 1.0, inside))
    return low + (high - low) * inside


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
    learned = any(weight.init != "zero" for weight in spec.states)
    if not learned and not case.warm:
        return None
    first: State = {}
    for weight in spec.states:
        shape = (rows, HEADS, *(extent[axis] for axis in weight.axes))
        value = torch.randn(shape, generator=random, dtype=torch.float64)
        if weight.init != "positive":
            value = value / shape[-1] ** 0.5
        elif spec.retention.bregman is None:
            value = value.softmax(-1)
        names = [weight.name, *([f"{weight.name}.dual"] if spec.retention.at == "chunk" else [])]
        first |= {name: value for name in names}
    before = 3 if case.warm else 0
    few_tokens = Case("", (before,) * rows, case.sizes, gates=0.0)
    past = _inputs(spec, few_tokens, extent, rows, before, random)
    past |= {
        name: t
        for name, t in inputs.items()
        if ("token", name) not in leaf_axes(spec) and ("gate", name) not in leaf_axes(spec)
    }
    _, state = run(spec, sizes, past, first)
    return state
