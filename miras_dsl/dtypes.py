"""The types for which a memory can be certified."""

from __future__ import annotations

from enum import StrEnum


class Dtype(StrEnum):
    """The type of tokens; gates and states are float32, or float64 with float64."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT64 = "float64"
