"""Training a small language model on bytes: the loop, its schedule, its measurements.

A model here is a module with `model(tokens [B, T]) -> (logits [B, T, vocab], state)` and
`model.step(token [B], state) -> (logits [B, vocab], state)`.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from miras_dsl.failures import Unusable

from . import checkpoint, data, figures, journal
from .watch import first_bad

LOG, PICTURE = "log.jsonl", "loss.png"
BITS = 1 / math.log(2)


class TrainError(Unusable):
    """Training cannot go on, in one sentence with a way out."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """The settings of a run; two runs with equal settings end with equal weights.

    batch, length      windows per step and bytes per window
    rate, floor        peak learning rate, and the share of it left at the end of the cosine
    warmup             steps of linear warm-up
    evaluate, keep     steps between measurements on the held-out part and between checkpoints
    windows            held-out windows measured
    sample             bytes of text written at each measurement; 0 for none
    threads            of the CPU; 0 as torch chooses.  Sums round by it, so it is a setting
    """

    steps: int = 400
    batch: int = 16
    length: int = 256
    rate: float = 3e-3
    floor: float = 0.05
    warmup: int = 30
    decay: float = 0.05
    clip: float = 1.0
    seed: int = 0
    evaluate: int = 100
    keep: int = 50
    windows: int = 64
    sample: int = 200
    threads: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to; bits are bits per byte on the held-out part."""

    steps: int
    bits: float
    bigram_bits: float
    tokens_per_second: float
    sample: str
    log: Path
    picture: Path | None

    def __str__(self) -> str:
        where = f"log {self.log}" + (f", picture {self.picture}" if self.picture else "")
        return (
            f"after {self.steps} steps {self.bits:.3f} bits per byte on the held-out part; "
            f"a byte bigram has {self.bigram_bits:.3f}\n"
            f"{self.tokens_per_second:,.0f} tokens/s; {where}\n"
            f"it writes: {self.sample!r}"
        )

    def to_json(self) -> dict[str, object]:
        """The same as plain data."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}


def train(
    model: nn.Module,
    corpus: data.Corpus,
    config: TrainConfig,
    out: Path,
    *,
    digest: str = "",
    spec: str = "",
    settings: Mapping[str, object] | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> Outcome:
    """Train ``model`` in place, writing log, checkpoint and picture to ``out``.

    ``resume`` goes on from the checkpoint in ``out``, exactly; ``digest``, ``config`` and
    ``settings`` must then be those of the checkpoint.  Raises `failures.Unusable`.
    """
    show = console if console is not None else Console(quiet=True)
    out.mkdir(parents=True, exist_ok=True)
    if config.threads:
        torch.set_num_threads(config.threads)
    optimiser = _optimiser(model, config)
    origin = checkpoint.Origin(
        digest, spec, {**asdict(config), "text": corpus.sha256, **(settings or {})}
    )
    kept = out / checkpoint.NAME
    if kept.exists() and not resume:
        raise TrainError(
            f"{out} already holds a run, at step {checkpoint.facts(kept)['step']}; "
            "go on with it (--resume) or choose another folder (--out)"
        )
    first = checkpoint.load(kept, model, optimiser, origin) if resume else 0
    tokens, targets = data.held_out(corpus.held_out, config.windows, config.length)
    bigram = data.bigram_bits(corpus.train, tokens, targets)
    sample, seen, began = "", 0, time.perf_counter()

    def measure(step: int, log: journal.Journal) -> None:
        nonlocal sample
        bits = evaluate(model, tokens, targets, config.batch)
        if config.sample:
            sample = generate(model, tokens[:1, :32], config.sample, config.seed)
        log.append({"step": step, "held_out": bits, "sample": sample})
        show.print(f"step {step:5d}  held out {bits:.3f} bits per byte  (bigram {bigram:.3f})")

    with journal.Journal(out / LOG, keep_to=first if resume else None) as log, _bar(show) as bar:
        task = bar.add_task("train", total=config.steps, completed=first, loss="", speed="")
        for step in range(first, config.steps):
            x, y = data.batch(corpus.train, config.batch, config.length, config.seed, step)
            loss, norm = _step(model, optimiser, config, step, x, y)
            done = step + 1
            log.append({"step": done, "bits": loss * BITS, "norm": norm})
            if done % config.evaluate == 0 or done == config.steps:
                measure(done, log)
            if done % config.keep == 0 or done == config.steps:
                log.settle()
                checkpoint.save(kept, model, optimiser, done, origin)
            seen += x.numel()
            speed = seen / (time.perf_counter() - began)
            bar.update(
                task,
                completed=done,
                loss=f"{loss * BITS:.2f} bits",
                speed=f"{speed:,.0f} tokens/s",
            )
    speed = seen / (time.perf_counter() - began)
    rows = journal.read(out / LOG)
    held = journal.series(rows, "held_out")
    if not sample:
        sample = str(next((r["sample"] for r in reversed(rows) if "sample" in r), ""))
    picture = draw(out, bigram, show)
    bits = held[-1][1] if held else evaluate(model, tokens, targets, config.batch)
    return Outcome(config.steps, bits, bigram, speed, sample, out / LOG, picture)


def draw(out: Path, baseline: float | None, console: Console) -> Path | None:
    """The loss curve of the log in ``out``; without matplotlib, a sentence instead."""
    rows = journal.read(out / LOG)
    training, held = journal.series(rows, "bits"), journal.series(rows, "held_out")
    try:
        return figures.loss_curve(out / PICTURE, training, held, baseline, out.name)
    except figures.NoPictures as reason:
        console.print(str(reason))
        return None


def paced(
    model: nn.Module, corpus: data.Corpus, config: TrainConfig, minutes: float
) -> TrainConfig:
    """The same settings with as many steps as fit the time, on as many threads as are fastest.

    Measured on steps of a copy; the model stays as it is.
    """
    random, default = torch.get_rng_state(), torch.get_num_threads()
    seconds: dict[int, float] = {}
    for threads in sorted({1, config.threads or default}):
        torch.set_num_threads(threads)
        seconds[threads] = _seconds_a_step(copy.deepcopy(model), corpus, config)
    torch.set_num_threads(default)
    torch.set_rng_state(random)
    threads = min(seconds, key=seconds.__getitem__)
    # Measurements, checkpoints and samples take about a tenth.
    steps = max(10, int(0.9 * 60 * minutes / seconds[threads]))
    return replace(config, steps=steps, threads=threads)


def _seconds_a_step(model: nn.Module, corpus: data.Corpus, config: TrainConfig) -> float:
    """The median of a few training steps, without the first, which pays for what happens once."""
    optimiser, took = _optimiser(model, config), list[float]()
    while len(took) < 4 or (sum(took) < 2.0 and len(took) < 20):
        x, y = data.batch(corpus.train, config.batch, config.length, config.seed, len(took))
        began = time.perf_counter()
        _step(model, optimiser, config, len(took), x, y)
        took.append(time.perf_counter() - began)
    return sorted(took[1:])[len(took[1:]) // 2]


@torch.no_grad()
def evaluate(model: nn.Module, tokens: Tensor, targets: Tensor, batch: int) -> float:
    """Bits per byte on windows, int64 [N, T]; each window starts with an empty memory."""
    model.eval()
    total = 0.0
    for x, y in zip(tokens.split(batch), targets.split(batch), strict=True):
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
    logits, state = model(prompt)
    logits, written = logits[:, -1], []
    for _ in range(count):
        chances = (logits[:, :256].float() / temperature).softmax(-1)
        token = torch.multinomial(chances, 1, generator=source)[:, 0]
        written.append(int(token))
        logits, state = decode(token, state)
    model.train()
    return bytes(written).decode("utf-8", errors="replace")


def _optimiser(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; matrices decay, vectors and numbers do not."""
    wide = [p for p in model.parameters() if p.ndim >= 2]
    thin = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": wide, "weight_decay": config.decay}, {"params": thin, "weight_decay": 0.0}]
    groups = [g for g in groups if g["params"]]
    return torch.optim.AdamW(groups, lr=config.rate, betas=(0.9, 0.95), eps=1e-8)


def rate_at(config: TrainConfig, step: int) -> float:
    """The learning rate of a step: linear warm-up, then a cosine down to the floor."""
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, config.steps))))
    return config.rate * warm * (config.floor + (1 - config.floor) * cosine)


def _step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    config: TrainConfig,
    step: int,
    x: Tensor,
    y: Tensor,
) -> tuple[float, float]:
    """One update; the loss in nats and the gradient's norm before clipping."""
    for group in optimiser.param_groups:
        group["lr"] = rate_at(config, step)
    logits, _ = model(x)
    loss = F.cross_entropy(logits.flatten(0, 1).float(), y.flatten())
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
        raise TrainError(
            f"step {step + 1}: {first_bad(model, x)}; "
            "a smaller learning rate, or gates that keep the memory's step small, would help"
        )
    optimiser.step()
    return loss.item(), norm.item()


def _bar(console: Console) -> Progress:
    columns = (
        TextColumn("{task.completed}/{task.total}"),
        BarColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    tail = (TextColumn("{task.fields[speed]}"), TimeRemainingColumn())
    return Progress(*columns, *tail, console=console, disable=console.quiet, transient=True)
