"""The settings of a run, the optimiser that they make, and settings read back from a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import nn

from miras_dsl.exceptions import EnvironmentFailure


class TrainError(EnvironmentFailure):
    """Training cannot go on, in one sentence with a way out."""


LARGEST = {"threads": 4096}
"""The numbers beyond which a damaged checkpoint could ask for more than any machine has."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """The settings of a run; two runs with equal settings end with equal weights.

    batch, length      windows per step and bytes per window
    rate, floor        peak learning rate, and the share of it left at the end of the cosine
    warmup             steps of linear warm-up
    evaluate, keep     steps between measurements on the held-out part and between checkpoints
    windows            held-out windows measured
    sample             bytes of text written at each measurement; 0 for none
    threads            of the CPU; 0 as torch chooses when the run begins.  Sums round by it, so a
                       run keeps the number that it began with
    """

    steps: int = 400
    batch: int = 16
    length: int = 256
    rate: float = 3e-3
    floor: float = 0.05
    warmup: int = 30
    decay: float = 0.05
    clip: float = 1.0
    seed: int = 0
    evaluate: int = 100
    keep: int = 50
    windows: int = 64
    sample: int = 200
    threads: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "length", "evaluate", "keep", "windows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


def settings_of(kept: Mapping[str, object]) -> dict[str, int | float]:
    """The settings in a checkpoint's configuration, each of the type that it must have.

    Raises TrainError for one that is none.
    """
    found: dict[str, int | float] = {}
    for field in fields(TrainConfig):
        if (value := kept.get(field.name)) is None:
            continue
        whole = type(field.default) is int
        if not (
            (type(value) is int or (type(value) is float and not whole))
            and isinstance(value, int | float)
            and 0 <= value < LARGEST.get(field.name, 1 << 40)
        ):
            kind = "a whole number" if whole else "a number"
            raise _damaged(f"its setting {field.name} is {value!r:.40}, not {kind} that can be")
        found[field.name] = value
    try:
        TrainConfig(**found)  # type: ignore[arg-type]
    except ValueError as error:
        raise _damaged(str(error)) from error
    return found


def _damaged(reason: str) -> TrainError:
    return TrainError(
        f"the checkpoint is damaged: {reason}; put back a copy of it, or train again in another "
        "folder (--out)"
    )


def optimiser_of(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; matrices decay, vectors and numbers do not."""
    wide = [p for p in model.parameters() if p.ndim >= 2]
    thin = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": wide, "weight_decay": config.decay}, {"params": thin, "weight_decay": 0.0}]
    groups = [g for g in groups if g["params"]]
    return torch.optim.AdamW(groups, lr=config.rate, betas=(0.9, 0.95), eps=1e-8)


def rate_at(config: TrainConfig, step: int) -> float:
    """The learning rate of a step: linear warm-up, then a cosine down to the floor."""
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, config.steps))))
    return config.rate * warm * (config.floor + (1 - config.floor) * cosine)
