"""Finding the first tensor that is not finite, when a training step is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from miras_dsl.runtime.finite_checks import NotFinite, debugging


def first_nonfinite(model: nn.Module, x: Tensor) -> str:
    """Which tensor is the first not to be finite: a parameter, an output on the way, a gradient.

    Inside a memory it is the first state, with its token.
    """
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            return f"the parameter {name} is not finite"
    found: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            bad = (p for p, t in _tensors(output, "") if not t.isfinite().all())
            found.extend(f"{name}{path} is not finite" for path in bad)

        return hook

    handles = [m.register_forward_hook(watch(n or "the model")) for n, m in model.named_modules()]
    try:
        with torch.no_grad(), debugging():
            model(x)
    except NotFinite as reason:
        found.append(str(reason))
    finally:
        for handle in handles:
            handle.remove()
    if found:
        return found[0]
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            return f"the gradient of {name} is not finite"
    return "the loss is not finite"


def _tensors(value: object, path: str) -> Iterator[tuple[str, Tensor]]:
    """The floating-point tensors in nested tuples and dicts, with the way to each."""
    match value:
        case Tensor() if value.is_floating_point():
            yield path, value
        case tuple() | list():
            for index, part in enumerate(value):
                yield from _tensors(part, f"{path}[{index}]")
        case dict():
            for key, part in value.items():
                yield from _tensors(part, f"{path}.{key}")
        case _:
            return
