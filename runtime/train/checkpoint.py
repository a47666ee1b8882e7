"""One file that holds a training run at one step: weights, optimiser, random state, origin.

The file is safetensors (no pickle): `model.…` and `optimiser.…` tensors, and one JSON text as
metadata.  It is written beside the old one, flushed to the disk, and put in its place by one
rename; whatever happens before that leaves the old file as it was.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from miras_dsl.exceptions import EnvironmentFailure
from miras_dsl.runtime.load import atomic_write

from .dataset import Text

FORMAT = 2
NAME = "checkpoint.safetensors"


class CheckpointError(EnvironmentFailure):
    """A checkpoint cannot be written or does not fit, in one sentence with a way out."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a run is of: digest and text of its spec, configuration as plain data, what it read."""

    digest: str
    spec: str
    config: Mapping[str, object]
    text: Text


@dataclass(frozen=True, slots=True)
class Facts:
    """What a checkpoint says of itself; ``torch`` is the version that wrote it."""

    step: int
    origin: Origin
    torch: str


def save(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, step: int, origin: Origin
) -> None:
    """Write a checkpoint in place of the one at ``path``; on failure that one stays whole."""
    tensors = {f"model.{k}": _own(v) for k, v in model.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{k}": _own(v) for k, v in state.items()}
    tensors["random.torch"] = torch.get_rng_state()
    about = {
        "format": FORMAT,
        "step": step,
        "digest": origin.digest,
        "spec": origin.spec,
        "config": dict(origin.config),
        "text": asdict(origin.text),
        "torch": str(torch.__version__),
    }
    written = {"miras": json.dumps(about, sort_keys=True)}
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
    try:
        with safe_open(path, framework="pt") as file:
            written = (file.metadata() or {}).get("miras")
    except FileNotFoundError as error:
        raise CheckpointError(
            f"there is no checkpoint at {path}; start without --resume, or name the run's folder "
            "with --out"
        ) from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is not a readable checkpoint: {error}; choose another folder (--out)"
        ) from error
    if written is None:
        raise CheckpointError(
            f"{path} holds tensors but no run: it was not written by `miras train`; "
            "choose another folder (--out)"
        )
    found = json.loads(written)
    if found["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has checkpoint format {found['format']} and this version reads format "
            f"{FORMAT}; train again in another folder (--out)"
        )
    origin = Origin(found["digest"], found["spec"], found["config"], Text(**found["text"]))
    return Facts(found["step"], origin, found["torch"])


def load(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer | None, origin: Origin | None
) -> int:
    """Put model, optimiser and random state where the checkpoint left them; its step.

    With an ``origin``, a checkpoint of another spec, text or configuration is refused and the
    difference shown.  ``optimiser`` None loads the weights alone.
    """
    found = facts(path)
    if origin is not None:
        _agree(path, found.origin, origin)
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
    return found.step


def _own(tensor: Tensor) -> Tensor:
    """A copy with memory of its own: safetensors refuses tensors that share theirs."""
    return tensor.detach().cpu().contiguous().clone()


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _agree(path: Path, then: Origin, now: Origin) -> None:
    """Raise with the difference when the checkpoint is of another spec, text or configuration."""
    if then.digest != now.digest:
        before, after = then.spec.splitlines(), now.spec.splitlines()
        lines = list(
            difflib.unified_diff(before, after, str(path), "the spec given now", lineterm="")
        )
        shown = "\n".join(lines) if lines else "(same text; the compiler that made it was another)"
        raise CheckpointError(
            f"{path} was trained with another spec; train the old one, or choose another --out:"
            f"\n{shown}"
        )
    if then.text.sha256 != now.text.sha256:
        first, given = (text.file or text.name for text in (then.text, now.text))
        raise CheckpointError(
            f"{path} was trained on {first}, "
            + ("which has changed since" if first == given else f"not on {given}")
            + "; give the same text (--text), or choose another --out"
        )
    old, new = then.config, json.loads(json.dumps(dict(now.config)))
    other = {
        key: (old.get(key), new.get(key))
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    }
    if other:
        raise other_settings(path, other)


def other_settings(path: Path, other: Mapping[str, tuple[object, object]]) -> CheckpointError:
    """What to raise for settings (then, now) in which a run cannot go on."""
    lines = [f"{key}: {then!r} then, {now!r} now" for key, (then, now) in other.items()]
    if "steps" in other:
        lines.append(
            "the learning rate falls over the steps that a run begins with, so that it cannot get "
            "more of them: begin a new run with --steps in another folder (--out)"
        )
    return CheckpointError(
        f"{path} was trained with other settings; give the same, or choose another --out:\n  "
        + "\n  ".join(lines)
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
