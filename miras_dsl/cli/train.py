"""`miras train`: a small language model around a memory, on real text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

import miras_dsl as miras
from miras_dsl.source import escaped

from .exit_status import reporting_failures, warn
from .options import AsJson, Spec


def train(
    spec: Spec,
    text: Annotated[
        Path | None, typer.Option(help="a text file; else the running Python's own sources")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="training steps (400)")] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="as many steps as fit, instead of --steps")
    ] = None,
    width: Annotated[int | None, typer.Option(min=8, help="width of the model (128)")] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="blocks of the model (2)")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="windows per step (16)")] = None,
    length: Annotated[int | None, typer.Option(min=2, help="bytes per window (256)")] = None,
    rate: Annotated[float | None, typer.Option(min=0.0, help="peak learning rate (0.003)")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="seed of weights and batches (0)")] = None,
    keep: Annotated[int | None, typer.Option(min=1, help="steps between checkpoints (50)")] = None,
    device: Annotated[
        str, typer.Option(help="auto (a GPU if there is one), cpu, cuda or cuda:N")
    ] = "auto",
    output: Annotated[
        Path | None, typer.Option("--out", "-o", help="the run's folder (runs/NAME)")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on from the folder's checkpoint, exactly")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train a small byte-level language model on real text.

    A file with a model trains that model; otherwise its first layer, or memory, is repeated between
    SwiGLU blocks.  The folder gets log.jsonl, checkpoint.safetensors and loss.png.

    Examples: [bold]miras train robust.mem --minutes 2[/bold];
    [bold]miras train yaad --text corpus.txt --steps 1000 -o runs/yaad[/bold];
    [bold]miras train robust.mem --resume[/bold]
    """
    if steps is not None and minutes is not None:
        raise typer.BadParameter("give --steps or --minutes, not both", param_hint="--minutes")
    with reporting_failures(as_json) as out:
        source = miras.find(spec)
        meant = miras.parse(source)
        from miras_dsl.check import warnings

        concerns = warnings(meant)
        warn(concerns, as_json)
        from miras_dsl.runtime.train.job import RunOptions, run

        wishes = RunOptions(
            text, steps, minutes, width, layers, batch, length, rate, seed, keep, device
        )
        folder = output or Path("runs") / Path(source.name).stem
        outcome = run(source, wishes, folder, resume=resume, console=out)
        if as_json:
            told_of = [concern.to_json() for concern in concerns]
            print(json.dumps({**outcome.to_json(), "warnings": told_of}))
        else:
            out.print(Text(escaped(str(outcome))))
