"""How many training steps fit a time, measured on the machine at hand."""

from __future__ import annotations

import copy
import time
from dataclasses import replace

import torch
from torch import nn

from miras_dsl.runtime.threads import on_threads

from . import dataset
from .config import TrainConfig, optimiser_of
from .loop import update


def steps_for_budget(
    model: nn.Module, corpus: dataset.Corpus, config: TrainConfig, minutes: float
) -> TrainConfig:
    """The same settings with as many steps as fit the time, on as many threads as are fastest.

    Measured on steps of a copy; the model stays as it is.
    """
    random = torch.get_rng_state()
    seconds: dict[int, float] = {}
    for threads in sorted({1, config.threads or torch.get_num_threads()}):
        with on_threads(threads):
            seconds[threads] = _seconds_a_step(copy.deepcopy(model), corpus, config)
    torch.set_rng_state(random)
    threads = min(seconds, key=seconds.__getitem__)
    # Measurements, checkpoints and samples take about a tenth.
    steps = max(10, int(0.9 * 60 * minutes / seconds[threads]))
    return replace(config, steps=steps, threads=threads)


def _seconds_a_step(model: nn.Module, corpus: dataset.Corpus, config: TrainConfig) -> float:
    """The median time of a few training steps, without the first, which also compiles and allocates."""
    optimiser, took = optimiser_of(model, config), list[float]()
    while len(took) < 4 or (sum(took) < 2.0 and len(took) < 20):
        x, y = dataset.batch(corpus.train, config.batch, config.length, config.seed, len(took))
        began = time.perf_counter()
        update(model, optimiser, config, len(took), x, y)
        took.append(time.perf_counter() - began)
    return sorted(took[1:])[len(took[1:]) // 2]
