"""Names of generated code: what a user's identifier becomes, and how a spec line is cited."""

from __future__ import annotations

import keyword
import re

from miras_dsl.source import NOWHERE, Span

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}\Z")
PLAIN_FILE = re.compile(r"[A-Za-z0-9_.-]{1,80}\Z")

TAKEN = frozenset({
    "Answer", "Backbone", "CausalConv", "Embedding", "F", "FeedForward", "Head", "LEAST", "Linear",
    "Mixing", "Past", "RMSNorm", "Shift", "State", "Tensor", "TokenShape", "backbone", "batch",
    "blank", "cu_seqlens", "dict", "empty", "float", "full", "given", "head_size", "heads", "ids",
    "initial_tails", "int", "inverse_softplus_step", "kept", "learned_constant", "learned_weight",
    "log_uniform_rate", "math", "memory", "name", "nn", "part", "past", "positive_weight",
    "range", "rows", "rows_on_simplex", "self", "spread", "start", "state", "super",
    "token_dtype", "torch", "tuple", "unit", "vocab", "width", "x", "y",
})  # fmt: skip
"""Names that generated code needs for itself."""


def identifier(name: str) -> str:
    """``name`` as an identifier of generated code; AssertionError if it is not a validated one."""
    assert IDENTIFIER.match(name), f"not an identifier: {name!r}"
    return f"{name}_" if keyword.iskeyword(name) or name in TAKEN else name


def snake(name: str) -> str:
    """`GatedDelta` -> `gated_delta`, `TTT_MLP` -> `ttt_mlp`, `RWKV7` -> `rwkv7`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", identifier(name))
    return re.sub(r"_{2,}(?=.)", "_", spaced).lower()


def cite(span: Span) -> str:
    """`robust.mem:7`, the place of a span; only a plain file name is repeated."""
    if span is NOWHERE or span.source.name == NOWHERE.source.name:
        return "the specification"
    file = re.split(r"[\\/]", span.source.name)[-1]
    return f"{file if PLAIN_FILE.match(file) else 'spec'}:{span.line}"
