"""Edits of a checkpoint's metadata, of its tensors and of its bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from miras_dsl.runtime.train.run_folder.metadata import checksum


def parts(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a checkpoint says of itself, and its tensors."""
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["miras"])
        return about, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def rewrite(path: Path, edit: Callable[[dict[str, Any]], object], forged: bool = False) -> None:
    """Edit the metadata in place; ``forged``: with a checksum that fits what was edited."""
    about, tensors = parts(path)
    edit(about)
    if forged:
        about.pop("sha256", None)
        about["sha256"] = checksum(about)
    save_file(tensors, path, {"miras": json.dumps(about, sort_keys=True)})


def retensor(path: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    """Edit the tensors in place and leave the metadata as it is."""
    about, tensors = parts(path)
    edit(tensors)
    whole = {name: x.contiguous().clone() for name, x in tensors.items()}
    save_file(whole, path, {"miras": json.dumps(about, sort_keys=True)})
