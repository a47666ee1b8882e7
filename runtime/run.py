"""Runs a generated memory over a sequence: in kernels, in chunks or token by token.

A generated file has the arithmetic of a memory as plain functions, and a `MemoryTable` that says what
they take and return.  Nothing here is about a particular memory.  Each memory is a torch operator
(`MemoryOp`), which computes in one of three forms: in the memory's kernels, if it has any and they can
run here; else in chunks (`execute.chunk_form`); and token by token where a rule has no chunk form.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from miras_dsl.runtime.execute.call import validate
from miras_dsl.runtime.execute.form import without_autocast
from miras_dsl.runtime.execute.packed import Packed, parse_cu_seqlens
from miras_dsl.runtime.execute.program_table import (
    BlockEdge,
    MemoryInput,
    MemoryTable,
    Region,
    ScanProgram,
    StateTensor,
    returns,
)
from miras_dsl.runtime.execute.tracing import forward_mode, transformed
from miras_dsl.runtime.execute.validate import computing_type, lead_of, require_fitting

from . import finite_checks
from .execute import token_loop
from .operator.memory_op import Arguments, MemoryOp, Result
from .operator.transforms import token_by_token, under_transform


def run(
    op: MemoryOp,
    inputs: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    cu_seqlens: Packed = None,
    attention_mask: Tensor | None = None,
    form: str | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """A memory over a sequence: y [B, T, H, *answer] and the state after it.

    inputs          tokens and gates [B, T, H, *axes], constants [H, *axes], positions [H, block]
    state           [B, H, *axes] by name, and `position` [B] for rules with blocks
    cu_seqlens      [N + 1] bounds of packed sequences; then B = 1 and states have N rows
    attention_mask  [B, T], 0 where there is no token; y is 0 there
    form            `kernel`, `chunk` or `token`; None: the fastest that can compute the call here

    Computes in float32 whatever the type of the inputs, under autocast too; in float64, and then never
    in kernels, if an input or a state is float64.  Raises ValueError for tensors that do not fit each
    other, and in debug mode `finite_checks.NotFinite` for numbers that are not finite.
    """
    result = _run(op, inputs, state, cu_seqlens, attention_mask, form=form)
    return result.y, {**state, **dict(zip(op.carried, result.after, strict=True))}


def run_and_keep(
    op: MemoryOp,
    inputs: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    cu_seqlens: Packed = None,
    attention_mask: Tensor | None = None,
    *,
    states_every: int,
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """`run`, and the states after each ``states_every`` tokens, which have no gradients.

    They are [B, T // states_every, …] by name, 0 behind the last one of a row; those of packed
    sequences lie in one row, one sequence after the other.
    """
    result = _run(op, inputs, state, cu_seqlens, attention_mask, states_every)
    after = {**state, **dict(zip(op.carried, result.after, strict=True))}
    return result.y, after, dict(zip(op.carried, result.every, strict=True))


def _run(
    op: MemoryOp,
    inputs: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    cu_seqlens: Packed,
    attention_mask: Tensor | None,
    states_every: int = 0,
    form: str | None = None,
) -> Result:
    lead = lead_of(op.table, inputs)
    bounds = parse_cu_seqlens(lead, cu_seqlens)
    rows = lead.shape[0] if bounds is None or attention_mask is not None else len(bounds)
    require_fitting(op.table, inputs, state, rows)
    given = [inputs[n] for n in op.inputs]
    carried = [state[n] for n in op.carried]
    tensors = [*given, *carried]
    save = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    form = form or op.form_on(lead.device, computing_type(tensors) == torch.float64)
    host = None if bounds is None else bounds.host
    asked = Arguments(tuple(given), tuple(carried), host, attention_mask, form, save, states_every)
    if torch.compiler.is_compiling():
        return op.result(op.forward(*asked.flat))
    if forward_mode():
        return token_by_token(op, asked)
    if transformed():
        return under_transform(op, asked)
    return op.result(op.forward(*asked.flat))


def run_token(
    memory: MemoryTable, inputs: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """A memory over one token: the inputs and the answer of `run` without the axis T."""
    timed = {f.name for f in memory.inputs if f.kind in ("token", "gate")}
    longer = {name: x.unsqueeze(1) if name in timed else x for name, x in inputs.items()}
    call = validate(memory, longer, state, None)
    with without_autocast(call.device):
        if call.empty:
            y, after = call.empty_result()
        else:
            y, after = token_loop.run_token_loop(call)
    after = {**state, **after}
    if not torch.compiler.is_compiling() and finite_checks.on():
        finite_checks.require_finite(call, y, after)
    return y.squeeze(1), after


__all__ = [
    "BlockEdge",
    "MemoryInput",
    "MemoryOp",
    "MemoryTable",
    "Region",
    "ScanProgram",
    "StateTensor",
    "returns",
    "run",
    "run_and_keep",
    "run_token",
]
