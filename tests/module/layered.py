"""A certificate for a whole layer around one memory that starts at zero.

Compared with `plainly` and the oracle: everything that the memory is fed, logarithms too, the
layer's output in one call, in two, packed and token by token, and the gradient of every parameter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from miras_dsl.runtime import oracle
from miras_dsl.runtime.build import Library
from miras_dsl.runtime.past import Past
from tests.module.plainly import Plain, answered

WIDTH, HEADS, TOKENS = 8, 2, 7


@dataclass(frozen=True, slots=True)
class Wrong:
    """A quantity that does not agree, and by how much."""

    check: str
    name: str
    error: float


def built(library: Library, name: str, scale: float = 0.3) -> nn.Module:
    """A layer in float64 with parameters away from where they start."""
    torch.manual_seed(3)
    layer = library[name](width=WIDTH, heads=HEADS).double()
    for parameter in layer.parameters():
        parameter.data += scale * torch.randn_like(parameter)
    return layer


def plain_of(library: Library, name: str, layer: nn.Module, x: Tensor) -> Plain:
    """The meaning of a layer's tokens and gates; one memory, which the layer uses as it is."""
    (memory,) = library.spec.memories.values()
    around = library.spec.layers[name]
    given = {key.partition(".")[2]: p for key, p in layer.named_parameters()}
    return Plain(memory, given, HEADS, x, around.activation, around.normalize)


def log(decay: Tensor) -> Tensor:
    """The logarithm of a decay; of the least normal single-precision number where it is 0."""
    return decay.clamp(min=1.2e-38).log()


def wrong(library: Library, name: str, layer: nn.Module | None = None) -> list[Wrong]:
    """Everything in which a layer differs from its meaning."""
    layer = built(library, name) if layer is None else layer
    (memory,) = library.spec.memories.values()
    x = torch.randn(2, TOKENS, WIDTH, dtype=torch.float64)
    plain = plain_of(library, name, layer, x)
    inputs = {o.name: plain.feed(o.name).data for o in (*memory.tokens, *memory.gates)}
    sizes = {key: WIDTH // HEADS for key, default in memory.params if default is None}
    meant = answered(oracle.run(memory, sizes, inputs)[0], x, plain.parameters)
    found: list[Wrong] = []

    def compare(check: str, what: str, ours: Tensor, theirs: Tensor) -> None:
        error = ((ours - theirs).abs() / (1 + theirs.abs())).detach()
        if ours.shape != theirs.shape or not float(error.max()) < 1e-9:
            found.append(Wrong(check, what, float(error.max())))

    (inner,) = layer.children()
    fed = inner.feeds(x, Past(inner.initial_state(len(x))))
    for key, ours in fed.items():
        theirs = inputs[key.removeprefix("log_")]
        compare("fed", key, ours, log(theirs) if key.startswith("log_") else theirs)
    y, _ = layer(x)
    compare("whole", "y", y, meant)
    cotangent = torch.randn_like(y)
    named = dict(layer.named_parameters())
    ours = torch.autograd.grad((y * cotangent).sum(), list(named.values()), allow_unused=True)
    theirs = torch.autograd.grad((meant * cotangent).sum(), list(named.values()), allow_unused=True)
    for key, mine, other in zip(named, ours, theirs, strict=True):
        parts = [torch.zeros_like(named[key]) if g is None else g for g in (mine, other)]
        compare("whole", f"d {key.partition('.')[2]}", *parts)
    with torch.no_grad():
        first, state = layer(x[:, :3])
        second, state = layer(x[:, 3 : TOKENS - 1], state)
        last, _ = layer.step(x[:, TOKENS - 1], state)
        compare("split", "y", torch.cat([first, second, last[:, None]], 1), meant)
        bounds = torch.tensor([0, TOKENS, TOKENS, 2 * TOKENS])
        packed, _ = layer(x.reshape(1, 2 * TOKENS, WIDTH), cu_seqlens=bounds)
        compare("packed", "y", packed.reshape(meant.shape), meant)
    return found
