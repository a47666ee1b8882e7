"""One token of the oracle: the events of `order`, on one or several trajectories of the weights.

An exact rule has one trajectory.  An anchored rule has `sweeps` of them: the first learns from
gradients at the block's first weights (the anchor), each other one from gradients at the one before
it, as that stands when this token predicts; the last one is read and becomes the next anchor.
A scaled block counts what it has learned only in part: the weight is anchor + scale * (W - anchor).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from miras_dsl.spec import Axes, MemorySpec, Ref, iter_nodes

from . import rules
from .evaluate import NamedTensor, Scope, evaluate

State = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One trajectory: carried weights, carried tensors (`S.W`); duals, for a link at chunks."""

    weights: dict[str, Tensor]
    carries: dict[str, Tensor]
    duals: dict[str, Tensor]


def leaf_axes(spec: MemorySpec) -> dict[tuple[str, str], Axes]:
    """(kind, name) -> axes of every per-token leaf; a per-row gate counts once for each weight."""
    leaves: dict[tuple[str, str], Axes] = {("token", t.name): t.axes for t in spec.tokens}
    for gate in spec.gates:
        if "row" in gate.axes:
            for weight in spec.states:
                axes = tuple(weight.axes[0] if a == "row" else a for a in gate.axes)
                leaves["gate", f"{gate.name}.{weight.name}"] = axes
        elif "position" not in gate.axes:
            leaves["gate", gate.name] = gate.axes
    return leaves


def window_leaves(spec: MemorySpec, inputs: Mapping[str, Tensor]) -> list[str]:
    """The leaves that a past token's loss needs again."""
    formulas = []
    for term in spec.terms:
        own = [getattr(term, part, None) for part in ("loss", "error", "place", "answer", "rate")]
        formulas += [formula for formula in own if formula is not None]
    used = {(n.kind, n.name) for f in formulas for n in iter_nodes(f) if isinstance(n, Ref)}
    return [
        name
        for kind, name in leaf_axes(spec)
        if name in inputs and ((kind, name) in used or (kind, name.split(".")[0]) in used)
    ]


def where_batch(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    if bool(mask.all()):
        return new
    return torch.where(mask.reshape(-1, *([1] * (old.dim() - 1))), new, old) if mask.any() else old


def one_token(
    spec: MemorySpec, inputs: Mapping[str, Tensor], scope: Scope, state: State, track: bool
) -> tuple[Tensor, State]:
    """One token: its answer [batch, heads, value] and the state after it."""
    scope = _placed(spec, inputs, scope, state)
    state = _open_block(spec, scope, state)
    courses = _unpack(spec, state)
    anchored = spec.algorithm.anchored
    bases: list[dict[str, Tensor]] = []
    answer: Tensor | None = None
    for event, number in _events(spec):
        inside = _pair(scope, number)
        match event:
            case "decay":
                courses = [_decayed(spec, inside, course) for course in courses]
            case "predict":
                bases = _bases(spec, inside, state, courses)
            case "write":
                courses = [
                    _written(spec, inside, state, course, base, track)
                    for course, base in zip(courses, bases, strict=True)
                ]
            case "read":
                if anchored and anchored.reads == "start":
                    read = _bases(spec, scope, state, courses)[0]
                else:
                    read = _live(spec, scope, state, courses[-1])
                answer = evaluate(spec.read, rules.weights_as_read(spec, scope, read)).on(
                    ("value",)
                )
    assert answer is not None, "an order always reads"
    state = _pack(spec, scope, state, courses)
    if track:
        return answer, state
    return answer.detach(), {name: tensor.detach() for name, tensor in state.items()}


def _events(spec: MemorySpec) -> list[tuple[str, int]]:
    """The events of one token in order, each with the number of the pair or step it belongs to."""
    order = list(spec.order) if "predict" in spec.order else _before_write(spec.order)
    again = max(spec.algorithm.steps, spec.algorithm.pairs)
    at = order.index("write") + 1
    events = [(event, 0) for event in order[:at]]
    events += [(event, number) for number in range(1, again) for event in ("predict", "write")]
    return events + [(event, 0) for event in order[at:]]


def _before_write(order: tuple[str, ...]) -> list[str]:
    at = order.index("write")
    return [*order[:at], "predict", *order[at:]]


def _pair(scope: Scope, number: int) -> Scope:
    """The scope of one of the token's pairs."""
    sliced = {
        name: NamedTensor(
            value.data.select(2 + value.axes.index("pair"), number),
            tuple(axis for axis in value.axes if axis != "pair"),
        )
        for name, value in scope.names.items()
        if "pair" in value.axes
    }
    return scope.with_names(sliced) if sliced else scope


def _placed(spec: MemorySpec, inputs: Mapping[str, Tensor], scope: Scope, state: State) -> Scope:
    """The scope with this token's `position` in its block and the gates on it."""
    if spec.algorithm.anchored is None:
        return scope
    place = state["position"] % spec.algorithm.anchored.block + 1
    like = next(iter(scope.names.values())).data
    names = {("position", "position"): NamedTensor(place.to(like.dtype)[:, None])}
    for gate in spec.gates:
        if "position" in gate.axes:
            names["gate", gate.name] = NamedTensor(inputs[gate.name][:, place - 1].T)
    return scope.with_names(names)


def _open_block(spec: MemorySpec, scope: Scope, state: State) -> State:
    """Where a block begins: link, then anchor and trajectories take the last one's values."""
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


def _live(spec: MemorySpec, scope: Scope, state: State, course: Trajectory) -> dict[str, Tensor]:
    """The weights as they are used: through the link, or scaled from the anchor."""
    anchored = spec.algorithm.anchored
    if spec.retention.at == "token" and spec.retention.penalty is None:
        return rules.linked(spec, scope, course.weights)
    if anchored is None or anchored.scale is None:
        return course.weights
    axes = rules.axes_of(spec)
    result = {}
    for w, data in course.weights.items():
        scale = evaluate(anchored.scale, scope.with_names({}, w)).on(axes[w])
        anchor = state[f"{w}.anchor"]
        result[w] = anchor + scale * (data - anchor)
    return result


def _bases(
    spec: MemorySpec, scope: Scope, state: State, courses: list[Trajectory]
) -> list[dict[str, Tensor]]:
    """The weights at which each trajectory takes its gradients."""
    if spec.algorithm.anchored is None:
        return [_live(spec, scope, state, course) for course in courses]
    anchor = {w.name: state[f"{w.name}.anchor"] for w in spec.states}
    if spec.retention.at == "token":
        anchor = rules.linked(spec, scope, anchor)
    return [anchor, *(_live(spec, scope, state, course) for course in courses[:-1])]


def _decayed(spec: MemorySpec, scope: Scope, course: Trajectory) -> Trajectory:
    return Trajectory(
        rules.decayed(spec, scope, course.weights),
        course.carries,
        rules.decayed(spec, scope, course.duals),
    )


def _written(
    spec: MemorySpec,
    scope: Scope,
    state: State,
    course: Trajectory,
    base: dict[str, Tensor],
    track: bool,
) -> Trajectory:
    """The trajectory after a write with gradients at ``base``."""
    if spec.algorithm.implicit:
        return Trajectory(rules.implicit(spec, scope, course.weights), course.carries, course.duals)
    slopes = _slopes(spec, scope, state, base, track)
    weights, carries = rules.apply_rule(spec, scope, course.weights, course.carries, slopes)
    if spec.retention.penalty is not None:
        weights = rules.proximal(spec, scope, course.weights, slopes)
    duals = course.duals
    if duals:
        duals, _ = rules.apply_rule(spec, scope, duals, course.carries, slopes)
    return Trajectory(weights, carries, duals)


def _slopes(
    spec: MemorySpec, scope: Scope, state: State, base: dict[str, Tensor], track: bool
) -> dict[str, Tensor]:
    """The gradient at ``base``: of this token, or of a window of tokens, older ones discounted."""
    total = rules.gradients(spec, scope, base, track)
    if spec.algorithm.window is None:
        return total
    width, discount = spec.algorithm.window
    leaves = {k: v for k, v in leaf_axes(spec).items() if f"window.{k[1]}" in state}
    axes = rules.axes_of(spec)
    for age in range(1, width):
        past = {key: state[f"window.{key[1]}"][:, width - 1 - age] for key in leaves}
        written = torch.stack([(data != 0).flatten(1).any(1) for data in past.values()]).any(0)
        # A slot never written counts for nothing; formulas that divide see this token there.
        names = {
            key: NamedTensor(
                where_batch(written, data, scope.names[key].data.detach()), leaves[key]
            )
            for key, data in past.items()
        }
        old = rules.gradients(spec, scope.with_names(names), base, track)
        for w in total:
            weight = evaluate(discount, scope.with_names({}, w)).on(axes[w]) ** age
            mask = written.reshape(-1, *([1] * (old[w].dim() - 1)))
            total[w] = total[w] + torch.where(mask, weight * old[w], torch.zeros_like(old[w]))
    return total


def _pack(spec: MemorySpec, scope: Scope, state: State, courses: list[Trajectory]) -> State:
    """The state after the token."""
    new, algorithm = dict(state), spec.algorithm
    for number, course in enumerate(courses, 1):
        end = "" if number == len(courses) else f".{number}"
        new |= {f"{name}{end}": data for name, data in (course.weights | course.carries).items()}
        new |= {f"{w}.dual": data for w, data in course.duals.items()}
    block = algorithm.anchored.block if algorithm.anchored else 1
    if "position" in state:
        new["position"] = (state["position"] + 1) % (algorithm.reset or block)
    if algorithm.anchored is not None and algorithm.anchored.scale is not None:
        final, ends = _live(spec, scope, state, courses[-1]), new["position"] % block == 0
        new |= {w: where_batch(ends, final[w], new[w]) for w in final}
    for kind, name in leaf_axes(spec):
        if f"window.{name}" in state:
            newest = scope.names[kind, name].data[:, None]
            new[f"window.{name}"] = torch.cat([state[f"window.{name}"][:, 1:], newest], 1)
    return new
