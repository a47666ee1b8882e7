"""Whether a checkpoint fits the run that goes on from it, and if not, what differs and why."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from .metadata import CheckpointError, Origin


def agree(path: Path, then: Origin, now: Origin) -> None:
    """Raise with the difference when a checkpoint is of another text or configuration."""
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


def of_another_spec(path: Path, then: Origin, now: Origin) -> str | None:
    """How the spec of a checkpoint differs from the one given now; None where both mean the same."""
    if then.digest == now.digest:
        return None
    before, after = then.spec.splitlines(), now.spec.splitlines()
    lines = difflib.unified_diff(before, after, str(path), "the spec given now", lineterm="")
    if shown := "\n".join(lines):
        return f"{path} was trained with another spec:\n{shown}"
    return f"{path} was trained with the same text, but another version of the compiler"


def misfits(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """What differs between the weights of a checkpoint and those of a model, a sentence for each."""
    wrong = [
        f"{name} is missing: the model has {_kind(wanted[name])}"
        for name in wanted
        if name not in weights
    ]
    wrong += [
        f"{name} is not in the model: the checkpoint has {_kind(weights[name])}"
        for name in weights
        if name not in wanted
    ]
    for name in wanted:
        if name not in weights:
            continue
        then, now = weights[name], wanted[name]
        if then.shape != now.shape:
            wrong.append(f"{name} is {tuple(then.shape)}, the model's is {tuple(now.shape)}")
        elif then.dtype != now.dtype:
            wrong.append(f"{name} is {then.dtype}, the model's is {now.dtype}")
    return wrong


def _kind(x: Tensor) -> str:
    return f"{tuple(x.shape)} of {x.dtype}"
