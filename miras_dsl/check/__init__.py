"""Stage 2: from a syntax tree to a spec with names resolved and shapes known, or all mistakes at once."""

from .file import check, read, warnings

__all__ = ["check", "read", "warnings"]
