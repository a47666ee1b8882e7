"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Spec = Annotated[
    str, typer.Argument(metavar="SPEC", help="a .mem file, or a shipped memory's name")
]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object and nothing else")]
