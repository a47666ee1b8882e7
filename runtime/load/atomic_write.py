"""Writing a file so that a crash or a power cut leaves the old version or the new one, never a mixture."""

from __future__ import annotations

import os
from pathlib import Path


def temporary_beside(path: Path) -> Path:
    """Where the next version of a file is written, before it is renamed to ``path``."""
    return path.with_suffix(".aside")


def replace_atomically(path: Path) -> None:
    """Rename the file at ``temporary_beside(path)`` to ``path``, once it is on the disk.

    Raises OSError.
    """
    with open(temporary_beside(path), "rb") as file:
        os.fsync(file.fileno())
    # safetensors makes files that only their owner may read; the umask is to decide.
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(temporary_beside(path), 0o666 & ~mask)
    os.replace(temporary_beside(path), path)
    if os.name == "posix":
        # The new name is part of the folder, which must reach the disk too.
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
