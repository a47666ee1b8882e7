"""All that generated files import: parts of layers, `runner`, which runs memories, and `ops`.

It is one module so that a reader of a generated file knows where everything comes from, and so that
files in the cache stay valid when folders of the runtime change.  Triton is imported only by files that
have kernels.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from . import run as runner
from .execute.packed import Packed, batch_rows, parse_cu_seqlens, require
from .kernels.launch_config import Recurrence
from .layers.attention_mask import unpadded
from .layers.conv_state import ConvState, upcast
from .layers.generated_module import GeneratedModule
from .layers.lm_blocks import Embedding, FeedForward, Head, MixerBlock
from .layers.memory_layer import MemoryLayer
from .layers.parts import (
    Backbone,
    CausalConv,
    Linear,
    OutputProjection,
    RMSNorm,
    Shift,
    TokenPreprocess,
    expand_initial,
    expand_to,
    head_numbers,
    head_size,
    initial_tails,
    inverse_softplus_step,
    largest_entries,
    learned_constant,
    learned_weight,
    like_parameters,
    log_uniform_rate,
    orthogonal,
    positive_weight,
    rows_on_simplex,
    token_dtype,
    unit,
)
from .layers.state_tree import State, substate
from .ops import tensor_ops as ops

WITH_TRITON = {
    "tl": ("optional_triton", "tl"),
    "triton": ("optional_triton", "triton"),
    "tl_math": ("tl_math", ""),
}
"""Names that only files with kernels import -> (module of `kernels`, name in it; "": the module)."""


def __getattr__(name: str) -> Any:
    if name not in WITH_TRITON:
        raise AttributeError(f"generated files import no {name}")
    module, inner = WITH_TRITON[name]
    found = import_module(f"miras_dsl.runtime.kernels.{module}")
    return getattr(found, inner) if inner else found


__all__ = [
    "Backbone",
    "CausalConv",
    "ConvState",
    "Embedding",
    "FeedForward",
    "GeneratedModule",
    "Head",
    "Linear",
    "MemoryLayer",
    "MixerBlock",
    "OutputProjection",
    "Packed",
    "RMSNorm",
    "Recurrence",
    "Shift",
    "State",
    "TokenPreprocess",
    "batch_rows",
    "expand_initial",
    "expand_to",
    "head_numbers",
    "head_size",
    "initial_tails",
    "inverse_softplus_step",
    "largest_entries",
    "learned_constant",
    "learned_weight",
    "like_parameters",
    "log_uniform_rate",
    "ops",
    "orthogonal",
    "parse_cu_seqlens",
    "positive_weight",
    "require",
    "rows_on_simplex",
    "runner",
    "substate",
    "token_dtype",
    "unit",
    "unpadded",
    "upcast",
]
