"""The oracle's results for a case: exact ones, and a reference in low precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from math import inf

import torch
from torch import Tensor

from miras_dsl.runtime.judge.oracle.decays import decays
from miras_dsl.runtime.judge.oracle.run import State
from miras_dsl.runtime.judge.oracle.token_inputs import leaf_axes
from miras_dsl.spec import MemorySpec

from .case_data import Data, data, narrow
from .cases import Case, parameters
from .oracle import run as oracle
from .tolerance import VANISHING, Kind, precision

Call = Callable[[Mapping[str, Tensor], State | None, Tensor | None], tuple[Tensor, State]]
"""A memory as a function of inputs, state and offsets of packed sequences."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """All results of a call and all gradients, by name: `y`, `state W`, `d key`, `d state W`."""

    values: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Reference:
    """The tensors of a case, and the oracle's outcome in float64 (exact) and in low precision.

    track  how large the memory was after each token in float64
    """

    data: Data
    exact: Outcome
    low: Outcome
    track: tuple[Reach, ...]


@dataclass(frozen=True, slots=True)
class Reach:
    """The largest number of an answer and the state after a token of a sequence; inf where one is not
    finite."""

    sequence: int
    token: int
    size: float


def kind_of(spec: MemorySpec, name: str) -> Kind:
    """The kind of a quantity of an outcome, which decides its tolerance."""
    if name == "y":
        return "output"
    if not name.startswith("d "):
        return "state"
    if name.startswith("d state "):
        return "state gradient"
    leaf = name.removeprefix("d ")
    if leaf in {token.name for token in spec.tokens}:
        return "token gradient"
    return "decay gradient" if leaf.split(".")[0] in decays(spec) else "gate gradient"


@lru_cache(maxsize=32)
def reference(spec: MemorySpec, case: Case, dtype: torch.dtype, seed: int = 0) -> Reference:
    """The oracle's outcomes for a case; cached, since several checks need them."""
    drawn = data(spec, case, dtype, seed)
    track: list[Reach] = []
    call = _oracle(spec, case, None, track)
    exact = outcome(spec, call, drawn, lambda name: torch.float64)
    return Reference(drawn, exact, _low(spec, case, dtype, drawn), tuple(track))


def rounding_error(spec: MemorySpec, case: Case, dtype: torch.dtype, seed: int, name: str) -> float:
    """How far the low-precision reference of a quantity is off, RMS over RMS; inf if it is not finite."""
    expected = reference(spec, case, dtype, seed)
    return _apart(expected.exact, expected.low, name, dtype)


def _apart(exact: Outcome, low: Outcome, name: str, dtype: torch.dtype) -> float:
    x, y = exact.values[name].double(), low.values[name].double()
    size = float(x.square().mean().sqrt()) if x.numel() else 0.0
    if size < VANISHING:
        return 0.0
    shrink = precision(dtype) / precision(torch.float32) if dtype == torch.float64 else 1.0
    off = shrink * float((y - x).square().mean().sqrt()) / size
    return off if off == off else inf


def other_gates(spec: MemorySpec, case: Case, dtype: torch.dtype, seed: int, gate: str) -> float:
    """The largest rounding error of a case whose other gates all are default ones."""
    drawn = reference(spec, case, dtype, seed).data
    usual = data(spec, replace(case, gates=None), dtype, seed).inputs
    names = {g.name for g in spec.gates} - {gate}
    inputs = {n: usual[n] if n.split(".")[0] in names else x for n, x in drawn.inputs.items()}
    mixed = replace(drawn, inputs=inputs)
    exact = outcome(spec, _oracle(spec, case, None), mixed, lambda name: torch.float64)
    low = _low(spec, case, dtype, mixed)
    names_of = [n for n, x in exact.values.items() if x.is_floating_point()]
    return max(_apart(exact, low, name, dtype) for name in names_of)


@lru_cache(maxsize=32)
def redraw(
    spec: MemorySpec, case: Case, dtype: torch.dtype, seed: int = 0, number: int = 1
) -> Outcome:
    """The low-precision reference with other rounding errors: every number that the oracle is given is
    moved by one unit in the last place of float32, up or down at random."""
    drawn = reference(spec, case, dtype, seed).data
    return _low(spec, case, dtype, _moved(drawn, seed + number))


def _moved(drawn: Data, seed: int) -> Data:
    """The tensors of a case, each number moved by one unit in the last place of float32."""
    random = torch.Generator().manual_seed(seed)

    def near(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x
        single = x.float()
        up = torch.rand(x.shape, generator=random) < 0.5
        beyond = torch.where(up, torch.inf, -torch.inf)
        return torch.where(x == 0, x, torch.nextafter(single, beyond).double())

    inputs = {name: near(x) for name, x in drawn.inputs.items()}
    state = drawn.state and {name: near(x) for name, x in drawn.state.items()}
    return replace(drawn, inputs=inputs, state=state)


def _low(spec: MemorySpec, case: Case, dtype: torch.dtype, drawn: Data) -> Outcome:
    """The oracle in float32, with operands of products rounded to ``dtype`` if that is narrower.

    Where a formula as it is written overflows in float32 on its way to a result that does not, it is
    computed in float64 on numbers that are moved by one unit in the last place of float32.
    """
    rounding = torch.float32 if dtype == torch.float64 else dtype
    found = outcome(spec, _oracle(spec, case, rounding), drawn, lambda name: torch.float32)
    if all(bool(torch.isfinite(value).all()) for value in found.values.values()):
        return found
    narrow_products = None if rounding == torch.float32 else rounding
    call = _oracle(spec, case, narrow_products)
    return outcome(spec, call, _moved(drawn, 1), lambda name: torch.float64)


def _oracle(
    spec: MemorySpec,
    case: Case,
    rounding: torch.dtype | None,
    track: list[Reach] | None = None,
) -> Call:
    sizes = parameters(spec, case)

    def apply(
        inputs: Mapping[str, Tensor], state: State | None, offsets: Tensor | None
    ) -> tuple[Tensor, State]:
        if offsets is None:
            return oracle.run(
                spec, sizes, inputs, state, rounding=rounding, watch=_watching(track, 0)
            )
        return _separately(spec, sizes, inputs, state, offsets, rounding, track)

    return apply


def _watching(
    track: list[Reach] | None, sequence: int
) -> Callable[[int, Tensor, State], None] | None:
    if track is None:
        return None

    def watch(token: int, answer: Tensor, state: State) -> None:
        held = [x for x in (answer, *state.values()) if x.is_floating_point() and x.numel()]
        size = float(torch.stack([x.detach().abs().amax() for x in held]).amax())
        track.append(Reach(sequence, token, size if size == size else inf))

    return watch


def _separately(
    spec: MemorySpec,
    sizes: Mapping[str, int],
    inputs: Mapping[str, Tensor],
    state: State | None,
    offsets: Tensor,
    rounding: torch.dtype | None,
    track: list[Reach] | None = None,
) -> tuple[Tensor, State]:
    """Packed sequences one after the other, each with its own row of the state."""
    timed = {name for _, name in leaf_axes(spec)}
    parts, states = [], []
    for row, (low, high) in enumerate(pairwise(offsets)):
        own = {n: t[:, low:high] if n in timed else t for n, t in inputs.items()}
        before = None if state is None else {n: t[row : row + 1] for n, t in state.items()}
        watch = _watching(track, row)
        y, after = oracle.run(spec, sizes, own, before, rounding=rounding, watch=watch)
        parts.append(y)
        states.append(after)
    return torch.cat(parts, 1), {n: torch.cat([s[n] for s in states]) for n in states[0]}


def leaves(
    spec: MemorySpec, drawn: Data, to: Callable[[str], torch.dtype], device: str = "cpu"
) -> tuple[dict[str, Tensor], State | None, Tensor, Tensor | None]:
    """Copies of a case's tensors that require gradients: (inputs, state, cotangent, offsets).

    to  the type of each input, by name
    """

    def leaf(name: str, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor.to(device)
        return tensor.detach().to(device=device, dtype=to(name), copy=True).requires_grad_()

    inputs = {name: leaf(name, tensor) for name, tensor in drawn.inputs.items()}
    state = drawn.state and {name: leaf("", tensor) for name, tensor in drawn.state.items()}
    offsets = None
    if drawn.offsets is not None:
        offsets = torch.tensor(drawn.offsets, dtype=torch.int32, device=device)
    return inputs, state, drawn.cotangent.to(device=device), offsets


def outcome(
    spec: MemorySpec,
    call: Call,
    drawn: Data,
    to: Callable[[str], torch.dtype],
    device: str = "cpu",
) -> Outcome:
    """Run a memory on a case and compute every gradient.

    The loss is <y, cotangent> + <final state, random numbers>.  For a decay (of the state or of a
    momentum) the gradient is that of its logarithm, decay * gradient: it is what a layer trains with,
    and it is finite where the decay is 0.
    """
    inputs, state, cotangent, offsets = leaves(spec, drawn, to, device)
    y, after = call(inputs, state, offsets)
    after = differentiable_state(spec, after)
    values: dict[str, Tensor] = {"y": y.detach()}
    values |= {f"state {name}": tensor.detach() for name, tensor in after.items()}
    total = (y.double() * cotangent).sum()
    for name, tensor in sorted((n, t) for n, t in after.items() if t.is_floating_point()):
        weights = torch.Generator().manual_seed(len(name) + sum(map(ord, name)))
        random = torch.randn(tensor.shape, generator=weights, dtype=torch.float64).to(device)
        total = total + (tensor.double() * random).sum()
    wanted = {f"d {name}": tensor for name, tensor in inputs.items()}
    if state is not None:
        wanted |= {f"d state {n}": t for n, t in state.items() if t.is_floating_point()}
    found: tuple[Tensor | None, ...] = (None,) * len(wanted)
    if total.requires_grad:
        found = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
    decay_names = decays(spec)
    for (name, tensor), gradient in zip(wanted.items(), found, strict=True):
        full = torch.zeros_like(tensor) if gradient is None else gradient
        if name.removeprefix("d ").split(".")[0] in decay_names:
            full = full * tensor.detach()
        values[name] = full
    return Outcome({name: tensor.cpu() for name, tensor in values.items()})


def differentiable_state(spec: MemorySpec, state: State) -> State:
    """The state with zeros where a value is never read again.

    Between two blocks, the anchor, the earlier trajectories and a weight with a dual are overwritten
    before they are read, so implementations may differ there.
    """
    if spec.algorithm.anchored is None or "position" not in state:
        return state
    between = state["position"] % spec.algorithm.anchored.block == 0
    duals = {name.removesuffix(".dual") for name in state if name.endswith(".dual")}
    dead = {f"{weight.name}.anchor" for weight in spec.states} | duals
    for i in range(1, spec.algorithm.anchored.sweeps):
        dead |= {f"{weight.name}.{i}" for weight in spec.states}
        dead |= {f"{s}.{w.name}.{i}" for s in spec.algorithm.carry for w in spec.states}
    return {
        name: torch.where(between.reshape(-1, *([1] * (t.dim() - 1))), torch.zeros_like(t), t)
        if name in dead
        else t
        for name, t in state.items()
    }


def cast_like(spec: MemorySpec, dtype: torch.dtype) -> Callable[[str], torch.dtype]:
    """The type of each input for a form that runs in ``dtype``."""
    return lambda name: narrow(spec, name, dtype)
