"""Whether the numbers of a tensor are there to be looked at, or a program is only being recorded."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


def transformed() -> bool:
    """Whether a transform of `torch.func` (grad, vmap, jvp …) is at work."""
    return torch._C._are_functorch_transforms_active()


def may_look(x: Tensor) -> bool:
    """Whether Python may ask for the numbers of ``x``.

    Not while `torch.compile` traces, under a transform of `torch.func`, on the meta device, or while a
    CUDA graph is captured.
    """
    if torch.compiler.is_compiling() or transformed():
        return False
    if x.is_cuda and torch.cuda.is_current_stream_capturing():
        return False
    return x.device.type != "meta" and not isinstance(x, FakeTensor)


def forward_mode() -> bool:
    """Whether derivatives are taken in forward mode: by `torch.func.jvp` or `torch.autograd.forward_ad`."""
    if torch.autograd.forward_ad._current_level >= 0:
        return True
    if not transformed():
        return False
    stack = torch._C._functorch.get_interpreter_stack() or []
    return any(level.key() == torch._C._functorch.TransformType.Jvp for level in stack)
