"""Gradients that cannot be differentiated again: a second derivative raises, instead of being wrong.

`torch.autograd.function.once_differentiable` returns gradients that are not connected to the inputs.  A
second derivative that reaches the inputs in another way as well would silently lack a term.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


def forbid_double_backward(
    gradients: Sequence[Tensor | None], origins: Iterable[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """The same gradients, for the end of a `backward` method.

    origins  the tensors that the gradients were computed from

    With `create_graph`, the result is connected to the origins by a function whose own backward pass
    raises RuntimeError.
    """
    if not torch.is_grad_enabled():
        return tuple(gradients)
    given = [g for g in gradients if g is not None]
    made = iter(_FirstOrderOnly.apply(len(given), *given, *(x for x in origins if x is not None)))  # type: ignore[misc]
    return tuple(None if g is None else next(made) for g in gradients)


class _FirstOrderOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(x.view_as(x) for x in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:
        raise RuntimeError(
            "second derivatives through a memory are not derived; its token-by-token form has them: "
            "call the layer's `step` for each token"
        )
