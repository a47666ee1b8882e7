"""Whether the tensors of a call fit each other: their names, shapes, types and devices.

Nothing here but `require_positions` looks at a number, so the same checks hold for tensors that have
none yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from .program_table import MemoryTable
from .tracing import may_look


def lead_of(memory: MemoryTable, inputs: Mapping[str, Tensor]) -> Tensor:
    """The first token or gate, [B, T, H, …], which says how large the call is.

    Raises ValueError if an input is missing, unknown, or this one has fewer axes.
    """
    names = [f.name for f in memory.inputs]
    if absent := [name for name in names if name not in inputs]:
        raise ValueError(f"{memory.name}: the input {min(absent)} is missing")
    if unknown := [name for name in inputs if name not in names]:
        known = ", ".join(names)
        raise ValueError(f"{memory.name} has no input {min(unknown)}; it has {known}")
    first = _first(memory)
    if inputs[first].dim() < 3:
        raise ValueError(f"{memory.name}: {first} is {list(inputs[first].shape)}, not [B, T, H, …]")
    return inputs[first]


def _first(memory: MemoryTable) -> str:
    return next(f.name for f in memory.inputs if f.kind in ("token", "gate"))


def require_fitting(
    memory: MemoryTable,
    inputs: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    sequences: int,
) -> dict[str, int]:
    """The size of every axis, if all tensors fit; the state has a row for each sequence.

    Raises ValueError, naming the tensor and a way out, for a tensor that is missing, or of another
    shape, type or device than the others need.
    """
    lead, first = lead_of(memory, inputs), _first(memory)
    batch, tokens, heads = lead.shape[:3]
    sizes: dict[str, int] = {}
    for given in memory.inputs:
        x = inputs[given.name]
        _require_numbers(memory, given.name, x, first, lead.device)
        if given.kind == "position":
            _require(memory, given.name, x, (heads, memory.block), (), sizes)
        elif given.kind == "constant":
            _require(memory, given.name, x, (heads,), given.axes, sizes)
        else:
            several = memory.steps_per_token > 1 and x.dim() == 4 + len(given.axes)
            shape = (batch, tokens, heads, *([memory.steps_per_token] if several else []))
            _require(memory, given.name, x, shape, given.axes, sizes)
    axes = {f.name: f.axes for f in memory.inputs}
    wanted = [(s.name, (sequences, heads), s.axes) for s in memory.states]
    wanted += [
        (f"window.{n}", (sequences, memory.window - 1, heads), axes[n])
        for n in memory.window_inputs
    ]
    for name, shape, own in wanted:
        x = _state(memory, state, name, sequences)
        _require_numbers(memory, f"state {name}", x, first, lead.device)
        _require(memory, f"state {name}", x, shape, own, sizes)
    if memory.block:
        x = _state(memory, state, "position", sequences)
        whole = not (x.is_floating_point() or x.is_complex())
        if tuple(x.shape) != (sequences,) or not whole:
            raise ValueError(_POSITIONS.format(memory.name, sequences, memory.block - 1))
    return sizes


_POSITIONS = (
    "{}: state position must be {} whole numbers from 0 to {}, the place of each sequence in its "
    "block; start with 0"
)


def require_positions(memory: MemoryTable, x: Tensor) -> None:
    """Raise ValueError unless every position is one of a block, where the numbers are known."""
    if may_look(x) and bool(((x < 0) | (x >= memory.block)).any()):
        raise ValueError(_POSITIONS.format(memory.name, x.shape[0], memory.block - 1))


def carried_of(memory: MemoryTable, state: Mapping[str, Tensor]) -> list[Tensor]:
    """The floating-point tensors of the state: weights and windows."""
    names = [s.name for s in memory.states] + [f"window.{n}" for n in memory.window_inputs]
    return [state[name] for name in names]


def computing_type(tensors: Iterable[Tensor]) -> torch.dtype:
    """The type in which a call computes: float64 if a tensor of it is, else float32."""
    return torch.float64 if any(x.dtype == torch.float64 for x in tensors) else torch.float32


def _state(memory: MemoryTable, state: Mapping[str, Tensor], name: str, sequences: int) -> Tensor:
    if name not in state:
        raise ValueError(
            f"{memory.name}: the state has no {name}; a layer's initial_state({sequences}) has all"
        )
    return state[name]


def _require_numbers(
    memory: MemoryTable, name: str, x: Tensor, first: str, device: torch.device
) -> None:
    if not x.is_floating_point():
        raise ValueError(
            f"{memory.name}: {name} is {x.dtype}, not floating point; convert it with .float()"
        )
    if x.device != device:
        raise ValueError(
            f"{memory.name}: {name} is on {x.device}, {first} on {device}; move one with .to(…)"
        )


def _require(
    memory: MemoryTable,
    name: str,
    x: Tensor,
    lead: tuple[int, ...],
    axes: tuple[str, ...],
    sizes: dict[str, int],
) -> None:
    """Require the shape [*lead, *axes], each axis of the size that it has elsewhere (``sizes``)."""
    if tuple(x.shape[: len(lead)]) != lead or x.dim() != len(lead) + len(axes):
        wanted = ", ".join([*map(str, lead), *axes])
        raise ValueError(
            f"{memory.name}: {name} is {list(x.shape)}, not [{wanted}]: tokens and gates have the "
            "same [B, T, H], and a state has a row for each sequence (initial_state of a layer)"
        )
    for axis, size in zip(axes, x.shape[len(lead) :], strict=True):
        if sizes.setdefault(axis, size) != size:
            raise ValueError(
                f"{memory.name}: {name} has {size} along {axis}, others {sizes[axis]}; "
                "an axis has one length everywhere"
            )
