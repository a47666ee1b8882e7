"""Exceptions that are not about the text of a spec, and the warning about one."""

from __future__ import annotations

from .source import escaped


class EnvironmentFailure(Exception):
    """A file, folder or device cannot be used; the message is one sentence with a way out."""

    status = 3
    """The exit status of a command that ends with this exception."""

    def __str__(self) -> str:
        # A file's name, or a text that was read, may hold characters that a terminal obeys.
        return escaped(super().__str__())


class UsageError(EnvironmentFailure):
    """A command or a call that has no meaning, such as writing to the file that it reads."""

    status = 2


class SpecWarning(UserWarning):
    """A spec has a meaning, but probably not the one that was meant."""
