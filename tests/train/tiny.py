"""A small language model with the interface of a compiled one, and a small text."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor, nn

from miras_dsl.runtime.train.dataset import Corpus, Text
from miras_dsl.runtime.train.loop import TrainConfig

State = dict[str, Tensor]


class Mixer(nn.Module):
    """A recurrent layer that answers as a compiled layer does: (output, state)."""

    def __init__(self, width: int):
        super().__init__()
        self.cell = nn.GRU(width, width, batch_first=True)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        y, last = self.cell(x, None if state is None else state["h"])
        return y, {"h": last}


class Tiny(nn.Module):
    """Embedding, one mixer, head."""

    def __init__(self, width: int = 16, vocab: int = 256):
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.mixer = Mixer(width)
        self.head = nn.Linear(width, vocab)

    def forward(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        x = self.embed(tokens)
        y, state = self.mixer(x, state)
        return self.head(x + y), state

    def step(self, token: Tensor, state: State) -> tuple[Tensor, State]:
        logits, state = self(token[:, None], state)
        return logits[:, 0], state


def tiny(width: int = 16, seed: int = 0) -> Tiny:
    """The model with weights that depend on the seed alone."""
    torch.manual_seed(seed)
    return Tiny(width)


def corpus(size: int = 20_000) -> Corpus:
    """A text with a rule in it that a bigram cannot see: words of three letters come in a ring."""
    words = [b"aba ", b"bab ", b"abb ", b"baa "]
    text = b"".join(words[i % 4] for i in range(size // 4))
    data = np.frombuffer(text, np.uint8)
    cut = size - size // 10
    return Corpus(Text("ring", hashlib.sha256(text).hexdigest()), data[:cut], data[cut:])


CONFIG = TrainConfig(
    steps=30, batch=4, length=32, warmup=4, evaluate=10, keep=4, windows=8, sample=12, rate=1e-2
)
