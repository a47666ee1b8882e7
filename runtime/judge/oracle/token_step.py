"""One token of the oracle: the events of `order`, on one or several trajectories of the weights.

An exact rule has one trajectory.  An anchored rule has `sweeps` of them: the first learns from
gradients at the weights with which the block began (the anchor), each further one from gradients at
the one before it, as it is when this token predicts.  The last one is read and becomes the next anchor.
With a scale, the weight in reads and gradients is ``anchor + scale * (W - anchor)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from miras_dsl.spec import MemorySpec

from . import rules
from .evaluate import NamedTensor, Scope, evaluate
from .token_inputs import leaf_axes

State = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One trajectory: weights, carried tensors (`S.W`) and, for a link at chunk ends, duals."""

    weights: dict[str, Tensor]
    carries: dict[str, Tensor]
    duals: dict[str, Tensor]


def where_batch(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """``new`` in the batch entries where ``mask`` [batch] is set, else ``old``."""
    if bool(mask.all()):
        return new
    return torch.where(mask.reshape(-1, *([1] * (old.dim() - 1))), new, old) if mask.any() else old


def one_token(
    spec: MemorySpec, inputs: Mapping[str, Tensor], scope: Scope, state: State, track: bool
) -> tuple[Tensor, State]:
    """One token: its answer [batch, heads, value] and the state after it.

    inputs  of all tokens, of which only the per-position gates are read here
    scope   the names of this token
    track   keep the graph for gradients
    """
    scope = _with_position(spec, inputs, scope, state)
    state = _at_block_start(spec, scope, state)
    trajectories = _unpack(spec, state)
    anchored = spec.algorithm.anchored
    points: list[dict[str, Tensor]] = []
    answer: Tensor | None = None
    for event, number in _events(spec):
        inside = _of_pair(scope, number)
        match event:
            case "decay":
                trajectories = [
                    _after_decay(spec, inside, trajectory) for trajectory in trajectories
                ]
            case "predict":
                points = _gradient_points(spec, inside, state, trajectories)
            case "write":
                trajectories = [
                    _after_write(spec, inside, state, trajectory, point, track)
                    for trajectory, point in zip(trajectories, points, strict=True)
                ]
            case "read":
                if anchored and anchored.reads == "start":
                    read = _gradient_points(spec, scope, state, trajectories)[0]
                else:
                    read = _weights_in_use(spec, scope, state, trajectories[-1])
                answer = evaluate(spec.read, rules.weights_as_read(spec, scope, read)).align_to(
                    ("value",)
                )
    assert answer is not None, "an order always reads"
    state = _pack(spec, scope, state, trajectories)
    if track:
        return answer, state
    return answer.detach(), {name: tensor.detach() for name, tensor in state.items()}


def _events(spec: MemorySpec) -> list[tuple[str, int]]:
    """The events of one token in order, each with the number of its pair or step."""
    order = list(spec.order) if "predict" in spec.order else _before_write(spec.order)
    again = max(spec.algorithm.steps, spec.algorithm.pairs)
    at = order.index("write") + 1
    events = [(event, 0) for event in order[:at]]
    events += [(event, number) for number in range(1, again) for event in ("predict", "write")]
    return events + [(event, 0) for event in order[at:]]


def _before_write(order: tuple[str, ...]) -> list[str]:
    at = order.index("write")
    return [*order[:at], "predict", *order[at:]]


def _of_pair(scope: Scope, number: int) -> Scope:
    """The scope in which tensors with a `pair` axis are those of one pair."""
    sliced = {
        name: NamedTensor(
            value.data.select(2 + value.axes.index("pair"), number),
            tuple(axis for axis in value.axes if axis != "pair"),
        )
        for name, value in scope.names.items()
        if "pair" in value.axes
    }
    return scope.with_names(sliced) if sliced else scope


def _with_position(
    spec: MemorySpec, inputs: Mapping[str, Tensor], scope: Scope, state: State
) -> Scope:
    """The scope with the token's `position` in its block, and the gates of that position."""
    if spec.algorithm.anchored is None:
        return scope
    place = state["position"] % spec.algorithm.anchored.block + 1
    like = next(iter(scope.names.values())).data
    names = {("position", "position"): NamedTensor(place.to(like.dtype)[:, None])}
    for gate in spec.gates:
        if "position" in gate.axes:
            names["gate", gate.name] = NamedTensor(inputs[gate.name][:, place - 1].T)
    return scope.with_names(names)


def _at_block_start(spec: MemorySpec, scope: Scope, state: State) -> State:
    """The state where a block starts: the weight is the link of its dual, and the anchor and earlier
    trajectories become the last trajectory."""
    anchored = spec.algorithm.anchored
    if anchored is None:
        return state
    new, fresh = dict(state), state["position"] % anchored.block == 0
    if not fresh.any():
        return state
    for weight in spec.states:
        w = weight.name
        if spec.retention.at == "chunk":
            new[w] = where_batch(
                fresh, rules.linked(spec, scope, {w: state[f"{w}.dual"]})[w], state[w]
            )
        followers = [w, *(f"{s}.{w}" for s in spec.algorithm.carry)]
        for name in followers:
            for i in range(1, anchored.sweeps):
                new[f"{name}.{i}"] = where_batch(fresh, new[name], state[f"{name}.{i}"])
        new[f"{w}.anchor"] = where_batch(fresh, new[w], state[f"{w}.anchor"])
    return new


def _unpack(spec: MemorySpec, state: State) -> list[Trajectory]:
    anchored, names = spec.algorithm.anchored, [weight.name for weight in spec.states]
    carries = [f"{s}.{w}" for s in spec.algorithm.carry for w in names]
    ends = [*(f".{i}" for i in range(1, anchored.sweeps if anchored else 1)), ""]
    duals = {w: state[f"{w}.dual"] for w in names} if spec.retention.at == "chunk" else {}
    return [
        Trajectory(
            {w: state[w + end] for w in names},
            {c: state[c + end] for c in carries},
            {} if end else duals,
        )
        for end in ends
    ]


def _weights_in_use(
    spec: MemorySpec, scope: Scope, state: State, trajectory: Trajectory
) -> dict[str, Tensor]:
    """The weights of a trajectory in reads and gradients: through the link, or scaled."""
    anchored = spec.algorithm.anchored
    if spec.retention.at == "token" and spec.retention.penalty is None:
        return rules.linked(spec, scope, trajectory.weights)
    if anchored is None or anchored.scale is None:
        return trajectory.weights
    axes = rules.axes_of(spec)
    result = {}
    for w, data in trajectory.weights.items():
        scale = evaluate(anchored.scale, scope.with_names({}, w)).align_to(axes[w])
        anchor = state[f"{w}.anchor"]
        result[w] = anchor + scale * (data - anchor)
    return result


def _gradient_points(
    spec: MemorySpec, scope: Scope, state: State, trajectories: list[Trajectory]
) -> list[dict[str, Tensor]]:
    """For each trajectory, the weights at which its gradients are taken."""
    if spec.algorithm.anchored is None:
        return [_weights_in_use(spec, scope, state, trajectory) for trajectory in trajectories]
    anchor = {w.name: state[f"{w.name}.anchor"] for w in spec.states}
    if spec.retention.at == "token":
        anchor = rules.linked(spec, scope, anchor)
    return [
        anchor,
        *(_weights_in_use(spec, scope, state, trajectory) for trajectory in trajectories[:-1]),
    ]


def _after_decay(spec: MemorySpec, scope: Scope, trajectory: Trajectory) -> Trajectory:
    return Trajectory(
        rules.decayed(spec, scope, trajectory.weights),
        trajectory.carries,
        rules.decayed(spec, scope, trajectory.duals),
    )


def _after_write(
    spec: MemorySpec,
    scope: Scope,
    state: State,
    trajectory: Trajectory,
    point: dict[str, Tensor],
    track: bool,
) -> Trajectory:
    """The trajectory after a write, with gradients at the weights ``point``."""
    if spec.algorithm.implicit:
        return Trajectory(
            rules.implicit(spec, scope, trajectory.weights), trajectory.carries, trajectory.duals
        )
    gradients = _gradients(spec, scope, state, point, track)
    weights, carries = rules.apply_rule(
        spec, scope, trajectory.weights, trajectory.carries, gradients
    )
    if spec.retention.penalty is not None:
        weights = rules.proximal(spec, scope, trajectory.weights, gradients)
    duals = trajectory.duals
    if duals:
        duals, _ = rules.apply_rule(spec, scope, duals, trajectory.carries, gradients)
    return Trajectory(weights, carries, duals)


def _gradients(
    spec: MemorySpec, scope: Scope, state: State, point: dict[str, Tensor], track: bool
) -> dict[str, Tensor]:
    """The gradient at the weights ``point``: of this token, and of earlier ones in a window, discounted."""
    total = rules.gradients(spec, scope, point, track)
    if spec.algorithm.window is None:
        return total
    width, discount = spec.algorithm.window
    leaves = {k: v for k, v in leaf_axes(spec).items() if f"window.{k[1]}" in state}
    axes = rules.axes_of(spec)
    for age in range(1, width):
        past = {key: state[f"window.{key[1]}"][:, width - 1 - age] for key in leaves}
        written = torch.stack([(data != 0).flatten(1).any(1) for data in past.values()]).any(0)
        # Where no token was written the gradient is dropped; this token's inputs stand in for the
        # missing ones, because formulas may divide by them.
        names = {
            key: NamedTensor(
                where_batch(written, data, scope.names[key].data.detach()), leaves[key]
            )
            for key, data in past.items()
        }
        old = rules.gradients(spec, scope.with_names(names), point, track)
        for w in total:
            weight = evaluate(discount, scope.with_names({}, w)).align_to(axes[w]) ** age
            mask = written.reshape(-1, *([1] * (old[w].dim() - 1)))
            total[w] = total[w] + torch.where(mask, weight * old[w], torch.zeros_like(old[w]))
    return total


def _pack(spec: MemorySpec, scope: Scope, state: State, trajectories: list[Trajectory]) -> State:
    """The state after the token."""
    new, algorithm = dict(state), spec.algorithm
    for number, trajectory in enumerate(trajectories, 1):
        end = "" if number == len(trajectories) else f".{number}"
        new |= {
            f"{name}{end}": data for name, data in (trajectory.weights | trajectory.carries).items()
        }
        new |= {f"{w}.dual": data for w, data in trajectory.duals.items()}
    block = algorithm.anchored.block if algorithm.anchored else 1
    if "position" in state:
        new["position"] = (state["position"] + 1) % (algorithm.reset or block)
    if algorithm.anchored is not None and algorithm.anchored.scale is not None:
        final, ends = (
            _weights_in_use(spec, scope, state, trajectories[-1]),
            new["position"] % block == 0,
        )
        new |= {w: where_batch(ends, final[w], new[w]) for w in final}
    for kind, name in leaf_axes(spec):
        if f"window.{name}" in state:
            newest = scope.names[kind, name].data[:, None]
            new[f"window.{name}"] = torch.cat([state[f"window.{name}"][:, 1:], newest], 1)
    return new
