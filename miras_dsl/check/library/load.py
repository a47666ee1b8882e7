"""Loads the library: biases, retentions, algorithms and networks, as `.mem` text."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from miras_dsl.source import Source
from miras_dsl.syntax import tree as syntax
from miras_dsl.syntax.parser import parse

FILES = ("biases", "retentions", "algorithms", "networks")
Library = dict[tuple[str, str], syntax.Definition]


@cache
def standard() -> Library:
    """(kind, name) -> definition, for the whole library; parsed once."""
    found: Library = {}
    for name in FILES:
        for item in parse(library_text(name)).items:
            assert isinstance(item, syntax.Definition), f"std/{name}.mem holds definitions only"
            found[item.kind, item.name] = item
    return found


def library_text(name: str) -> Source:
    """The text of one file of the library."""
    page = files("miras_dsl.specs.std").joinpath(f"{name}.mem")
    return Source(f"std/{name}.mem", page.read_text(encoding="utf-8"))
