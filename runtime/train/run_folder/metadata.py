"""What a checkpoint says of itself: written as JSON with a checksum, read with every part checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from miras_dsl.exceptions import EnvironmentFailure

FORMAT = 3
WITHOUT_CHECKSUMS = 2
"""The earlier format that is read too."""


class CheckpointError(EnvironmentFailure):
    """A checkpoint cannot be written or does not fit, in one sentence with a way out."""


@dataclass(frozen=True, slots=True)
class Text:
    """Which text it is.

    name    where it came from, with the Python version when that decides it
    sha256  of both its parts, so that two runs can tell whether they read the same
    file    its path from the root, when it is a file of the user's
    """

    name: str
    sha256: str
    file: str | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """What a run is of: digest and text of its spec, configuration as plain data, what it read."""

    digest: str
    spec: str
    config: Mapping[str, object]
    text: Text


@dataclass(frozen=True, slots=True)
class Facts:
    """What a checkpoint says of itself.

    torch    the version that wrote it, device: the kind it was trained on ("" where unknown)
    log      the checksum of the run's log up to the step; "" where unknown
    tensors  the checksum of each tensor by name; None where there are none
    """

    step: int
    origin: Origin
    torch: str
    device: str = ""
    log: str = ""
    tensors: Mapping[str, str] | None = None


def checksum(about: Mapping[str, object]) -> str:
    """SHA-256 of plain data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def damaged(path: Path, reason: str) -> CheckpointError:
    """What to raise where a checkpoint is not what a run wrote."""
    return CheckpointError(
        f"{path} is damaged: {reason}; put back a copy of it, or train again in another folder "
        "(--out)"
    )


def read_metadata(path: Path, metadata: Mapping[str, str]) -> Facts:
    """The facts in the metadata of a file.  Raises CheckpointError where they are none."""
    if "miras" not in metadata:
        raise CheckpointError(
            f"{path} holds tensors but no run: it was not written by `miras train`; "
            "choose another folder (--out)"
        )
    try:
        about = json.loads(metadata["miras"])
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"its metadata is no JSON ({error})") from error
    if not isinstance(about, dict):
        raise damaged(path, "its metadata is no table")
    version = about.get("format")
    if version not in (FORMAT, WITHOUT_CHECKSUMS) or isinstance(version, bool | float):
        raise CheckpointError(
            f"{path} has checkpoint format {version!r:.40} and this version reads formats "
            f"{WITHOUT_CHECKSUMS} and {FORMAT}; train again in another folder (--out)"
        )
    written = about.pop("sha256", None)
    if written is None and version == WITHOUT_CHECKSUMS and "tensors" not in about:
        return _facts(path, about)
    if written != checksum(about) or version != FORMAT:
        raise damaged(path, "its metadata is not what was written (its checksum differs)")
    return _facts(path, about)


def _facts(path: Path, about: Mapping[str, object]) -> Facts:
    step = about.get("step")
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise damaged(path, f"its step is {step!r:.40}, not a number of steps")
    tensors = about.get("tensors")
    if tensors is not None:
        tensors = {name: str(x) for name, x in _table(path, about, "tensors").items()}
    text = _table(path, about, "text")
    file = text.get("file")
    if file is not None and not isinstance(file, str):
        raise damaged(path, "the name of its text is no text")
    read = Text(_word(path, text, "name"), _word(path, text, "sha256"), file)
    config = _table(path, about, "config")
    steps = config.get("steps")
    if isinstance(steps, int) and step > steps:
        raise damaged(path, f"it is of step {step} and its run has {steps}")
    return Facts(
        step,
        Origin(_word(path, about, "digest"), _word(path, about, "spec"), config, read),
        _word(path, about, "torch"),
        _word(path, about, "device", ""),
        _word(path, about, "log", ""),
        tensors,
    )


def _word(path: Path, about: Mapping[str, object], key: str, absent: str | None = None) -> str:
    value = about.get(key, absent)
    if not isinstance(value, str):
        raise damaged(path, f"its {key} is {value!r:.40}, not a text")
    return value


def _table(path: Path, about: Mapping[str, object], key: str) -> dict[str, object]:
    value = about.get(key)
    if not isinstance(value, dict):
        raise damaged(path, f"its {key} is {value!r:.40}, not a table")
    return value
