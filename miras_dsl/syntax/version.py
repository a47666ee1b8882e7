"""The first line of a file, if it says so: `miras 1`, the version of the language it is written in."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from miras_dsl.diagnostics import Problem, problem

if TYPE_CHECKING:
    from .prelex import SourceMap

LANGUAGE = 1
"""The version of the language that is read here."""
LINE = re.compile(r"miras[ \t]+([0-9]{1,9})[ \t\r]*(?:#[^\n]*)?(?:\n|\Z)")
BEFORE = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")


def after_version(places: SourceMap) -> int:
    """Where a text goes on after its version; 0 where it states none.

    Raises Problem for a version that is not read here, and for a line that states none.
    """
    text = places.source.text
    before = BEFORE.match(text)
    start = before.end() if before else 0
    if not re.match(r"miras\b", text[start : start + 6]):
        return 0
    stated = LINE.match(text, start)
    if stated is None:
        raise problem(
            "M0120",
            "`miras` at the start of a file is followed by the version of the language",
            places.span(start, start + len("miras")),
            "a whole number must follow, and nothing else on this line",
            help=f"write `miras {LANGUAGE}`, or leave the line out",
        )
    if int(stated[1]) != LANGUAGE:
        raise problem(
            "M0120",
            f"this file is written in version {int(stated[1])} of the language",
            places.span(*stated.span(1)),
            f"version {LANGUAGE} is read here",
            help="install the miras_dsl that the file was written for"
            + (", a newer one" if int(stated[1]) > LANGUAGE else ""),
        )
    return stated.end()


def not_first(places: SourceMap, start: int) -> Problem:
    """The problem of a version that stands behind a definition."""
    return problem(
        "M0120",
        "the version of the language stands before all definitions",
        places.span(start, start + len("miras")),
        "not here",
        help="move this line to the start of the file",
    )
