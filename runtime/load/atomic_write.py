"""Files that survive a power cut: a new one takes the old one's place, or the old one stays."""

from __future__ import annotations

import os
from pathlib import Path


def temporary_beside(path: Path) -> Path:
    """Where the next version of a file is written; what a kill leaves there is overwritten."""
    return path.with_suffix(".aside")


def replace_atomically(path: Path) -> None:
    """Give the file written at ``aside(path)`` its name, once it is on the disk."""
    with open(temporary_beside(path), "rb") as file:
        os.fsync(file.fileno())
    # Whoever wrote it may have made it as a file that only its owner may read.
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(temporary_beside(path), 0o666 & ~mask)
    os.replace(temporary_beside(path), path)
    if os.name == "posix":
        # The name is in the folder, which is written to the disk on its own.
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
