"""The oracle: what a memory means, token by token, with every gradient taken by torch autograd.

It evaluates stage 2 (`spec.MemorySpec`) directly and shares no code with the compiler it judges.

Inputs, one tensor per leaf: tokens and gates by name [batch, time, heads, *axes]; a per-row gate as
`alpha.W`, one for each weight; a per-position gate as [heads, block]; constants of the network by
name [heads, *axes]; `W.init` [heads, *axes] where a memory with `reset` starts from learned values.

State, each [batch, heads, *axes]: `W` for a weight (its dual, where a link acts at every token) and
`S.W` for a carried tensor.  Anchored rules add `W.anchor`; `W.1` … `W.(s-1)` and `S.W.1` … for the
earlier trajectories; and `W.dual` for a link at chunk ends (`W` is then the weight).  Anchored rules and
`reset` add `position` [batch]: the number of tokens since the block started, or since the last reset.  A
window adds `window.<input>` [batch, w-1, heads, …], oldest first; an entry where all inputs are zero was
never written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import sympy as sp
import torch
from torch import Tensor

from miras_dsl.spec import MemorySpec

from .evaluate import NamedTensor, Scope
from .token_inputs import leaf_axes, window_leaves
from .token_step import State, one_token, where_batch


def run(
    spec: MemorySpec,
    sizes: Mapping[str, int],
    inputs: Mapping[str, Tensor],
    state: Mapping[str, Tensor] | None = None,
    *,
    rounding: torch.dtype | None = None,
    watch: Callable[[int, Tensor, State], None] | None = None,
) -> tuple[Tensor, State]:
    """The outputs [batch, time, heads, value] and the state after the last token.

    sizes     size parameters of the memory by name
    state     None, or what of the state is not the initial one
    rounding  the type to which operands of products are rounded, for the low-precision reference
    watch     is called after every token with its number, its answer and the state

    Raises ValueError for clauses that exclude each other, and for learned initial values not given.
    """
    _check(spec)
    first = inputs[next(token.name for token in spec.tokens if token.name in inputs)]
    batch, time, heads = first.shape[:3]
    given = [*inputs.values(), *(state or {}).values()]
    track = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
    with torch.set_grad_enabled(True):
        start = initial(spec, sizes, inputs, batch, heads)
        now = {**start, **(state or {})}
        missing = [name for name, tensor in now.items() if tensor is None]
        if missing:
            raise ValueError(f"learned initial values must be given: {', '.join(missing)}")
        tokens = _by_token(spec, inputs, time)
        constants = _constants(spec, sizes, inputs, first)
        answers = []
        for step in range(time):
            scope = Scope({**constants, **tokens[step]}, rounding)
            now = _restart(spec, now, start)
            answer, now = one_token(spec, inputs, scope, now, track)
            answers.append(answer.expand(batch, heads, *answer.shape[2:]))
            if watch is not None:
                watch(step, answers[-1].detach(), now)
        width = (axis_sizes(spec, sizes)["value"],) if not answers else answers[0].shape[2:]
        empty = first.new_zeros(batch, 0, heads, *width)
        output = torch.stack(answers, 1) if answers else empty
    return output, now


def _check(spec: MemorySpec) -> None:
    retention, anchored = spec.retention, spec.algorithm.anchored
    has_link = retention.link is not None or retention.bregman is not None
    if retention.at == "chunk" and (anchored is None or not has_link):
        raise ValueError("only a link acts `at chunk`, and only with an anchored rule")
    if anchored is not None and anchored.scale is not None and has_link:
        raise ValueError("a scaled block has no link")
    if anchored is not None and (spec.algorithm.implicit or retention.penalty is not None):
        raise ValueError("implicit and proximal steps use the newest weights, not an anchor")


def axis_sizes(spec: MemorySpec, sizes: Mapping[str, int]) -> dict[str, int]:
    """The size of each axis; ``sizes`` has the memory's parameters, or an axis by its name."""
    known = {name: value for name, value in spec.params if value is not None} | dict(sizes)
    values = [(sp.Symbol(name), sp.Integer(value)) for name, value in known.items()]
    return {
        axis: known[axis] if axis in known else int(size.subs(values)) for axis, size in spec.sizes
    }


def initial(
    spec: MemorySpec,
    sizes: Mapping[str, int],
    inputs: Mapping[str, Tensor],
    batch: int,
    heads: int,
) -> dict[str, Tensor]:
    """The state before the first token; None for a learned value that ``inputs`` lacks."""
    like = next(iter(inputs.values()))
    extent = axis_sizes(spec, sizes)
    algorithm, anchored = spec.algorithm, spec.algorithm.anchored
    state: dict = {}
    earlier = range(1, anchored.sweeps) if anchored else range(0)
    for weight in spec.states:
        w = weight.name
        zeros = like.new_zeros(batch, heads, *(extent[axis] for axis in weight.axes))
        if f"{w}.init" in inputs:
            start = inputs[f"{w}.init"].expand(zeros.shape)
        else:
            start = zeros if weight.init == "zero" else None
        state[w] = start
        state |= {f"{s}.{w}": zeros for s in algorithm.carry}
        # These are overwritten when the first block starts.
        if anchored:
            state[f"{w}.anchor"] = zeros
        state |= {f"{w}.{i}": zeros for i in earlier}
        state |= {f"{s}.{w}.{i}": zeros for s in algorithm.carry for i in earlier}
        if spec.retention.at == "chunk":
            state[f"{w}.dual"] = start
    if anchored or algorithm.reset:
        state["position"] = torch.zeros(batch, dtype=torch.int64, device=like.device)
    if algorithm.window:
        for name in window_leaves(spec, inputs):
            past = inputs[name].shape[2:]
            state[f"window.{name}"] = like.new_zeros(batch, algorithm.window[0] - 1, *past)
    return state


def _by_token(
    spec: MemorySpec, inputs: Mapping[str, Tensor], time: int
) -> list[dict[tuple[str, str], NamedTensor]]:
    steps: list[dict[tuple[str, str], NamedTensor]] = [{} for _ in range(time)]
    for (kind, name), axes in leaf_axes(spec).items():
        if name in inputs:
            for step, data in enumerate(inputs[name].unbind(1)):
                steps[step][kind, name] = NamedTensor(data, axes)
    return steps


def _constants(
    spec: MemorySpec, sizes: Mapping[str, int], inputs: Mapping[str, Tensor], like: Tensor
) -> dict[tuple[str, str], NamedTensor]:
    """The names that have the same value at every token: sizes, and constants of the network."""
    known = {name: value for name, value in spec.params if value is not None} | dict(sizes)
    names = {("size", n): NamedTensor(like.new_full((1, 1), float(v))) for n, v in known.items()}
    for name, axes, _ in spec.network.params:
        names["constant", name] = NamedTensor(inputs[name][None], axes)
    return names


def _restart(spec: MemorySpec, state: State, start: Mapping[str, Tensor]) -> State:
    """The state, replaced by the initial one in each batch entry that has reached a `reset`."""
    if not spec.algorithm.reset:
        return state
    fresh = state["position"] == 0
    return {name: where_batch(fresh, start[name], tensor) for name, tensor in state.items()}
