"""All that generated files import: the parts of layers, the runner of memories, the operations.

One module, so that a reader of a generated file knows where everything comes from, and so that files
in a cache outlive a change of folders.  Triton is imported only by files that have kernels.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from . import run as chunked
from .execute.packed import Packed, bounds_of, require, rows
from .kernels.launch_config import Recurrence
from .layers.conv_state import LEAST, Past, full
from .layers.lm_blocks import Embedding, FeedForward, Head, Mixing
from .layers.parts import (
    Answer,
    Backbone,
    CausalConv,
    Linear,
    RMSNorm,
    Shift,
    TokenShape,
    blank,
    fill,
    head_size,
    initial_tails,
    inverse_softplus_step,
    learned_constant,
    learned_weight,
    log_uniform_rate,
    orthogonal,
    positive_weight,
    rows_on_simplex,
    start,
    token_dtype,
    unit,
)
from .layers.state_tree import State, part
from .ops import tensor_ops as tiles

WITH_TRITON = {
    "tl": ("optional_triton", "tl"),
    "triton": ("optional_triton", "triton"),
    "tlmath": ("tl_math", ""),
}
"""What only files with kernels import: the module of `kernels`, and the name in it ("": itself)."""


def __getattr__(name: str) -> Any:
    if name not in WITH_TRITON:
        raise AttributeError(f"generated files import no {name}")
    module, inner = WITH_TRITON[name]
    found = import_module(f"miras_dsl.runtime.kernels.{module}")
    return getattr(found, inner) if inner else found


__all__ = [
    "LEAST", "Answer", "Backbone", "CausalConv", "Embedding", "FeedForward", "Head", "Linear",
    "Mixing", "Packed", "Past", "RMSNorm", "Recurrence", "Shift", "State", "TokenShape", "blank",
    "bounds_of", "chunked", "fill", "full", "head_size", "initial_tails", "inverse_softplus_step",
    "learned_constant", "learned_weight", "log_uniform_rate", "orthogonal", "part",
    "positive_weight", "require", "rows", "rows_on_simplex", "start", "tiles", "token_dtype", "unit",
]  # fmt: skip
