"""The command line: `miras new, check, explain, compile, train`.

Exit status, as the README lists it: 0 done, 1 a wrong spec or a red certificate, 2 a wrong command,
3 a file, folder or device that cannot be used, 4 numbers that are not finite, 70 a fault of miras,
130 stopped by Ctrl-C, 141 the output is a closed pipe.  Heavy imports are inside the commands, so that
`miras --help` is quick.
"""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

import miras_dsl as miras
from miras_dsl.source import escaped
from miras_dsl.stages import Stage

from .check import check
from .exit_status import reporting_failures, warn
from .options import AsJson, Spec
from .output_file import resolve_output
from .train import train

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


class Format(StrEnum):
    """The format of an explanation."""

    text = "text"
    latex = "latex"
    json = "json"


def _version(asked: bool) -> None:
    if asked:
        print(f"miras {miras.__version__}")
        raise typer.Exit()


@app.callback()
def _miras(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="print the version"),
    ] = False,
) -> None:
    """What stands before a command."""


@app.command()
def new(
    path: Annotated[Path, typer.Argument(metavar="FILE.mem", help="the file to write")],
    force: Annotated[bool, typer.Option("--force", help="overwrite a file that exists")] = False,
) -> None:
    """Write a commented `.mem` file to start from.

    Example: [bold]miras new robust.mem[/bold]
    """
    from .scaffold import memory_name, spec_template

    with reporting_failures() as out:
        place = resolve_output(path, force=force)
        place.write(spec_template(path.name))
        if not place.standard:
            out.print(Text(escaped(f"wrote {path}; next: miras check {memory_name(path)}")))
        if miras.shipped(str(path)) is not None:
            out.print(
                Text(f"here `{path}` now means this file and no longer the shipped memory {path}")
            )


app.command()(check)


@app.command()
def explain(
    what: Annotated[
        str, typer.Argument(metavar="SPEC|CODE", help="a spec, or a code such as M0101")
    ],
    stage: Annotated[Stage, typer.Option(metavar="STAGE", help=", ".join(Stage))] = Stage.SUMMARY,
    form: Annotated[Format, typer.Option("--format", help="how to write it")] = Format.text,
) -> None:
    """Show what was derived from a spec, or what a diagnostic means.

    Examples: [bold]miras explain robust.mem[/bold]; [bold]miras explain yaad --stage chunk[/bold];
    [bold]miras explain robust.mem --format latex[/bold]; [bold]miras explain M0101[/bold]
    """
    with reporting_failures(form is Format.json) as out:
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
        from miras_dsl.check import warnings
        from miras_dsl.codegen.explain import explain

        warn(warnings(meant), form is Format.json)
        print(escaped(explain(meant, stage=stage, form=form.value)))


@app.command("compile")
def compile_(
    spec: Spec,
    output: Annotated[
        Path | None, typer.Option("-o", help="the file to write; else stdout")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="overwrite a file that exists")] = False,
    as_json: AsJson = False,
) -> None:
    """Write the generated module: readable Python with kernels, gradients and `nn.Module` classes.

    It runs without the kernels where there is no GPU or no Triton.

    Example: [bold]miras compile robust.mem -o robust.py[/bold]
    """
    with reporting_failures(as_json) as out:
        place = None if output is None else resolve_output(output, spec=spec, force=force)
        rendered = miras.compile(spec)
        from miras_dsl.check import warnings
        from miras_dsl.spec import FileSpec

        memories = {name: memory.spec for name, memory in rendered.memories.items()}
        concerns = warnings(FileSpec(memories, {}, {}))
        warn(concerns, as_json)
        if place is not None:
            place.write(rendered.text)
        if as_json:
            said = {
                "digest": rendered.digest,
                "file": None if output is None else str(output),
                "text": rendered.text,
                "warnings": [concern.to_json() for concern in concerns],
            }
            print(json.dumps(said))
        elif place is None:
            sys.stdout.write(rendered.text)
        elif not place.standard:
            out.print(Text(escaped(f"wrote {output}, {rendered.text.count(chr(10))} lines")))


app.command()(train)


def main() -> None:
    """Runs the `miras` command."""
    app()
