"""On which device a model is trained."""

from __future__ import annotations

import re

import torch
from torch import nn

from miras_dsl.exceptions import EnvironmentFailure, UsageError


def choose_device(wished: str, gpus: int) -> str:
    """The device for a wish, `auto`, `cpu`, `cuda` or `cuda:1`, on a machine with so many GPUs.

    `auto` is the first GPU if there is one, else the CPU.  Raises UsageError for another word,
    EnvironmentFailure for a GPU that is not there.
    """
    if wished == "auto":
        return "cuda" if gpus else "cpu"
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,4})?", wished):
        raise UsageError(f"there is no device {wished:.40}; choose auto, cpu or cuda")
    number = int(wished.partition(":")[2] or 0)
    if wished != "cpu" and number >= gpus:
        held = f"torch finds {gpus}" if gpus else "torch finds none"
        raise EnvironmentFailure(
            f"--device {wished} needs a GPU and {held} on this machine; choose --device cpu, or "
            "install a build of torch for your GPU"
        )
    return wished


def device_here(wished: str) -> torch.device:
    """The device for a wish on this machine; raises what `choose_device` raises."""
    return torch.device(choose_device(wished, torch.cuda.device_count()))


def device_of(model: nn.Module) -> torch.device:
    """Where the parameters of a model lie; the CPU for a model without any."""
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device
