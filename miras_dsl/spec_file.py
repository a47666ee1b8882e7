"""Reads a `.mem` file: regular files only, and no more of one than a spec may have."""

from __future__ import annotations

import os
import stat
from codecs import getincrementaldecoder
from pathlib import Path

from .exceptions import EnvironmentFailure
from .source import Source

MOST_BYTES = (1 << 20) + 64
"""So much of a file is read: enough to see that it is larger than a spec may be."""


def read_file(path: Path, name: str) -> Source:
    """The text of a file under ``name``, or its first `MOST_BYTES`.

    Only regular files are read: a pipe could wait for ever, and a device never end.  Raises
    EnvironmentFailure for any other, and for one that cannot be read or is not UTF-8.
    """
    try:
        # Without O_NONBLOCK opening a pipe would wait for its other end.
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            _refuse_unless_regular(os.fstat(number).st_mode, name)
            with open(number, "rb", closefd=False) as file:
                content = file.read(MOST_BYTES)
        finally:
            os.close(number)
    except FileNotFoundError as error:
        raise EnvironmentFailure(f"there is no file {name}") from error
    except OSError as error:
        raise EnvironmentFailure(f"{name} cannot be read: {error.strerror}") from error
    # Some editors begin a file with a byte order mark; the last character may be cut in the middle.
    decoder = getincrementaldecoder("utf-8-sig")()
    try:
        text = decoder.decode(content, final=len(content) < MOST_BYTES)
    except UnicodeDecodeError as error:
        raise EnvironmentFailure(f"{name} is not UTF-8 text (byte {error.start})") from error
    return Source(name, text.replace("\r\n", "\n").replace("\r", "\n"))


def _refuse_unless_regular(mode: int, name: str) -> None:
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise EnvironmentFailure(f"{name} is a folder; name a .mem file")
    kind = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
    raise EnvironmentFailure(
        f"{name} is {kind}; write the text of the spec to a file and name that"
    )
