"""States of layers and models: nested dictionaries of tensors, by name.

A memory's state is {"memory": {weight: [B, H, *axes]}, "conv": {token: tail}, "shift": {…}}; a
layer nests the states of its parts by name, a model those of its blocks by number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from miras_dsl.exceptions import EnvironmentFailure

State = dict[str, Any]
"""name -> Tensor or State."""


def map(state: State, fn: Callable[[Tensor], Tensor]) -> State:
    """``fn`` applied to every tensor, names kept."""
    return {k: fn(v) if isinstance(v, Tensor) else map(v, fn) for k, v in state.items()}


def detach(state: State) -> State:
    """The same numbers without their autograd graph."""
    return map(state, Tensor.detach)


def rows(state: State, index: Tensor) -> State:
    """The state of other rows: row n is row ``index[n]`` of ``state``, as beams of a search need it."""
    return map(state, lambda x: x[index])


def substate(state: State | None, name: str) -> State | None:
    """The state of one part: None before the first call, empty for a part without a state."""
    return None if state is None else state.get(name, {})


def leaves(state: State, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """(path, tensor) for every tensor, with paths such as `0/yaad/memory/S.W`."""
    for name, value in state.items():
        path = f"{prefix}{name}"
        if isinstance(value, Tensor):
            yield path, value
        else:
            yield from leaves(value, f"{path}/")


def flatten(state: State) -> dict[str, Tensor]:
    """path -> tensor, the form that safetensors stores."""
    return dict(leaves(state))


def unflatten(tensors: Mapping[str, Tensor]) -> State:
    """The inverse of `flatten`."""
    state: State = {}
    for path, tensor in tensors.items():
        *folders, name = path.split("/")
        place = state
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = tensor
    return state


def save(state: State, path: str | PathLike[str]) -> None:
    """Write a state to a safetensors file.  Raises EnvironmentFailure where that is not possible."""
    tensors = {name: value.detach().clone().contiguous() for name, value in leaves(state)}
    try:
        save_file(tensors, path)
    except (OSError, SafetensorError) as error:
        raise EnvironmentFailure(f"{path} cannot be written: {error}") from error


def load(path: str | PathLike[str], device: str | torch.device = "cpu") -> State:
    """The state in a safetensors file.

    Raises EnvironmentFailure for a file that cannot be read or is damaged.
    """
    try:
        return unflatten(load_file(path, device=str(device)))
    except FileNotFoundError as error:
        raise EnvironmentFailure(f"there is no file {path}") from error
    except (OSError, SafetensorError) as error:
        raise EnvironmentFailure(f"{path} holds no state: {error}") from error
