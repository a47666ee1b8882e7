"""Measuring a language model: bits per byte on a text, and a sample of what it writes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from miras_dsl.source import is_visible

from .device import device_of

BITS = 1 / math.log(2)
"""Bits in a nat."""


@torch.no_grad()
def evaluate(model: nn.Module, tokens: Tensor, targets: Tensor, batch: int) -> float:
    """Bits per byte on windows, int64 [N, T]; each window starts with an empty memory."""
    model.eval()
    total, device = 0.0, device_of(model)
    for x, y in zip(tokens.split(batch), targets.split(batch), strict=True):
        x, y = x.to(device), y.to(device)
        logits, _ = model(x)
        total += F.cross_entropy(logits.flatten(0, 1).float(), y.flatten(), reduction="sum").item()
    model.train()
    return total * BITS / targets.numel()


@torch.no_grad()
def generate(
    model: nn.Module, prompt: Tensor, count: int, seed: int, temperature: float = 0.8
) -> str:
    """``count`` bytes after a prompt, int64 [1, T], decoded token by token with a carried state."""
    model.eval()
    source = torch.Generator().manual_seed(seed)
    # nn.Module types its attributes as tensors or modules; a language model has a method here.
    decode: Callable[[Tensor, object], tuple[Tensor, object]] = getattr(model, "step")  # noqa: B009
    device = device_of(model)
    logits, state = model(prompt.to(device))
    logits, written = logits[:, -1], []
    for _ in range(count):
        chances = (logits[:, :256].float() / temperature).softmax(-1).cpu()
        token = torch.multinomial(chances, 1, generator=source)[:, 0]
        written.append(int(token))
        logits, state = decode(token.to(device), state)
    model.train()
    return bytes(written).decode("utf-8", errors="replace")


def readable(sample: str, most: int = 72) -> str:
    """The beginning of a sample on one line; a dot stands for all that cannot be printed."""
    shown = re.sub(r"\s+", " ", sample).strip()
    kept = (c if is_visible(c) and c != "\ufffd" else "\0" for c in shown)
    shown = re.sub("\0+", "·", "".join(kept))
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"
