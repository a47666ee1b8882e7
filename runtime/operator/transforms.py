"""A memory's operator under the transforms of `torch.func`: grad and vmap as they are, jvp token by token.

torch has no such rules for an operator itself.  So under a transform it is called through
`torch.autograd.Function`s, which may say what `vmap` does: a batch of calls is one call with as many
times the heads, since heads never meet.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from miras_dsl.runtime.execute.form import without_autocast
from miras_dsl.runtime.execute.token_loop import run_token_loop

from .memory_op import Arguments, MemoryOp, Result
from .schema import NO_SECOND, backward, keep


def token_by_token(op: MemoryOp, given: Arguments) -> Result:
    """The call in plain torch operations, which every transform knows: one token after the other."""
    if given.attention_mask is not None or given.states_every:
        raise RuntimeError(
            "in forward mode a memory takes neither an attention_mask nor states_every; cut the "
            "sequences to their tokens"
        )
    call = op.call(given)
    with without_autocast(call.device):
        y, after = call.empty_result() if call.empty else run_token_loop(call)
    state = dict(zip(op.carried, given.states, strict=True)) | after
    return Result(y, tuple(state[n] for n in op.carried), (), ())


def under_transform(op: MemoryOp, given: Arguments) -> Result:
    """The call under `grad`, `vmap` or both."""
    asked = replace(given, save=True)
    return op.result(_Forward.apply(op, *asked.flat))


class _Forward(torch.autograd.Function):
    """The operator."""

    @staticmethod
    def forward(op: MemoryOp, *flat: Any) -> tuple[Tensor, ...]:
        return tuple(op.forward(*flat))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        op, *flat = inputs
        ctx.op = op
        keep(op, ctx, flat, output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        op = ctx.op
        found = backward(op, ctx, gradients, lambda *flat: _Backward.apply(op, *flat))
        return (None, *found)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], op: MemoryOp, *flat: Any) -> Any:
        folding = Folding(op, info.batch_size)
        given = op.arguments(folding.arguments(flat, in_dims[1:]))
        made = op.result(_Forward.apply(op, *given.flat))
        return folding.result(made, given.form)


class _Backward(torch.autograd.Function):
    """Its derivative."""

    @staticmethod
    def forward(op: MemoryOp, *flat: Any) -> tuple[Tensor, ...]:
        return tuple(op.backward(*flat))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise RuntimeError(NO_SECOND)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], op: MemoryOp, *flat: Any) -> Any:
        folding = Folding(op, info.batch_size)
        made = _Backward.apply(op, *folding.derivative_arguments(flat, in_dims[1:]))
        return folding.gradients(made)


class Folding:
    """A batch of calls as one call: the axis of the batch goes before the heads.

    Token and gate inputs have their heads in axis 2, as windows do, states in axis 1, constants in
    axis 0.  What is saved in chunks has rows of sequences times heads.
    """

    def __init__(self, op: MemoryOp, batch: int) -> None:
        self.op, self.batch = op, batch
        kinds = {"token": 2, "gate": 2, "constant": 0, "position": 0}
        self.inputs = [kinds[f.kind] for f in op.table.inputs]
        self.states = [2 if n.startswith("window.") else 1 for n in op.carried[: op.floating]]

    def arguments(self, flat: tuple[Any, ...], dims: tuple[int | None, ...]) -> tuple[Any, ...]:
        """The operator's arguments for all calls of the batch."""
        count = len(self.inputs) + len(self.states)
        axes = [*self.inputs, *self.states]
        folded = [self._fold(x, d, axis) for x, d, axis in zip(flat, dims, axes, strict=False)]
        return (*folded, *(_alike(x, d) for x, d in zip(flat[count:], dims[count:], strict=True)))

    def derivative_arguments(
        self, flat: tuple[Any, ...], dims: tuple[int | None, ...]
    ) -> tuple[Any, ...]:
        """The derivative's arguments for all calls of the batch."""
        op = self.op
        first = len(op.inputs) + len(op.carried) + 3
        second = first + op.saved
        form = flat[first - 1]
        rows = flat[len(op.inputs)].shape[0 if dims[len(op.inputs)] != 0 else 1]
        own = op.forms[form].saves()
        saved = []
        for n, (x, d) in enumerate(zip(flat[first:second], dims[first:second], strict=True)):
            saved.append(self._fold_saved(x, d, form, rows) if n < own else _first(x, d))
        lead = [2, *self.states]
        rest = zip(flat[second:], dims[second:], lead, strict=True)
        return (
            *self.arguments(flat[:first], dims[:first]),
            *saved,
            *(self._fold(x, d, axis) for x, d, axis in rest),
        )

    def result(self, made: Result, form: str) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
        """The operator's results for each call, and where the axis of the batch is."""
        op = self.op
        found = [self._unfold(made.y, 2)]
        found += [self._unfold(x, n) for x, n in zip(made.after, self.states, strict=False)]
        found += [(x, None) for x in made.after[op.floating :]]
        for n, x in enumerate(made.every):
            inside = n < op.floating and x.dim() > 1
            found.append(self._unfold(x, self.states[n] + 1) if inside else (x, None))
        rows, own = made.after[0].shape[0], op.forms[form].saves()
        for n, x in enumerate(made.saved):
            found.append(self._unfold_saved(x, form, rows) if n < own else (x, None))
        return tuple(x for x, _ in found), tuple(d for _, d in found)

    def gradients(
        self, made: tuple[Tensor, ...]
    ) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
        """The derivative's results for each call, and where the axis of the batch is."""
        axes = [*self.inputs, *self.states]
        found = [self._unfold(x, axis) for x, axis in zip(made, axes, strict=True)]
        return tuple(x for x, _ in found), tuple(d for _, d in found)

    def _fold(self, x: Tensor, dim: int | None, axis: int) -> Tensor:
        """[batch, …, H, …] -> […, batch * H, …], the heads in ``axis``."""
        if dim is None:
            x, dim = x.expand(self.batch, *x.shape), 0
        return x.movedim(dim, axis).flatten(axis, axis + 1)

    def _unfold(self, x: Tensor, axis: int) -> tuple[Tensor, int]:
        return x.unflatten(axis, (self.batch, x.shape[axis] // self.batch)), axis

    def _fold_saved(self, x: Tensor, dim: int | None, form: str, rows: int) -> Tensor:
        if form != "chunk":
            return self._fold(x, dim, 1)
        if dim is None:
            x, dim = x.expand(self.batch, *x.shape), 0
        x = x.movedim(dim, 0).unflatten(2, (rows, -1))
        return x.movedim(0, 2).flatten(1, 3)

    def _unfold_saved(self, x: Tensor, form: str, rows: int) -> tuple[Tensor, int]:
        if form != "chunk":
            return self._unfold(x, 1)
        x = x.unflatten(1, (rows, self.batch, x.shape[1] // rows // self.batch))
        return x.movedim(2, 0).flatten(2, 3), 0


def _first(x: Any, dim: int | None) -> Any:
    return x if dim is None else x.select(dim, 0)


def _alike(x: Any, dim: int | None) -> Any:
    """What must be the same in every call of the batch.  Raises RuntimeError if it is not."""
    if dim is None:
        return x
    one = x.select(dim, 0)
    if not bool((x == one.unsqueeze(dim)).all()):
        raise RuntimeError(
            "vmap over calls whose bounds, masks or positions in blocks differ; compute them in one "
            "call, as rows of the batch"
        )
    return one
