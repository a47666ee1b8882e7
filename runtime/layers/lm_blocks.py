"""The blocks of a language model: embedding, pre-norm residual blocks, head.

A block is called like a layer: (x, state, cu_seqlens) -> (x, state), and `step` for one token.
"""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miras_dsl.runtime.execute.packed import Packed

from .parts import Linear, RMSNorm
from .state_tree import State


class Embedding(nn.Module):
    """ids [...] -> [..., width]."""

    def __init__(self, vocab: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab, width))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.weight.normal_()

    def extra_repr(self) -> str:
        return " -> ".join(map(str, self.weight.shape))

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight)


class MixerBlock(nn.Module):
    """x + layer(norm(x)): a residual block around a layer with a state."""

    def __init__(self, width: int, layer: nn.Module) -> None:
        super().__init__()
        self.norm = RMSNorm(width)
        self.layer = layer

    def initial_state(self, batch: int) -> State:
        return self.layer.initial_state(batch)  # type: ignore[operator]

    def forward(
        self, x: Tensor, state: State | None = None, cu_seqlens: Packed = None
    ) -> tuple[Tensor, State]:
        y, kept = self.layer(self.norm(x), state, cu_seqlens)
        return x + y, kept

    def step(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        y, kept = self.layer.step(self.norm(x), state)  # type: ignore[operator]
        return x + y, kept


class FeedForward(nn.Module):
    """x + down(silu(gate(n)) * up(n)), n = norm(x): the SwiGLU block.

    Its hidden size is 8/3 of the width, rounded up to a multiple of 64.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = -(-8 * width // (3 * 64)) * 64
        self.norm = RMSNorm(width)
        self.gate = Linear(width, hidden)
        self.up = Linear(width, hidden)
        self.down = Linear(hidden, width)

    def initial_state(self, batch: int) -> State:
        return {}

    def forward(
        self, x: Tensor, state: State | None = None, cu_seqlens: Packed = None
    ) -> tuple[Tensor, State]:
        n = self.norm(x)
        return x + self.down(F.silu(self.gate(n)) * self.up(n)), {}

    def step(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        return self.forward(x)


class Head(nn.Module):
    """[..., width] -> logits [..., vocab]: norm, then a linear map that starts small and is not tied
    to the embedding."""

    def __init__(self, width: int, vocab: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width)
        self.weight = nn.Parameter(torch.empty(vocab, width))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.weight.normal_().mul_(0.1 / sqrt(self.weight.shape[1]))

    def extra_repr(self) -> str:
        return " -> ".join(map(str, reversed(self.weight.shape)))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.norm(x), self.weight)
