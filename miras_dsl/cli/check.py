"""`miras check`: compares what is generated from a spec with autograd on the spec's own loss."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

import miras_dsl as miras
from miras_dsl.dtypes import Dtype
from miras_dsl.source import escaped

from .exit_status import UNJUDGED, WRONG, reporting_failures, warn
from .options import AsJson, Spec
from .output_file import resolve_output
from .scaffold import memory_name

if TYPE_CHECKING:
    from miras_dsl.runtime.judge.certificate import Certificate

PATIENCE = 3.0
"""Seconds after which a line says what is being done, where there is no spinner."""


def check(
    spec: Spec,
    only: Annotated[
        list[str] | None, typer.Option(help="a memory of the file by name; else all of them")
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="type of the tokens")] = Dtype.FLOAT32,
    device: Annotated[
        str, typer.Option(help="cpu, or cuda: kernels and chunk form, a certificate for each")
    ] = "cpu",
    output: Annotated[
        Path | None,
        typer.Option("-o", help="write the certificate as JSON; an earlier one is overwritten"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Parse, type, derive and run a spec, and compare it with autodiff of your own loss.

    The certificate lists what was measured: outputs, states and every gradient, packed sequences,
    decoding, causality.  Exit status 1 when anything in it is red, 5 when a case at the gates of a new
    layer could not be judged.

    Examples: [bold]miras check robust.mem[/bold];
    [bold]miras check yaad --only Yaad -o yaad.json[/bold]
    """
    with reporting_failures(as_json) as out:
        source = miras.find(spec)
        name = escaped(source.name)
        place = None if output is None else resolve_output(output, spec=spec, certificate=True)
        # A wrong spec is reported before torch is imported, which takes long.
        meant = miras.parse(source)
        from miras_dsl.check import warnings
        from miras_dsl.check.lints.stability import lint

        warn(warnings(meant), as_json)
        from miras_dsl.runtime.load.certify_file import certify_file

        with _progress(out, f"checking {name} …") as tell:

            def about(memory: str) -> None:
                tell(f"checking {memory} of {name} …")

            proofs = certify_file(meant, only=only or (), dtype=dtype, device=device, tell=about)
        plain = {title: json.loads(proof.to_json()) for title, proof in proofs.items()}
        if place is not None:
            place.write(json.dumps(plain, indent=2) + "\n")
        if as_json:
            for title, proof in proofs.items():
                found_here = dict.fromkeys(lint(meant.memories[proof.spec]))
                plain[title]["warnings"] = [concern.to_json() for concern in found_here]
            print(json.dumps(plain, indent=2))
        for proof in proofs.values():
            out.print(_painted(str(proof)))
        if not proofs:
            out.print(f"{name} is well formed; it holds no memory to certify")
        if red := [proof for proof in proofs.values() if proof.red]:
            out.print(Text(_next(spec, red[0])))
            raise typer.Exit(WRONG)
        if not all(proof.green for proof in proofs.values()):
            raise typer.Exit(UNJUDGED)


@contextmanager
def _progress(out: Console, first: str) -> Iterator[Callable[[str], None]]:
    """Gives a function that shows what is being done: beside a spinner on a terminal, elsewhere on
    stderr after `PATIENCE` seconds."""
    if out.quiet or out.is_terminal:
        with out.status(Text(first)) as status:
            yield lambda sentence: status.update(Text(sentence))
        return
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    late: list[Timer] = []

    def tell(sentence: str) -> None:
        for timer in late:
            timer.cancel()
        late.append(Timer(PATIENCE, errors.print, [Text(sentence)]))
        late[-1].daemon = True
        late[-1].start()

    try:
        tell(first)
        yield tell
    finally:
        for timer in late:
            timer.cancel()


def _next(spec: str, proof: Certificate) -> str:
    """What to do about a red certificate, as one line."""
    said = escaped(str(memory_name(spec)))
    if (worst := proof.worst) is None:
        count = len(proof.missing)
        return f"next: {count} comparisons of {proof.spec} were not made; please report it"
    where = f"next: {worst.result.name} of {proof.spec} ({worst.check}, {worst.case}) is"
    debug = f"MIRAS_DEBUG=1 miras check {said}"
    if not worst.result.finite:
        finite = "not finite, where the rule itself is"
        return f"{where} {finite}; {debug} names the first number that was not"
    look = f"miras explain {said} --stage gradient"
    return (
        f"{where} furthest off: the code differs from the rule; please report it with the spec, "
        f"{look} shows what was derived, and {debug} may name the place"
    )


def _painted(text: str) -> Text:
    """A certificate with its verdicts in colour."""
    shown = Text(text)
    shown.highlight_words(["green"], "green", case_sensitive=True)
    shown.highlight_words(["not judged", "NOT JUDGED", "warning:"], "yellow", case_sensitive=True)
    shown.highlight_words(["RED", "MISSING", "red"], "bold red")
    return shown
