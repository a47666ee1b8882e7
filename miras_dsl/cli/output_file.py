"""The file that `-o` writes: all of it or nothing, and never over another file by accident."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from miras_dsl.exceptions import EnvironmentFailure, UsageError

CERTIFICATE = "miras-certificate-"
"""The start of the schema of every certificate."""


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file to write to, checked by `resolve_output`.

    path     as it was given
    regular  False for a pipe or a terminal, which is written to directly; a regular file is replaced
    """

    path: Path
    regular: bool

    @property
    def standard(self) -> bool:
        """Whether it is the standard output of the command."""
        with suppress(OSError):
            return os.path.samestat(self.path.stat(), os.fstat(1))
        return False

    def write(self, text: str) -> None:
        """Write the text; a regular file gets all of it or nothing.  Links are followed.

        Raises EnvironmentFailure.
        """
        try:
            if self.standard:
                sys.stdout.write(text)
            elif not self.regular:
                with open(self.path, "w", encoding="utf-8") as file:
                    file.write(text)
            else:
                _replace(self.path.resolve(), text)
        except OSError as error:
            raise EnvironmentFailure(f"{self.path} cannot be written: {error.strerror}") from error


def resolve_output(
    path: Path, *, spec: str | None = None, force: bool = False, certificate: bool = False
) -> OutputFile:
    """Check that ``path`` can be written, before any work is done.

    spec         the spec that is read, which must not be overwritten
    force        an existing file may be overwritten
    certificate  an existing file may be overwritten if it is a certificate

    Raises UsageError if it is the spec, EnvironmentFailure for a folder or another existing file.
    """
    try:
        there = path.stat()
    except FileNotFoundError:
        return OutputFile(path, regular=True)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise EnvironmentFailure(f"{path} cannot be written: {reason}") from error
    if stat.S_ISDIR(there.st_mode):
        raise EnvironmentFailure(f"{path} is a folder; name a file in it")
    output = OutputFile(path, stat.S_ISREG(there.st_mode))
    if not output.regular or output.standard:
        return output
    if spec is not None and os.path.exists(spec) and os.path.samefile(path, spec):
        raise UsageError(f"{path} is the spec itself; choose another name to write to")
    if certificate and not _is_certificate(path):
        raise EnvironmentFailure(f"{path} exists and is no certificate; choose another name")
    if not (certificate or force):
        raise EnvironmentFailure(f"{path} exists; choose another name, or --force")
    return output


def _is_certificate(path: Path) -> bool:
    """Whether a file is one that `miras check -o` has written."""
    try:
        held = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(held, dict) and all(
        isinstance(one, dict) and str(one.get("schema")).startswith(CERTIFICATE)
        for one in held.values()
    )


def _replace(path: Path, text: str) -> None:
    """Write a temporary file beside ``path`` and rename it, so that ``path`` is always complete."""
    aside = path.with_name(f".miras-{os.getpid()}.aside")
    try:
        with open(aside, "x", encoding="utf-8") as file:
            file.write(text)
        with suppress(FileNotFoundError):
            shutil.copymode(path, aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
