"""Names of generated code: what a user's identifier becomes, and how a spec line is cited."""

from __future__ import annotations

import builtins
import keyword
import re

from miras_dsl.source import NOWHERE, Span

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}\Z")
PLAIN_FILE = re.compile(r"[A-Za-z0-9_.-]{1,80}\Z")

RUNTIME = "miras_dsl.runtime.generated"
"""The one module of ours that generated files import."""

IMPORTED = frozenset(
    {
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
        "upcast",
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
        "tl",
        "tl_math",
        "token_dtype",
        "triton",
        "unit",
        "unpadded",
    }
)
"""What they may use of it."""

RESERVED = IMPORTED | {
    "F", "Tensor", "attention_mask", "backbone", "batch", "cu_seqlens", "dict", "empty", "float", "given",
    "heads",    "ids", "int", "kept", "math", "memory", "name", "nn", "past", "range", "self", "state",
    "super", "tl", "torch", "triton", "tuple", "vocab", "width", "x", "y",
}  # fmt: skip
"""Names that generated code needs for itself."""

METHODS = frozenset({
    "T_destination", "add_module", "apply", "bfloat16", "buffers", "call_super_init", "children",
    "compile", "cpu", "cuda", "double", "dump_patches", "eval", "extra_repr", "float", "forward",
    "get_buffer", "get_extra_state", "get_parameter", "get_submodule", "half", "ipu",
    "load_state_dict", "modules", "mtia", "named_buffers", "named_children", "named_modules",
    "named_parameters", "parameters", "register_backward_hook", "register_buffer",
    "register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook",
    "register_full_backward_pre_hook", "register_load_state_dict_post_hook",
    "register_load_state_dict_pre_hook", "register_module", "register_parameter",
    "register_state_dict_post_hook", "register_state_dict_pre_hook", "requires_grad_",
    "reset_parameters", "sizes",
    "set_extra_state", "set_submodule", "share_memory", "state_dict", "to", "to_empty", "train",
    "training", "type", "xpu", "zero_grad", "answer", "feeds", "constants", "initial_state",
    "step", "history",
})  # fmt: skip
"""What `torch.nn.Module` and our layers call their own: no part of a layer may be called so."""


def identifier(name: str) -> str:
    """``name`` as an identifier of generated code; AssertionError if it is not a validated one."""
    assert IDENTIFIER.match(name), f"not an identifier: {name!r}"
    taken = keyword.iskeyword(name) or hasattr(builtins, name) or name in RESERVED
    return f"{name}_" if taken else name


def module_attribute(name: str) -> str:
    """``name`` as the name of a part of a layer."""
    return f"{name}_part" if name in METHODS else name


def snake_case(name: str) -> str:
    """`RobustMemory` -> `robust_memory`, `ABC_Net` -> `abc_net`, `Rule7` -> `rule7`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", identifier(name))
    return re.sub(r"_{2,}(?=.)", "_", spaced).lower()


def source_ref(span: Span) -> str:
    """`robust.mem:7`, the place of a span; only a plain file name is repeated."""
    if span is NOWHERE or span.source.name == NOWHERE.source.name:
        return "the specification"
    file = re.split(r"[\\/]", span.source.name)[-1]
    return f"{file if PLAIN_FILE.match(file) else 'spec'}:{span.line}"
