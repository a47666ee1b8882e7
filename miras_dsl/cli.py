"""The command line: `miras new, check, explain, compile, train`.

Exit status: 0 done, 1 a wrong spec or a red certificate, 2 a wrong command, 3 a file or folder that
cannot be used, 130 stopped by Ctrl-C.  Heavy imports happen inside the commands, so that
`miras --help` is quick.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

import miras_dsl as miras

from .dtypes import Dtype
from .failures import Unusable

WRONG, USAGE, UNUSABLE, STOPPED = 1, 2, 3, 130

app = typer.Typer(
    name="miras",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "From a memory written as text to a proven, trained PyTorch module.\n\n"
        "A first session:\n\n"
        "  miras new robust.mem        a commented file to start from\n\n"
        "  miras check robust.mem      is the generated code right? measured against autodiff\n\n"
        "  miras explain robust.mem    what was derived, and why\n\n"
        "  miras train robust.mem      a small language model on real text\n\n"
        "A SPEC is a .mem file, or the name of a shipped memory: miras check yaad"
    ),
)

Spec = Annotated[
    str, typer.Argument(metavar="SPEC", help="a .mem file, or a shipped memory's name")
]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object and nothing else")]


class Format(StrEnum):
    """How an explanation is written."""

    text = "text"
    latex = "latex"
    json = "json"


@contextmanager
def told(as_json: bool = False) -> Iterator[Console]:
    """Turns failures into a message on stderr (or JSON on stdout) and an exit status."""
    from .diagnostics import SpecErrors

    errors = Console(stderr=True, soft_wrap=True, highlight=False)

    def warn(message: Warning | str, *_where: object) -> None:
        errors.print(Text(f"warning: {message}"))

    try:
        with warnings.catch_warnings():
            warnings.showwarning = warn
            yield Console(soft_wrap=True, highlight=False, quiet=as_json)
    except SpecErrors as wrong:
        if as_json:
            print(json.dumps({"errors": wrong.to_json()}, indent=2))
        else:
            errors.print(Text(str(wrong)))
        raise typer.Exit(WRONG) from None
    except Unusable as reason:
        _complain(errors, as_json, str(reason))
        raise typer.Exit(UNUSABLE) from None
    except OSError as error:
        _complain(errors, as_json, f"{error.filename or 'a file'}: {error.strerror}")
        raise typer.Exit(UNUSABLE) from None
    except KeyboardInterrupt as stop:
        sentence = str(stop) or "stopped before the end; start again when you like"
        _complain(errors, as_json, sentence, mark="")
        raise typer.Exit(STOPPED) from None


def _complain(errors: Console, as_json: bool, sentence: str, mark: str = "error: ") -> None:
    if as_json:
        print(json.dumps({"errors": [{"what": sentence}]}))
    else:
        errors.print(Text(mark + sentence))


def _painted(text: str) -> Text:
    """A certificate with its verdicts in colour."""
    shown = Text(text)
    shown.highlight_words(["green"], "green", case_sensitive=True)
    shown.highlight_words(["RED", "MISSING", "red", "ill-conditioned"], "bold red")
    return shown


def _write(path: Path, text: str) -> None:
    """Write a whole file or none."""
    aside: str | None = None
    try:
        handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(aside, 0o644)
        os.replace(aside, path)
    except OSError as error:
        raise Unusable(f"{path} cannot be written: {error.strerror}") from error
    finally:
        if aside is not None:
            Path(aside).unlink(missing_ok=True)


@app.command()
def new(
    path: Annotated[Path, typer.Argument(metavar="FILE.mem", help="the file to write")],
    force: Annotated[bool, typer.Option("--force", help="overwrite a file that exists")] = False,
) -> None:
    """Write a commented `.mem` file to start from.

    Example: [bold]miras new robust.mem[/bold]
    """
    from .new import template

    with told() as out:
        if path.exists() and not force:
            raise Unusable(f"{path} exists; choose another name, or --force")
        _write(path, template(path.stem))
        out.print(f"wrote {path}; next: miras check {path}")


@app.command()
def check(
    spec: Spec,
    only: Annotated[
        list[str] | None, typer.Option(help="a memory of the file by name; else all of them")
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="type of the tokens")] = Dtype.FLOAT32,
    device: Annotated[
        str, typer.Option(help="cpu, or cuda: kernels and chunk form, a certificate for each")
    ] = "cpu",
    output: Annotated[Path | None, typer.Option("-o", help="write the certificate as JSON")] = None,
    as_json: AsJson = False,
) -> None:
    """Parse, type, derive and run a spec, and compare it with autodiff of your own loss.

    The certificate lists what was measured: outputs, states and every gradient, packed sequences,
    decoding, causality.  Exit status 1 when anything in it is red.

    Examples: [bold]miras check robust.mem[/bold];
    [bold]miras check yaad --only Yaad -o yaad.json[/bold]
    """
    with told(as_json) as out:
        source = miras.find(spec)
        # A wrong spec is told before torch is imported, which takes longer than all of this.
        meant = miras.parse(source)
        from miras_dsl.runtime.proof import prove

        with out.status(f"checking {source.name} …"):
            proofs = prove(meant, only=only or (), dtype=dtype, device=device)
        plain = {name: json.loads(proof.to_json()) for name, proof in proofs.items()}
        if output is not None:
            _write(output, json.dumps(plain, indent=2) + "\n")
        if as_json:
            print(json.dumps(plain, indent=2))
        for proof in proofs.values():
            out.print(_painted(str(proof)))
        if not proofs:
            out.print(f"{source.name} is well formed; it holds no memory to certify")
        if not all(proof.green for proof in proofs.values()):
            raise typer.Exit(WRONG)


@app.command()
def explain(
    what: Annotated[
        str, typer.Argument(metavar="SPEC|CODE", help="a spec, or a code such as M0101")
    ],
    stage: Annotated[str, typer.Option(help="one stage by name, or all")] = "summary",
    form: Annotated[Format, typer.Option("--format", help="how to write it")] = Format.text,
) -> None:
    """Show what was derived from a spec, or what a diagnostic means.

    Examples: [bold]miras explain robust.mem[/bold]; [bold]miras explain yaad --stage chunk[/bold];
    [bold]miras explain robust.mem --format latex[/bold]; [bold]miras explain M0101[/bold]
    """
    with told(form is Format.json) as out:
        if miras.is_code(what):
            try:
                page = miras.explain(what)
            except LookupError:
                raise typer.BadParameter(f"there is no code {what.upper()}") from None
            if form is Format.json:
                print(json.dumps({"code": what.upper(), "text": page}))
            out.print(Text(page))
            return
        meant = miras.parse(what)
        from miras_dsl.codegen.report import STAGES, report

        if stage not in STAGES:
            raise typer.BadParameter(f"one of {', '.join(STAGES)}", param_hint="--stage")
        print(report(meant, stage=stage, form=form.value))


@app.command("compile")
def compile_(
    spec: Spec,
    output: Annotated[
        Path | None, typer.Option("-o", help="the file to write; else stdout")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the generated module: readable Python with kernels, gradients and `nn.Module` classes.

    It runs without the kernels where there is no GPU or no Triton.

    Example: [bold]miras compile robust.mem -o robust.py[/bold]
    """
    with told(as_json) as out:
        rendered = miras.compile(spec)
        if output is not None:
            _write(output, rendered.text)
        if as_json:
            where = None if output is None else str(output)
            print(json.dumps({"digest": rendered.digest, "file": where, "text": rendered.text}))
        elif output is None:
            sys.stdout.write(rendered.text)
        else:
            out.print(f"wrote {output}, {rendered.text.count(chr(10))} lines")


@app.command()
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
    with told(as_json) as out:
        source = miras.find(spec)
        miras.parse(source)
        from miras_dsl.runtime.job import Wishes, run

        wishes = Wishes(text, steps, minutes, width, layers, batch, length, rate, seed, keep)
        folder = output or Path("runs") / Path(source.name).stem
        outcome = run(source, wishes, folder, resume=resume, console=out)
        if as_json:
            print(json.dumps(outcome.to_json()))
        else:
            out.print(Text(str(outcome)))


def main() -> None:
    """The `miras` command."""
    app()


if __name__ == "__main__":
    main()
