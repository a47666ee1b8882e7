"""The schemas of a memory's two operators, the shapes of what they return, and how one is derived."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from miras_dsl.runtime.execute.token_loop import stretch_length
from miras_dsl.runtime.execute.validate import computing_type, require_fitting

if TYPE_CHECKING:
    from .memory_op import Arguments, MemoryOp

NO_SECOND = (
    "second derivatives through a memory are not derived; its token-by-token form has them: "
    "call the layer's `step` for each token"
)
_LIBRARY = torch.library.Library("miras", "FRAGMENT")
_LOCK = Lock()
_TAKEN: set[str] = set()


SCHEMA = (
    "(Tensor[] inputs, Tensor[] states, Tensor? cu_seqlens, Tensor? attention_mask, str form, "
    "bool save, int states_every) -> (Tensor y, Tensor[] after, Tensor[] every, Tensor[] saved)"
)
DERIVATIVE = (
    "(Tensor[] inputs, Tensor[] states, Tensor? cu_seqlens, Tensor? attention_mask, str form, "
    "Tensor[] saved, Tensor d_y, Tensor[] d_after) -> (Tensor[] d_inputs, Tensor[] d_states)"
)


def register(op: MemoryOp) -> tuple[Any, Any]:
    """Define the operator of a memory and its derivative: two `OpOverload`s.

    Their tensors come in lists; everywhere else all arguments, and all results, are one flat list.
    """
    name = _free_name(op)
    derived = f"{name}_backward"
    _LIBRARY.define(name + SCHEMA)
    _LIBRARY.define(derived + DERIVATIVE)

    def result(made: Sequence[Tensor]) -> Any:
        found = op.result(made)
        return found.y, list(found.after), list(found.every), list(found.saved)

    def gradients(made: Sequence[Tensor]) -> Any:
        return list(made[: len(op.inputs)]), list(made[len(op.inputs) :])

    for title, function, shapes, listed in (
        (name, op.compute, _fake_result, result),
        (derived, op.differentiate, _fake_gradients, gradients),
    ):

        def real(*lists: Any, function: Any = function, listed: Any = listed) -> Any:
            return listed(function(*flat(lists)))

        def fake(*lists: Any, shapes: Any = shapes, listed: Any = listed) -> Any:
            return listed(shapes(op, flat(lists)))

        _LIBRARY.impl(title, real, "CompositeExplicitAutograd")
        torch.library.register_fake(f"miras::{title}", fake, lib=_LIBRARY)

    def gradients_of(ctx: Any, d_y: Any, d_after: Any, *rest: Any) -> Any:
        found = backward(op, ctx, (d_y, *(d_after or ())))
        count = len(op.inputs), len(op.inputs) + len(op.carried)
        return list(found[: count[0]]), list(found[count[0] : count[1]]), *found[count[1] :]

    torch.library.register_autograd(
        f"miras::{name}",
        gradients_of,
        setup_context=lambda ctx, inputs, output: keep(op, ctx, flat(inputs), flat(output)),
        lib=_LIBRARY,
    )
    torch.library.register_autograd(
        f"miras::{derived}",
        _no_second,
        setup_context=lambda ctx, inputs, output: None,
        lib=_LIBRARY,
    )
    space = torch.ops.miras
    return getattr(space, name).default, getattr(space, derived).default


def flat(lists: Iterable[Any]) -> list[Any]:
    """Arguments or results in one list."""
    found: list[Any] = []
    for x in lists:
        if isinstance(x, list | tuple):
            found += x
        else:
            found.append(x)
    return found


def _free_name(op: MemoryOp) -> str:
    """A name that says which memory it is, and changes with the text that it was generated in.

    torch keeps compiled graphs by the names of their operators, from one process to the next.
    """
    code = op.table.token.function.__code__
    try:
        text = Path(code.co_filename).read_bytes()
    except OSError:
        text = code.co_code
    name = f"{op.table.name}_{sha256(text).hexdigest()[:12]}"
    with _LOCK:
        number = 1
        while (found := name if number == 1 else f"{name}_{number}") in _TAKEN:
            number += 1
        _TAKEN.add(found)
    return found


# ---------------------------------------------------------------- the derivative


def keep(op: MemoryOp, ctx: Any, inputs: Any, output: Any) -> None:
    """What the derivative needs, kept for it: the `setup_context` of the operator."""
    given, result = op.arguments(inputs), op.result(output)
    own = (*given.inputs, *given.states, given.cu_seqlens, given.attention_mask)
    ctx.save_for_backward(*own, *result.saved)
    ctx.form, ctx.save, ctx.states_every = given.form, given.save, given.states_every
    shaped = (result.y, *result.after[: op.floating])
    ctx.shapes = [(tuple(x.shape), x.dtype, x.device) for x in shaped]
    ctx.mark_non_differentiable(*result.after[op.floating :], *result.every, *result.saved)
    ctx.set_materialize_grads(False)


def backward(
    op: MemoryOp,
    ctx: Any,
    gradients: tuple[Tensor | None, ...],
    derivative: Callable[..., Any] | None = None,
) -> tuple[Any, ...]:
    """The gradients of the operator's arguments, from those of its results.

    derivative  takes the place of `op.backward`
    """
    if ctx.states_every:
        raise RuntimeError(
            "states every n tokens have no gradients; leave `states_every` out, or call the memory "
            "for n tokens at a time"
        )
    if not ctx.save:
        raise RuntimeError("gradients of a memory are asked for that was called with save=False")
    count = len(op.inputs) + len(op.carried)
    held = ctx.saved_tensors
    tensors, (cu_seqlens, mask), saved = held[:count], held[count : count + 2], held[count + 2 :]
    given = op.arguments((*tensors, cu_seqlens, mask, ctx.form, True, 0))
    d_y, *d_after = (
        torch.zeros(shape, dtype=dtype, device=device) if d is None else d
        for d, (shape, dtype, device) in zip(gradients, ctx.shapes, strict=False)
    )
    nothing = (None,) * 5
    again = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    if again and given.form == "token":
        return (*op.differentiate_again(given, d_y, d_after), *nothing)
    found = (derivative or op.backward)(*tensors, cu_seqlens, mask, ctx.form, *saved, d_y, *d_after)
    rest = (None,) * (len(op.carried) - op.floating)
    return (*found, *rest, *nothing)


def _no_second(ctx: Any, *gradients: Any) -> Any:
    raise RuntimeError(NO_SECOND)


# ---------------------------------------------------------------- shapes


def _fake_result(op: MemoryOp, flat: Sequence[Any]) -> tuple[Tensor, ...]:
    """The result as empty tensors: all that is known of it before it is computed."""
    given, memory = op.arguments(flat), op.table
    lead = given.inputs[op.lead]
    batch, tokens, heads = lead.shape[:3]
    packed = given.cu_seqlens is not None
    rows = batch if given.cu_seqlens is None else given.cu_seqlens.shape[0] - 1
    inputs = dict(zip(op.inputs, given.inputs, strict=True))
    sizes = require_fitting(memory, inputs, dict(zip(op.carried, given.states, strict=True)), rows)
    dtype = computing_type((*given.inputs, *given.states))
    y = lead.new_empty(batch, tokens, heads, *(sizes[a] for a in memory.answer))
    after = [
        x.new_empty(rows, *x.shape[1:], dtype=dtype if n < op.floating else x.dtype)
        for n, x in enumerate(given.states)
    ]
    every = [x.new_empty(0) for x in after]
    if given.states_every:
        pieces = (1 if packed else batch, tokens // given.states_every)
        every = [x.new_empty(*pieces, *x.shape[1:]) for x in after]
    saved = [lead.new_empty(0, dtype=dtype) for _ in range(op.saved)]
    if given.save and not given.states_every:
        count, own = _saved_count(op, given), op.forms[given.form].saves()
        lasting = [after[n % len(memory.states)] for n in range(own)]
        if given.form == "chunk":
            shapes = [(count, rows * heads, *x.shape[2:]) for x in lasting]
        else:
            shapes = [(count, *x.shape[1:]) for x in lasting]
        saved[:own] = [x.new_empty(shape) for x, shape in zip(lasting, shapes, strict=True)]
    return (y, *after, *every, *saved)


def _saved_count(op: MemoryOp, given: Arguments) -> Any:
    """How many states the form saves; unknown before the call for packed sequences, say."""
    lead = given.inputs[op.lead]
    batch, tokens = lead.shape[:2]
    rows_alike = given.cu_seqlens is None and given.attention_mask is None
    if given.form == "chunk" and rows_alike and not op.table.block:
        return -(-tokens * op.table.steps_per_token // op.table.chunk)
    if given.form == "token" and rows_alike and isinstance(tokens, int):
        return -(-tokens // stretch_length(tokens)) * batch
    if lead.is_meta and not isinstance(lead, FakeTensor):
        return 1
    return torch.library.get_ctx().new_dynamic_size()


def _fake_gradients(op: MemoryOp, flat: Sequence[Any]) -> tuple[Tensor, ...]:
    wanted = flat[: len(op.inputs) + op.floating]
    return tuple(x.new_empty(x.shape) for x in wanted)
