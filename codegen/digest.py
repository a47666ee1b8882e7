"""The digest of what a file means: files from which different text is generated have different ones.

Caches and certificates are keyed by it.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields, is_dataclass

import sympy as sp

from miras_dsl.source import Span
from miras_dsl.spec import FileSpec


def canonical(value: object) -> str:
    """A frozen value as text, without spans and documentation: all that decides the generated code."""
    if is_dataclass(value) and not isinstance(value, type):
        inner = ",".join(
            f"{f.name}={canonical(getattr(value, f.name))}"
            for f in fields(value)
            if f.name not in ("span", "doc", "unused")
            and not isinstance(getattr(value, f.name), Span)
        )
        return f"{type(value).__name__}({inner})"
    if isinstance(value, dict):
        return "{" + ",".join(f"{k}:{canonical(v)}" for k, v in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "[" + ",".join(canonical(v) for v in value) + "]"
    return sp.srepr(value) if isinstance(value, sp.Basic) else repr(value)


def digest_of(spec: FileSpec) -> str:
    """SHA-256 of the canonical form of a checked file."""
    return sha256(canonical(spec))


def sha256(text: str) -> str:
    """SHA-256 of a text, as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()
