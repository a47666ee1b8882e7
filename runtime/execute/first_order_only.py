"""Gradients that may be taken once: a second derivative through them is an error, never a wrong number.

`torch.autograd.function.once_differentiable` leaves its outputs unconnected to the inputs, so that a
second derivative along another way silently lacks the way through them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


def forbid_double_backward(
    gradients: Sequence[Tensor | None], origins: Iterable[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """The same gradients; to be called where a backward pass returns.

    origins  what the gradients were computed from

    With `create_graph` the result depends on the origins through a step that raises RuntimeError when
    it is differentiated.
    """
    if not torch.is_grad_enabled():
        return tuple(gradients)
    given = [g for g in gradients if g is not None]
    made = iter(_Once.apply(len(given), *given, *(x for x in origins if x is not None)))  # type: ignore[misc]
    return tuple(None if g is None else next(made) for g in gradients)


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(x.view_as(x) for x in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:
        raise RuntimeError(
            "second derivatives through a memory are not derived; its token-by-token form has them: "
            "call the layer's `step` for each token"
        )
