"""Where `-o` writes: a whole file or none, and never over something that was not meant."""

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
"""What the schema of every certificate begins with."""


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A place to write to; `found` has looked at what is there.

    path     as it was given
    regular  False where what is there is no regular file (a pipe, a terminal): it is written to,
             and stays what it is
    """

    path: Path
    regular: bool

    @property
    def standard(self) -> bool:
        """Whether it is the command's own standard output under another name."""
        with suppress(OSError):
            return os.path.samestat(self.path.stat(), os.fstat(1))
        return False

    def write(self, text: str) -> None:
        """Write all of a regular file or nothing; links are followed.  Raises EnvironmentFailure."""
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
    """Look at what ``path`` names, before any work is done for it.

    spec         the file that is read, which is never written to
    force        a file that exists may be overwritten
    certificate  … if it is an earlier certificate

    Raises UsageError and EnvironmentFailure.
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
    """Whether a file holds what `miras check -o` writes, and nothing else."""
    try:
        held = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(held, dict) and all(
        isinstance(one, dict) and str(one.get("schema")).startswith(CERTIFICATE)
        for one in held.values()
    )


def _replace(path: Path, text: str) -> None:
    """Write beside the file and give it the name: the old one stays, or the new one is whole."""
    aside = path.with_name(f".miras-{os.getpid()}.aside")
    try:
        with open(aside, "x", encoding="utf-8") as file:
            file.write(text)
        with suppress(FileNotFoundError):
            shutil.copymode(path, aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
