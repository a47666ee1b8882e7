"""Failures that are nobody's bug, and what is only worth a warning."""

from __future__ import annotations

from .source import escaped


class EnvironmentFailure(Exception):
    """Something outside the spec cannot be used; the message is one sentence with a way out."""

    status = 3
    """The exit status of a command that ends so."""

    def __str__(self) -> str:
        # A file's name, or a text that was read, may hold characters that a terminal obeys.
        return escaped(super().__str__())


class UsageError(EnvironmentFailure):
    """What was asked for has no meaning for what it was asked of."""

    status = 2


class SpecWarning(UserWarning):
    """A spec has a meaning, but perhaps not a good one."""
