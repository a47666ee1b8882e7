"""What `make demo` shows: a proof, two minutes of training on real text, and a memory at work.

    python examples/demo.py [--minutes 2] [--recall 60] [--out runs/demo] [--device auto]

Exit status 1 when the certificate is red, the training does not beat the byte bigram, or the recall
is not what a memory should do.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

import miras_dsl as miras
from miras_dsl.runtime.train import checkpoint, job, recall_task
from miras_dsl.runtime.train.device import device_here

TASK = recall_task.RecallTask(vocab=32, length=16, pairs=4)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--recall", type=float, default=60.0, help="seconds at most")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument(
        "--device", default="auto", help="auto (a GPU if there is one), cpu or cuda"
    )
    asked = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    try:
        where = device_here(asked.device)
    except miras.EnvironmentFailure as failure:
        parser.error(str(failure))
    source = miras.find("yaad")

    console.rule("1. Is the generated code right?")
    (certificate,) = miras.certify(source, only=["Yaad"]).values()
    console.print(str(certificate), markup=False)

    console.rule(f"2. {asked.minutes:g} minutes on real text")
    (asked.out / checkpoint.NAME).unlink(missing_ok=True)
    wishes = job.RunOptions(
        minutes=asked.minutes, width=64, batch=8, length=128, rate=5e-3, device=str(where)
    )
    outcome = job.run(source, wishes, asked.out, resume=False, console=console)
    console.print(str(outcome), markup=False)
    learned = outcome.bits < 0.9 * outcome.bigram_bits

    console.rule(f"3. Up to {asked.recall:g} s of recall: {TASK.pairs} pairs, then questions")
    on, off = remember(miras.find("gated_deltanet"), asked.recall, where, console)
    console.print(f"memory on   {on:7.1%} of the questions answered right")
    console.print(f"memory off  {off:7.1%} (chance {TASK.chance:.1%})")
    remembered = on >= 0.9 and off <= 2 * TASK.chance

    for said, right in (
        ("the certificate is green", certificate.green),
        ("training ends clearly below the byte bigram", learned),
        ("the memory answers, and nothing else does", remembered),
    ):
        console.print(f"{'yes' if right else 'NO ':4}{said}")
    return 0 if certificate.green and learned and remembered else 1


def remember(
    source: miras.Source, seconds: float, device: torch.device, console: Console
) -> tuple[float, float]:
    """Accuracy of a small model trained on recall, and of the same with its memory silenced."""
    whole = job.wrap_in_model(source, width=64, layers=1, vocab=TASK.vocab)
    torch.manual_seed(0)
    model, mixers = job.language_model(whole)
    model.to(device)
    fields = (
        TextColumn("step {task.fields[step]}"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]}"),
    )
    with Progress(*fields, console=console, transient=True) as bar:
        task = bar.add_task("recall", total=1.0, step=0, loss="")

        def report(step: int, loss: float, share: float) -> None:
            bar.update(task, completed=share, step=step, loss=f"{loss:.3f}")

        on = recall_task.learn(model, TASK, seconds=seconds, rate=1e-2, report=report)
    with recall_task.ablate_memory(model, mixers):
        off = recall_task.accuracy(model, TASK, 512, 0)
    return on.accuracy, off


if __name__ == "__main__":
    sys.exit(main())
