"""A certificate for whole layers and models of memories that start at zero.

Compared with `layer_meaning` and the oracle: everything that a memory is fed, logarithms too, the output
in one call, in several, packed and token by token, and the gradient of every parameter.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from miras_dsl.runtime.judge.oracle import run as oracle
from miras_dsl.runtime.layers.conv_state import ConvState
from miras_dsl.runtime.load.loader import LoadedModule
from miras_dsl.spec import Chain, LayerSpec, Mixing, Together, Use
from tests.module.layer_meaning import LayerMeaning, answered

WIDTH, HEADS, TOKENS = 8, 2, 7


@dataclass(frozen=True, slots=True)
class Wrong:
    """A quantity that does not agree, and by how much."""

    check: str
    name: str
    error: float


def built(library: LoadedModule, name: str, scale: float = 0.3) -> nn.Module:
    """A layer in float64 with parameters away from where they start."""
    torch.manual_seed(3)
    layer = library[name](width=WIDTH, heads=HEADS).double()
    for parameter in layer.parameters():
        parameter.data += scale * torch.randn_like(parameter)
    return layer


def meaning_of(library: LoadedModule, name: str, layer: nn.Module, x: Tensor) -> LayerMeaning:
    """The meaning of a layer's tokens and gates; one memory, which the layer uses as it is."""
    (memory,) = library.spec.memories.values()
    (inner,) = layer.children()
    around = library.spec.layers[name]
    given = dict(inner.named_parameters())
    return LayerMeaning(memory, given, HEADS, x, around.activation, around.normalize)


def inputs_of(plain: LayerMeaning) -> dict[str, Tensor]:
    """Every token and gate of a memory."""
    owners = (*plain.spec.tokens, *plain.spec.gates)
    return {owner.name: plain.feed(owner.name).data for owner in owners}


def meaning(library: LoadedModule, around: LayerSpec, layer: nn.Module, x: Tensor) -> Tensor:
    """A layer's output: each memory by the oracle, in their composition."""
    inners = iter(layer.children())

    def follow(body: Mixing, x: Tensor) -> Tensor:
        match body:
            case Use(memory=name, arguments=arguments):
                memory, given = library.spec.memories[name], dict(next(inners).named_parameters())
                plain = LayerMeaning(memory, given, HEADS, x, around.activation, around.normalize)
                sizes = {key: x.shape[-1] // HEADS for key, default in memory.params if not default}
                y, _ = oracle.run(memory, sizes | dict(arguments), inputs_of(plain))
                return answered(y, x, given)
            case Chain(parts=parts):
                for part in parts:
                    x = follow(part, x)
                return x
            case Together(parts=parts):
                return sum((follow(part, x) for part in parts), torch.zeros_like(x))

    return follow(around.body, x)


def log(decay: Tensor) -> Tensor:
    """The logarithm of a decay; -800 where it is 0 in single precision."""
    return torch.where(decay < 1.2e-38, -800.0, decay.clamp(min=1.2e-38).log())


@dataclass
class Comparison:
    """Collects what does not agree."""

    found: list[Wrong] = field(default_factory=list)

    def __call__(self, check: str, name: str, ours: Tensor, theirs: Tensor) -> None:
        if ours.shape != theirs.shape:
            self.found.append(Wrong(check, name, float("inf")))
            return
        error = float(((ours - theirs).abs() / (1 + theirs.abs())).max().detach())
        if not error < 1e-9:
            self.found.append(Wrong(check, name, error))

    def gradients(self, module: nn.Module, ours: Tensor, theirs: Tensor) -> None:
        """The gradients of every parameter."""
        named = dict(module.named_parameters())
        cotangent = torch.randn_like(ours)
        both = [
            torch.autograd.grad((y * cotangent).sum(), list(named.values()), allow_unused=True)
            for y in (ours, theirs)
        ]
        for (key, parameter), mine, other in zip(named.items(), *both, strict=True):
            filled = [torch.zeros_like(parameter) if g is None else g for g in (mine, other)]
            self("whole", f"d {key.partition('.')[2]}", *filled)


def wrong(library: LoadedModule, name: str, layer: nn.Module | None = None) -> list[Wrong]:
    """Everything in which a layer differs from its meaning."""
    layer = built(library, name) if layer is None else layer
    around, compare = library.spec.layers[name], Comparison()
    x = torch.randn(2, TOKENS, WIDTH, dtype=torch.float64)
    if isinstance(around.body, Use):
        inputs = inputs_of(meaning_of(library, name, layer, x))
        (inner,) = layer.children()
        for key, ours in inner.feeds(x, ConvState(inner.initial_state(len(x)))).items():
            theirs = inputs[key.removeprefix("log_")]
            compare("fed", key, ours, log(theirs) if key.startswith("log_") else theirs)
    meant, (y, _) = meaning(library, around, layer, x), layer(x)
    compare("whole", "y", y, meant)
    compare.gradients(layer, y, meant)
    with torch.no_grad():
        first, state = layer(x[:, :3])
        second, state = layer(x[:, 3 : TOKENS - 1], state)
        last, _ = layer.step(x[:, TOKENS - 1], state)
        compare("split", "y", torch.cat([first, second, last[:, None]], 1), meant)
        bounds = torch.tensor([0, TOKENS, TOKENS, 2 * TOKENS])
        packed, _ = layer(x.reshape(1, 2 * TOKENS, WIDTH), cu_seqlens=bounds)
        compare("packed", "y", packed.reshape(meant.shape), meant)
    return compare.found


def wrong_model(library: LoadedModule, name: str) -> list[Wrong]:
    """Everything in which a model differs from its meaning."""
    torch.manual_seed(4)
    model, compare = library[name](heads=HEADS).double(), Comparison()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    ids = torch.randint(0, model.embed.weight.shape[0], (2, TOKENS))
    x = model.embed.weight[ids]
    for spec, block in zip(library.spec.models[name].blocks, model.blocks, strict=True):
        size = torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-6)
        normed = x / size * block.norm.weight
        if spec.kind == "swiglu":
            gate, up = normed @ block.gate.weight.T, normed @ block.up.weight.T
            x = x + (gate / (1 + torch.exp(-gate)) * up) @ block.down.weight.T
        else:
            x = x + meaning(library, library.spec.layers[spec.kind], block.layer, normed)
    size = torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-6)
    meant = (x / size * model.head.norm.weight) @ model.head.weight.T
    logits, _ = model(ids)
    compare("whole", "logits", logits, meant)
    compare.gradients(model, logits, meant)
    with torch.no_grad():
        first, state = model(ids[:, :4])
        second, _ = model(ids[:, 4:], state)
        compare("split", "logits", torch.cat([first, second], 1), meant)
    return compare.found
