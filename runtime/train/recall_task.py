"""Multi-query associative recall (MQAR): generated sequences, training on them, and accuracy.

The generator is the one of multi-query associative recall (Zoology): the first 2n positions hold
n pairs `key value key value …`; later, at even positions whose gaps follow a power law, each key
comes again, and the answer at that same position is its value.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .device import device_of

IGNORED = -100
SCORED, STOPPED = 1, 2
"""Streams of sequences: training draws from (seed, step), these from triples that end so."""


@dataclass(frozen=True, slots=True)
class RecallTask:
    """The task: sequences of ``length`` tokens out of ``vocab``, with ``pairs`` pairs to remember.

    filler  what fills the rest: False zeros, True random tokens of the whole vocabulary
    power   the gaps' distribution is (gap + 1)^(power - 1)
    """

    vocab: int = 128
    length: int = 64
    pairs: int = 8
    filler: bool = False
    power: float = 0.01

    def __post_init__(self) -> None:
        if self.length % 2 or 4 * self.pairs > self.length:
            raise ValueError(
                f"length {self.length} must be even and at least 4 * pairs = {4 * self.pairs}"
            )
        if self.vocab // 2 - 1 < self.pairs:
            raise ValueError(f"a vocabulary of {self.vocab} has no {self.pairs} distinct keys")

    @property
    def chance(self) -> float:
        """Accuracy of guessing among all values."""
        return 1 / (self.vocab - self.vocab // 2)


def generate(task: RecallTask, count: int, seed: int | tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Tokens and answers, int64 [count, length]; answers are -100 where nothing is asked."""
    rng, n, half = np.random.default_rng(seed), task.pairs, task.vocab // 2
    keys = 1 + _distinct(rng, count, np.zeros(half - 1), n)
    values = half + _distinct(rng, count, np.zeros(task.vocab - half), n)
    space = (task.length - 2 * n) // 2
    gaps = _distinct(rng, count, (task.power - 1) * np.log(np.arange(space) + 1.0), n)
    tokens = np.zeros((count, task.length), np.int64)
    if task.filler:
        tokens = rng.integers(0, task.vocab, size=tokens.shape)
    tokens[:, 0 : 2 * n : 2], tokens[:, 1 : 2 * n : 2] = keys, values
    answers = np.full_like(tokens, IGNORED)
    rows = np.arange(count)[:, None]
    tokens[rows, 2 * n + 2 * gaps], answers[rows, 2 * n + 2 * gaps] = keys, values
    return torch.from_numpy(tokens), torch.from_numpy(answers)


def _distinct(rng: np.random.Generator, count: int, log_weights: np.ndarray, n: int) -> np.ndarray:
    """``count`` rows of n distinct indices, drawn one after the other by weight, int64 [count, n].

    Adding Gumbel noise to the log weights and keeping the n largest, in order, is that draw.
    """
    noisy = log_weights + rng.gumbel(size=(count, len(log_weights)))
    return np.argsort(-noisy, axis=1, kind="stable")[:, :n]


@dataclass(frozen=True, slots=True)
class Score:
    """How a trained model answers: accuracy on new sequences, after so many steps and seconds."""

    accuracy: float
    steps: int
    seconds: float


def learn(
    model: nn.Module,
    task: RecallTask,
    *,
    seconds: float,
    steps: int = 10**9,
    batch: int = 64,
    rate: float = 3e-3,
    seed: int = 0,
    enough: float = 0.99,
    report: Callable[[int, float, float], None] | None = None,
) -> Score:
    """Train ``model`` on fresh sequences until time, steps or ``enough`` accuracy is reached.

    ``enough`` is measured on other sequences than the score that is returned.
    ``report(step, loss, share of the time)`` is called after each step.  The rate warms up over 20
    steps and falls along a cosine of the time (or the steps, whichever is further on).
    """
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    began, step, last = time.perf_counter(), 0, float("inf")
    device = device_of(model)
    model.train()
    while True:
        spent = max((time.perf_counter() - began) / seconds, step / steps)
        if spent >= 1:
            break
        due = step % 50 == 0 and last < 0.1
        if due and _answered(model, *generate(task, 128, (seed, step, STOPPED))) >= enough:
            break
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 20) * (0.1 + 0.9 * np.cos(np.pi * spent / 2))
        tokens, answers = (x.to(device) for x in generate(task, batch, (seed, step)))
        logits, _ = model(tokens)
        asked = answers != IGNORED
        loss = F.cross_entropy(logits[asked].float(), answers[asked])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step, last = step + 1, loss.item()
        if report is not None:
            report(step, last, spent)
    return Score(accuracy(model, task, 512, seed), step, time.perf_counter() - began)


def accuracy(model: nn.Module, task: RecallTask, count: int, seed: int) -> float:
    """Share of questions answered right on ``count`` sequences that training never draws."""
    return _answered(model, *generate(task, count, (seed, 0, SCORED)))


@torch.no_grad()
def _answered(model: nn.Module, tokens: Tensor, answers: Tensor) -> float:
    """Share of the questions in these sequences that are answered right."""
    model.eval()
    right = asked = 0
    for x, y in zip(tokens.split(64), answers.split(64), strict=True):
        guess = model(x.to(device_of(model)))[0].argmax(-1).cpu()
        where = y != IGNORED
        right += int((guess[where] == y[where]).sum())
        asked += int(where.sum())
    model.train()
    return right / asked


@contextmanager
def ablate_memory(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> Iterator[int]:
    """Inside the `with`, the output of every submodule of these kinds is zero; gives their number.

    Raises ValueError when there is none.
    """

    def silence(_module: nn.Module, _inputs: object, output: tuple[Tensor, object]) -> object:
        answer, state = output
        return answer * 0, state

    found = [m for m in model.modules() if isinstance(m, kinds)]
    if not found:
        raise ValueError(f"the model holds no {' or '.join(k.__name__ for k in kinds)}")
    handles = [m.register_forward_hook(silence) for m in found]
    try:
        yield len(found)
    finally:
        for handle in handles:
            handle.remove()
