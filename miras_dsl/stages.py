"""The stages of a derivation that `miras explain` can show."""

from __future__ import annotations

from enum import StrEnum


class Stage(StrEnum):
    """What is shown of every memory; ``all`` shows all of them in order."""

    SUMMARY = "summary"
    SPEC = "spec"
    LAYER = "layer"
    GRADIENT = "gradient"
    UPDATE = "update"
    CHUNK = "chunk"
    ADJOINT = "adjoint"
    PLAN = "plan"
    CODE = "code"
    ALL = "all"
