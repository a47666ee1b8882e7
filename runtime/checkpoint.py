"""One file that holds a training run at one step: weights, optimiser, random state, origin.

The file is safetensors (no pickle): `model.…` and `optimiser.…` tensors, and one JSON text as
metadata.  It is written beside the old one, flushed to the disk, and put in its place by one
rename; whatever happens before that leaves the old file as it was.
"""

from __future__ import annotations

import difflib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from miras_dsl.failures import Unusable

FORMAT = 1
NAME = "checkpoint.safetensors"


class CheckpointError(Unusable):
    """A checkpoint cannot be written or does not fit, in one sentence with a way out."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a run is of: the digest and text of its spec, and its configuration as plain data."""

    digest: str
    spec: str
    config: Mapping[str, object]


def save(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, step: int, origin: Origin
) -> None:
    """Write a checkpoint in place of the one at ``path``; on failure that one stays whole."""
    tensors = {f"model.{k}": _own(v) for k, v in model.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{k}": _own(v) for k, v in state.items()}
    tensors["random.torch"] = torch.get_rng_state()
    facts = {
        "format": FORMAT,
        "step": step,
        "digest": origin.digest,
        "spec": origin.spec,
        "config": dict(origin.config),
        "torch": torch.__version__,
    }
    aside: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=".checkpoint-", dir=path.parent)
        os.close(handle)
        aside = Path(name)
        save_file(tensors, aside, metadata={"miras": json.dumps(facts, sort_keys=True)})
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"the checkpoint of step {step} could not be written to {path}: {error}; "
            + ("the one before it is whole" if path.exists() else "there is none before it")
        ) from error
    finally:
        if aside is not None:
            aside.unlink(missing_ok=True)


def facts(path: Path) -> dict[str, object]:
    """What a checkpoint says of itself: step, digest, spec, config, torch."""
    try:
        with safe_open(path, framework="pt") as file:
            written = (file.metadata() or {}).get("miras")
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint at {path}") from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is not a readable checkpoint: {error}") from error
    if written is None:
        raise CheckpointError(
            f"{path} holds tensors but no run: it was not written by `miras train`"
        )
    found = json.loads(written)
    if found["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has checkpoint format {found['format']}; this version reads format {FORMAT}"
        )
    return found


def load(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer | None, origin: Origin | None
) -> int:
    """Put model, optimiser and random state where the checkpoint left them; its step.

    With an ``origin``, a checkpoint of another spec or configuration is refused and the difference
    shown.  ``optimiser`` None loads the weights alone.
    """
    found = facts(path)
    if origin is not None:
        _agree(path, found, origin)
    with safe_open(path, framework="pt") as file:
        tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    weights = _under("model.", tensors)
    _fit(path, weights, model)
    model.load_state_dict(weights)
    if optimiser is not None:
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under("optimiser.", tensors).items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = tensor
        groups = optimiser.state_dict()["param_groups"]
        optimiser.load_state_dict({"state": state, "param_groups": groups})
        torch.set_rng_state(tensors["random.torch"])
    return int(str(found["step"]))


def _own(tensor: Tensor) -> Tensor:
    """A copy with memory of its own: safetensors refuses tensors that share theirs."""
    return tensor.detach().cpu().contiguous().clone()


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _agree(path: Path, found: Mapping[str, object], origin: Origin) -> None:
    """Raise with a diff when the checkpoint is of another spec or configuration."""
    if found["digest"] != origin.digest:
        before, now = str(found["spec"]).splitlines(), origin.spec.splitlines()
        lines = list(
            difflib.unified_diff(before, now, str(path), "the spec given now", lineterm="")
        )
        shown = "\n".join(lines) if lines else "(same text; the compiler that made it was another)"
        raise CheckpointError(
            f"{path} was trained with another spec; train the old one, or choose another --out:"
            f"\n{shown}"
        )
    old = found["config"]
    assert isinstance(old, dict)
    new = json.loads(json.dumps(dict(origin.config)))
    other = [
        f"{key}: {old.get(key)!r} then, {new.get(key)!r} now"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]
    if other:
        raise CheckpointError(
            f"{path} was trained with other settings; give the same, or choose another --out:\n  "
            + "\n  ".join(other)
        )


def _fit(path: Path, weights: Mapping[str, Tensor], model: nn.Module) -> None:
    """Raise, naming the first tensors that differ, when the weights are not this model's."""
    wanted = model.state_dict()
    wrong = [f"{k} is missing" for k in wanted if k not in weights]
    wrong += [f"{k} is not in the model" for k in weights if k not in wanted]
    wrong += [
        f"{k} is {tuple(weights[k].shape)}, the model's is {tuple(wanted[k].shape)}"
        for k in wanted
        if k in weights and weights[k].shape != wanted[k].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise CheckpointError(f"{path} does not fit this model: {'; '.join(wrong[:5])}{more}")
