"""Stage 2: a syntax tree with names resolved and shapes unified, or every mistake of the file at once."""

from .file import check, read, warnings

__all__ = ["check", "read", "warnings"]
