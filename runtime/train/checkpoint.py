"""One file that holds a training run at one step: weights, optimiser, random state, origin.

The file is safetensors (no pickle): `model.…` and `optimiser.…` tensors, and one JSON text as
metadata, with a checksum of itself and of every tensor.  It is written beside the old one, flushed
to the disk, and put in its place by one rename; whatever happens before that leaves the old file as
it was.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from miras_dsl.runtime.load import atomic_write
from miras_dsl.runtime.train.run_folder.fit import agree, misfits, of_another_spec
from miras_dsl.runtime.train.run_folder.metadata import (
    FORMAT,
    CheckpointError,
    Facts,
    Origin,
    checksum,
    damaged,
    read_metadata,
)

from .device import device_of

NAME = "checkpoint.safetensors"
RANDOM = "random.torch"
ADAM = frozenset({"step", "exp_avg", "exp_avg_sq"})
"""What AdamW keeps of each parameter that it has changed."""


def save(
    path: Path,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    step: int,
    origin: Origin,
    *,
    log: str = "",
) -> None:
    """Write a checkpoint in place of the one at ``path``; on failure that one stays whole.

    log  the checksum of the run's log up to this step (`MetricsLog.checksum`)
    """
    tensors = {f"model.{k}": _own(v) for k, v in model.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{k}": _own(v) for k, v in state.items()}
    tensors[RANDOM] = torch.get_rng_state()
    about: dict[str, object] = {
        "format": FORMAT,
        "step": step,
        "digest": origin.digest,
        "spec": origin.spec,
        "config": dict(origin.config),
        "text": asdict(origin.text),
        "torch": str(torch.__version__),
        "device": device_of(model).type,
        "log": log,
        "tensors": {name: _checksum_of(x) for name, x in tensors.items()},
    }
    written = {"miras": json.dumps({**about, "sha256": checksum(about)}, sort_keys=True)}
    try:
        save_file(tensors, atomic_write.temporary_beside(path), metadata=written)
        atomic_write.replace_atomically(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"the checkpoint of step {step} could not be written to {path}: {error}; "
            + (
                "the one before it is whole: make room and go on with --resume"
                if path.exists()
                else "make room, or choose another folder (--out)"
            )
        ) from error
    finally:
        with suppress(OSError):
            atomic_write.temporary_beside(path).unlink()


def facts(path: Path) -> Facts:
    """What a checkpoint says of itself.  Raises CheckpointError where there is none to be read."""
    return read_metadata(path, _opened(path, with_tensors=False)[0])


def load(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer | None, origin: Origin | None
) -> int:
    """Put model, optimiser and random state where the checkpoint left them; its step.

    With an ``origin``, a checkpoint of another text or configuration is refused and the difference
    shown.  One of another spec, or of an earlier compiler, is loaded with a warning if its weights
    are the model's; else CheckpointError says which are not and what the spec says now.
    ``optimiser`` None loads the weights alone.
    """
    metadata, tensors = _opened(path, with_tensors=True)
    found = read_metadata(path, metadata)
    if origin is not None:
        agree(path, found.origin, origin)
    _require_whole(path, found, tensors)
    weights = _under("model.", tensors)
    wrong = misfits(weights, model.state_dict())
    other = None if origin is None else of_another_spec(path, found.origin, origin)
    if wrong:
        why = f"\n{other}" if other else ""
        raise CheckpointError(f"{path} does not fit this model:\n  " + "\n  ".join(wrong) + why)
    if other:
        warnings.warn(
            f"{other}\nits weights are the model's all the same: the run goes on with them",
            stacklevel=2,
        )
    if optimiser is not None:
        _restore(path, found.step, tensors, optimiser)
    model.load_state_dict(weights)
    return found.step


def _opened(path: Path, with_tensors: bool) -> tuple[Mapping[str, str], dict[str, Tensor]]:
    """The metadata of a file, and its tensors if they are wanted."""
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path} is no regular file; choose another folder (--out)")
    try:
        with safe_open(path, framework="pt") as file:
            metadata: Mapping[str, str] = file.metadata() or {}
            names = file.keys() if with_tensors else ()
            return metadata, {name: file.get_tensor(name) for name in names}
    except FileNotFoundError as error:
        raise CheckpointError(
            f"there is no checkpoint at {path}; start without --resume, or name the run's folder "
            "with --out"
        ) from error
    except (OSError, SafetensorError, ValueError, OverflowError) as error:
        raise CheckpointError(
            f"{path} is not a readable checkpoint: {error}; choose another folder (--out)"
        ) from error


def _own(tensor: Tensor) -> Tensor:
    """A copy with memory of its own: safetensors refuses tensors that share theirs."""
    return tensor.detach().cpu().contiguous().clone()


def _checksum_of(tensor: Tensor) -> str:
    """SHA-256 over type, shape and every byte of a tensor on the CPU."""
    whole = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)} ".encode())
    whole.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()


def _require_whole(path: Path, found: Facts, tensors: Mapping[str, Tensor]) -> None:
    """Raise where a tensor is not the one that was written; earlier formats have no checksums."""
    if found.tensors is None:
        return
    for name, written in found.tensors.items():
        if name not in tensors:
            raise damaged(path, f"the tensor {name} is missing")
        if _checksum_of(tensors[name]) != written:
            raise damaged(path, f"the tensor {name} is not what was written (its checksum differs)")
    if added := sorted(tensors.keys() - found.tensors.keys()):
        raise damaged(path, f"the tensor {added[0]} was added to it")


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _restore(
    path: Path, step: int, tensors: Mapping[str, Tensor], optimiser: torch.optim.Optimizer
) -> None:
    """The optimiser and the random state as they were; nothing is changed where they do not fit."""
    plain = optimiser.state_dict()
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _under("optimiser.", tensors).items():
        index, _, key = name.partition(".")
        if not index.isdecimal() or int(index) >= len(parameters):
            raise damaged(path, f"optimiser.{name} belongs to no parameter")
        p = parameters[int(index)]
        shape, kind = (
            (p.new_empty(()).shape, torch.float32) if key == "step" else (p.shape, p.dtype)
        )
        if (tensor.shape, tensor.dtype) != (shape, kind):
            raise damaged(
                path,
                f"optimiser.{name} is {tuple(tensor.shape)} of {tensor.dtype} and must be "
                f"{tuple(shape)} of {kind}",
            )
        state.setdefault(int(index), {})[key] = tensor
    moments = ADAM if isinstance(optimiser, torch.optim.AdamW) else frozenset[str]()
    keys = moments.union(*state.values())
    for index, kept in state.items():
        if absent := sorted(keys - kept.keys()):
            raise damaged(path, f"optimiser.{index}.{absent[0]} is missing")
    if step and not state:
        raise damaged(path, "it holds no state of the optimiser")
    random = tensors.get(RANDOM)
    now = torch.get_rng_state()
    if random is None or (random.shape, random.dtype) != (now.shape, now.dtype):
        raise damaged(path, "its random state is missing or none of this torch's")
    try:
        torch.set_rng_state(random)
    except RuntimeError as error:
        raise damaged(path, f"its random state cannot be used ({error})") from error
    optimiser.load_state_dict({"state": state, "param_groups": plain["param_groups"]})


__all__ = ["FORMAT", "NAME", "CheckpointError", "Facts", "Origin", "facts", "load", "save"]
