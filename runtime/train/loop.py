"""Training a small language model on bytes: the loop, its schedule, its folder.

A model here is a module with `model(tokens [B, T]) -> (logits [B, T, vocab], state)` and
`model.step(token [B], state) -> (logits [B, vocab], state)`.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from miras_dsl.runtime.threads import on_threads
from miras_dsl.runtime.train.run_folder.place import (
    locked,
    make_folder,
    require_no_run,
    require_unused,
)

from . import checkpoint, dataset, metrics_log, plots
from .config import TrainConfig, TrainError, optimiser_of, rate_at, settings_of
from .device import device_of
from .evaluate import BITS, evaluate, generate, readable
from .nonfinite import first_nonfinite

LOG, PICTURE = "log.jsonl", "loss.png"


class Diverged(TrainError):
    """A loss or gradient is not finite; the sentence names the step and the first tensor."""

    status = 4


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during training: where the run stands and how to go on, in one sentence."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a run; ``bits`` are bits per byte on the held-out part."""

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
            f"it writes: {readable(self.sample)}"
        )

    def to_json(self) -> dict[str, object]:
        """The same as plain data."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}


def train(
    model: nn.Module,
    corpus: dataset.Corpus,
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

    ``resume`` goes on from the checkpoint in ``out``, exactly; ``digest``, ``config``, ``settings``
    and the text must then be those of the checkpoint.  Raises EnvironmentFailure, and Interrupted
    on Ctrl-C.
    """
    show = console if console is not None else Console(quiet=True)
    kept = out / checkpoint.NAME
    before = checkpoint.facts(kept) if resume else None
    if before is None:
        require_unused(out)
    config = replace(config, threads=_threads(config, before))
    origin = checkpoint.Origin(digest, spec, {**asdict(config), **(settings or {})}, corpus.text)
    tokens, targets = dataset.held_out(corpus.held_out, config.windows, config.length)
    bigram = dataset.bigram_bits(corpus.train, tokens, targets)
    optimiser = optimiser_of(model, config)
    if before is None:
        make_folder(out)
    with locked(out):
        if before is None:
            require_no_run(out)
            first, written = 0, ""
            # A run that is killed before its first checkpoint can go on from here.
            checkpoint.save(kept, model, optimiser, 0, origin)
        else:
            before = checkpoint.facts(kept)
            first, written = checkpoint.load(kept, model, optimiser, origin), before.log
            _warn_of_other_numbers(kept, before, device_of(model))

        def measure(step: int) -> metrics_log.Row:
            bits = evaluate(model, tokens, targets, config.batch)
            show.print(f"step {step:5d}  held out {bits:.3f} bits per byte  (bigram {bigram:.3f})")
            row: metrics_log.Row = {"step": step, "held_out": bits}
            if config.sample:
                row["sample"] = generate(model, tokens[:1, :32], config.sample, config.seed)
            return row

        model.train()
        cut = first if resume else None
        seen, began = 0, time.perf_counter()
        try:
            with (
                on_threads(config.threads),
                metrics_log.MetricsLog(out / LOG, keep_to=cut, checksum=written) as log,
                _bar(show) as bar,
            ):
                task = bar.add_task("train", total=config.steps, completed=first, loss="", speed="")
                for step in range(first, config.steps):
                    x, y = dataset.batch(
                        corpus.train, config.batch, config.length, config.seed, step
                    )
                    loss, norm = update(model, optimiser, config, step, x, y)
                    done = step + 1
                    log.append({"step": done, "bits": loss * BITS, "norm": norm})
                    if done % config.evaluate == 0 or done == config.steps:
                        log.append(measure(done))
                    if done % config.keep == 0 or done == config.steps:
                        log.settle()
                        checkpoint.save(kept, model, optimiser, done, origin, log=log.checksum)
                    seen += x.numel()
                    speed = f"{seen / (time.perf_counter() - began):,.0f} tokens/s"
                    bar.update(task, completed=done, loss=f"{loss * BITS:.2f} bits", speed=speed)
        except KeyboardInterrupt:
            raise Interrupted(
                f"stopped; {kept} holds step {checkpoint.facts(kept).step} of {config.steps}: "
                "go on with --resume"
            ) from None
        seconds = time.perf_counter() - began
        rows = metrics_log.read(out / LOG)
        if not (measured := metrics_log.series(rows, "held_out")):
            raise TrainError(
                f"the log {out / LOG} holds no measurement; put the log back, or train again in "
                "another folder (--out)"
            )
        return Outcome(
            config.steps,
            bits=measured[-1][1],
            bigram_bits=bigram,
            tokens_per_second=seen / seconds,
            sample=str(next((r["sample"] for r in reversed(rows) if "sample" in r), "")),
            log=out / LOG,
            picture=_picture(out, rows, bigram, show),
        )


def _threads(config: TrainConfig, before: checkpoint.Facts | None) -> int:
    """The CPU threads of a run: as asked for, else as it began, else as torch chooses now."""
    began = 0 if before is None else int(settings_of(before.origin.config).get("threads", 0))
    return config.threads or began or torch.get_num_threads()


def _warn_of_other_numbers(kept: Path, before: checkpoint.Facts, device: torch.device) -> None:
    """Warn where a run cannot go on bit for bit: another torch, another kind of device."""
    for then, now in (
        (f"torch {before.torch}", f"torch {torch.__version__}"),
        (f"device {before.device or device.type}", f"device {device.type}"),
    ):
        if then != now:
            warnings.warn(
                f"{kept} was written with {then} and this is {now.removeprefix('torch ')}: "
                "the run goes on, but its numbers may differ from those of an unbroken run",
                stacklevel=3,
            )


def _picture(
    out: Path, rows: list[metrics_log.Row], baseline: float, console: Console
) -> Path | None:
    """The loss curve of a log; without matplotlib, a sentence instead."""
    training, held = metrics_log.series(rows, "bits"), metrics_log.series(rows, "held_out")
    try:
        return plots.loss_curve(out / PICTURE, training, held, baseline, out.name)
    except plots.NoPictures as reason:
        console.print(str(reason))
        return None


def update(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    config: TrainConfig,
    step: int,
    x: Tensor,
    y: Tensor,
) -> tuple[float, float]:
    """One update on tokens x and y [B, T]; the loss in nats, and the gradient's norm before clipping."""
    x, y = x.to(device_of(model)), y.to(device_of(model))
    for group in optimiser.param_groups:
        group["lr"] = rate_at(config, step)
    logits, _ = model(x)
    loss = F.cross_entropy(logits.flatten(0, 1).float(), y.flatten())
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
        raise Diverged(
            f"step {step + 1}: {first_nonfinite(model, x)}; "
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
