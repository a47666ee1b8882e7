"""Real text as bytes: where it comes from, which part is held out, and the batch of every step.

A batch is a function of (seed, step) and of nothing else: a run that is resumed sees what it would
have seen.
"""

from __future__ import annotations

import hashlib
import platform
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from miras_dsl.exceptions import EnvironmentFailure
from miras_dsl.runtime.train.run_folder.metadata import Text

SKIPPED = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idlelib", "encodings"}
"""Folders of the standard library that are left out: not its own, or tables rather than text."""

SMALLEST = 4096
"""Bytes below which a text is too short to hold a part out."""


class TextError(EnvironmentFailure):
    """A text cannot be used, in one sentence with a way out."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """A text in two parts, uint8 [n]: what is trained on and what is held out."""

    text: Text
    train: np.ndarray
    held_out: np.ndarray


def standard_library() -> Corpus:
    """The running Python's own sources; one file in twenty, by its name's hash, is held out."""
    folder = Path(sysconfig.get_path("stdlib"))
    train, held_out = [], []
    for path in sorted(folder.rglob("*.py")):
        inside = path.relative_to(folder)
        if SKIPPED.isdisjoint(inside.parts):
            chosen = hashlib.sha256(inside.as_posix().encode()).digest()[0] < 13
            (held_out if chosen else train).append(path.read_bytes())
    name = f"the standard library of Python {platform.python_version()}"
    return _corpus(name, b"\n".join(train), b"\n".join(held_out))


def text_file(path: Path) -> Corpus:
    """A file of the user's; its last twentieth is held out.  Raises TextError."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise TextError(
            f"{path} is no regular file, and a run that is resumed reads its text again; name a text "
            "file with --text"
        )
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise TextError(f"there is no text file at {path}; name one with --text") from error
    except IsADirectoryError as error:
        raise TextError(f"{path} is a directory; name one text file with --text") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise TextError(
            f"the text file {path} cannot be read: {reason}; name another with --text"
        ) from error
    if len(data) < SMALLEST:
        size = f"has {len(data)} bytes" if data else "is empty"
        raise TextError(
            f"the text file {path} {size}; training needs {SMALLEST} bytes or more: "
            "name a longer one with --text"
        )
    if (place := data.find(0)) >= 0:
        raise TextError(
            f"{path} is no text (byte {place} is zero); name a text file in UTF-8 with --text"
        )
    cut = len(data) - len(data) // 20
    return _corpus(str(path), data[:cut], data[cut:], str(path.absolute()))


def _corpus(name: str, train: bytes, held_out: bytes, file: str | None = None) -> Corpus:
    digest = hashlib.sha256(hashlib.sha256(train).digest() + hashlib.sha256(held_out).digest())
    parts = (np.frombuffer(part, dtype=np.uint8) for part in (train, held_out))
    return Corpus(Text(name, digest.hexdigest(), file), *parts)


def batch(data: np.ndarray, size: int, length: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """Tokens and the tokens that follow them, both int64 [size, length], of one training step.

    Raises TextError when the text is shorter than one window.
    """
    _long_enough("training", data, length)
    starts = np.random.default_rng((seed, step)).integers(0, len(data) - length, size=size)
    return _windows(data, starts, length)


def held_out(data: np.ndarray, count: int, length: int) -> tuple[Tensor, Tensor]:
    """The same evenly spaced windows every time, int64 [count, length]."""
    _long_enough("held-out", data, length)
    starts = np.linspace(0, len(data) - length - 1, num=count).astype(np.int64)
    return _windows(data, starts, length)


def bigram_bits(train: np.ndarray, tokens: Tensor, targets: Tensor) -> float:
    """Bits per byte of the byte-bigram model of ``train`` on these windows.

    The baseline of anything that remembers: it knows the previous byte and nothing else.  Pairs of
    bytes are interpolated with single bytes, and these with all bytes alike, so that a short text
    does not make it look worse than it is.
    """
    pairs = train[:-1].astype(np.int64) * 256 + train[1:]
    singles = _witten_bell(np.bincount(train, minlength=256), np.full(256, 1 / 256))
    chances = _witten_bell(np.bincount(pairs, minlength=256 * 256).reshape(256, 256), singles)
    return float(-np.log2(chances[tokens.numpy(), targets.numpy()]).mean())


def _witten_bell(counts: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Chances along the last axis: (count + kinds * below) / (all + kinds).

    ``kinds`` is how many different ones were counted; where nothing was, ``below`` is all we know.
    """
    kinds = np.maximum((counts > 0).sum(axis=-1, keepdims=True), 1)
    return (counts + kinds * below) / (counts.sum(axis=-1, keepdims=True) + kinds)


def _long_enough(part: str, data: np.ndarray, length: int) -> None:
    if len(data) <= length:
        raise TextError(
            f"the {part} part of the text has {len(data)} bytes and a window needs {length + 1}; "
            "give more text (--text) or shorter windows (--length)"
        )


def _windows(data: np.ndarray, starts: np.ndarray, length: int) -> tuple[Tensor, Tensor]:
    rows = torch.from_numpy(data[starts[:, None] + np.arange(length + 1)].astype(np.int64))
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
