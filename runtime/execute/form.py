"""The ways to compute a memory: what each must do, and what they share.

A form computes a call without a graph, and later its gradients from what it saved.  `memory_op` makes
one differentiable torch operator of a memory's forms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from .call import MemoryCall


@dataclass(frozen=True, slots=True)
class Computed:
    """The result of a call.

    y      [B, T, H, *answer]
    after  every tensor of the state after the call, by name
    saved  what the form's `gradients` needs beside the call: as many tensors as `saves` says
    """

    y: Tensor
    after: dict[str, Tensor]
    saved: tuple[Tensor, ...] = ()


Gradients = dict[str, Tensor]
"""The gradients of inputs by name, and of states as `state W`."""


class Form(Protocol):
    """A way to compute a call that is not empty."""

    def saves(self) -> int:
        """How many tensors are saved for the gradients."""
        ...

    def compute(self, call: MemoryCall, save: bool) -> Computed:
        """The answers and the state after the call; ``saved`` is empty unless ``save``."""
        ...

    def gradients(
        self,
        call: MemoryCall,
        saved: Sequence[Tensor],
        d_y: Tensor,
        d_after: Mapping[str, Tensor],
    ) -> Gradients:
        """The gradients of the inputs and states, given those of the result (``d_after`` by name)."""
        ...


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Keeps autocast from rounding states and products that the plan has in float32 or float64."""
    if device.type == "meta":
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def with_autograd() -> AbstractContextManager[None]:
    """Turns autograd on inside an operator, where torch turns it off."""
    exclude = torch._C._dispatch_tls_local_exclude_set()
    for key in (torch._C.DispatchKey.AutogradFunctionality, torch._C.DispatchKey.ADInplaceOrView):
        exclude = exclude.remove(key)
    return torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), exclude)


@dataclass(frozen=True, slots=True)
class Leaves:
    """A call whose floating-point tensors are leaves of a new graph.

    What a form makes of them before it computes (casts, chunks, windows) is recorded by autograd, and
    `pull_back` goes that way in reverse.
    """

    call: MemoryCall
    tensors: Mapping[str, Tensor]

    def pull_back(self, pairs: Iterable[tuple[Tensor, Tensor | None]]) -> Gradients:
        """The gradients of the leaves from those of tensors made of them: (tensor, gradient) pairs."""
        made = [(x, g) for x, g in pairs if g is not None and x.requires_grad]
        if not made:
            return {name: torch.zeros_like(x) for name, x in self.tensors.items()}
        found = torch.autograd.grad(
            [x for x, _ in made],
            list(self.tensors.values()),
            [g.expand(x.shape).to(x.dtype) for x, g in made],
            allow_unused=True,
            materialize_grads=True,
        )
        return dict(zip(self.tensors, found, strict=True))


def leaves_of(call: MemoryCall) -> Leaves:
    """The same call on leaves."""
    inputs = {name: x.detach().requires_grad_() for name, x in call.inputs.items()}
    state = {
        name: x.detach().requires_grad_(x.is_floating_point()) for name, x in call.state.items()
    }
    named = inputs | {f"state {name}": x for name, x in state.items() if x.requires_grad}
    return Leaves(replace(call, inputs=inputs, state=state), named)
