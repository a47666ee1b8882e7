"""The oracle's results for a case: exact ones, and a reference in low precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from miras_dsl.runtime.judge.oracle.run import State
from miras_dsl.runtime.judge.oracle.token_inputs import leaf_axes
from miras_dsl.spec import Apply, Expr, MemorySpec, Ref, iter_nodes

from .cases import Case, Data, data, narrow, parameters
from .oracle import run as oracle
from .tolerance import Kind

Call = Callable[[Mapping[str, Tensor], State | None, Tensor | None], tuple[Tensor, State]]
"""A memory as a function of inputs, state and offsets of packed sequences."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """All results of a call and all gradients, by name: `y`, `state W`, `d key`, `d state W`."""

    values: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Reference:
    """The tensors of a case, and the oracle's outcome in float64 (exact) and in low precision."""

    data: Data
    exact: Outcome
    low: Outcome


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
    exact = outcome(spec, _oracle(spec, case, None), drawn, lambda name: torch.float64)
    return Reference(drawn, exact, _low(spec, case, dtype, drawn))


MAX_REFERENCE_DRAWS = 8
"""How often the low-precision reference is drawn again at most."""


@lru_cache(maxsize=4 * MAX_REFERENCE_DRAWS)
def redraw(
    spec: MemorySpec, case: Case, dtype: torch.dtype, seed: int = 0, number: int = 1
) -> Outcome:
    """The low-precision reference with other rounding errors: every number that the oracle is given is
    moved by one unit in the last place of float32, up or down at random."""
    drawn = reference(spec, case, dtype, seed).data
    random = torch.Generator().manual_seed(seed + number)

    def near(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x
        single = x.float()
        up = torch.rand(x.shape, generator=random) < 0.5
        beyond = torch.where(up, torch.inf, -torch.inf)
        return torch.where(x == 0, x, torch.nextafter(single, beyond).double())

    inputs = {name: near(x) for name, x in drawn.inputs.items()}
    state = drawn.state and {name: near(x) for name, x in drawn.state.items()}
    return _low(spec, case, dtype, replace(drawn, inputs=inputs, state=state))


def _low(spec: MemorySpec, case: Case, dtype: torch.dtype, drawn: Data) -> Outcome:
    """The oracle in float32, with operands of products rounded to ``dtype`` if that is narrower."""
    rounding = torch.float32 if dtype == torch.float64 else dtype
    return outcome(spec, _oracle(spec, case, rounding), drawn, lambda name: torch.float32)


def _oracle(spec: MemorySpec, case: Case, rounding: torch.dtype | None) -> Call:
    sizes = parameters(spec, case)

    def apply(
        inputs: Mapping[str, Tensor], state: State | None, offsets: Tensor | None
    ) -> tuple[Tensor, State]:
        if offsets is None:
            return oracle.run(spec, sizes, inputs, state, rounding=rounding)
        return _separately(spec, sizes, inputs, state, offsets, rounding)

    return apply


def _separately(
    spec: MemorySpec,
    sizes: Mapping[str, int],
    inputs: Mapping[str, Tensor],
    state: State | None,
    offsets: Tensor,
    rounding: torch.dtype | None,
) -> tuple[Tensor, State]:
    """Packed sequences one after the other, each with its own row of the state."""
    timed = {name for _, name in leaf_axes(spec)}
    parts, states = [], []
    for row, (low, high) in enumerate(pairwise(offsets)):
        own = {n: t[:, low:high] if n in timed else t for n, t in inputs.items()}
        before = None if state is None else {n: t[row : row + 1] for n, t in state.items()}
        y, after = oracle.run(spec, sizes, own, before, rounding=rounding)
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


def decays(spec: MemorySpec) -> set[str]:
    """The gates that multiply a carried tensor: the decay, and a momentum's factor of itself."""
    found = {spec.retention.decay.name} if isinstance(spec.retention.decay, Ref) else set()
    for target, formula in spec.algorithm.rules:
        for node in iter_nodes(formula):
            names = [part for part in _factors(node) if isinstance(part, Ref)]
            if any(n.kind == "keep" or (n.kind, n.name) == ("carry", target) for n in names):
                found |= {n.name for n in names if n.kind == "gate"}
    return found


def _factors(expr: Expr) -> list[Expr]:
    if isinstance(expr, Apply) and expr.op in ("mul", "neg"):
        return [factor for arg in expr.args for factor in _factors(arg)]
    if isinstance(expr, Apply) and expr.op == "div":
        return _factors(expr.args[0])
    return [expr]


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
