"""Texts and places in them: a named source, and a span of its characters."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Source:
    """A text and the name it is shown under (a file name, ``<string>`` or ``std/biases.mem``)."""

    name: str
    text: str

    def line(self, number: int) -> str:
        """Line ``number`` (from 1), without its end-of-line character; empty past the end."""
        lines = self.text.split("\n")
        return lines[number - 1] if 0 < number <= len(lines) else ""


@dataclass(frozen=True, slots=True)
class Span:
    """Characters ``start`` to ``end`` (exclusive) of a source; ``line`` and ``column`` count from 1."""

    source: Source
    start: int
    end: int
    line: int
    column: int

    @property
    def text(self) -> str:
        """The characters themselves."""
        return self.source.text[self.start : self.end]

    @property
    def place(self) -> str:
        """``name:line:column``, the form that editors can jump to."""
        return f"{self.source.name}:{self.line}:{self.column}"

    def to(self, other: Span) -> Span:
        """The span from the start of this one to the end of ``other``."""
        return Span(self.source, self.start, max(self.end, other.end), self.line, self.column)


NOWHERE = Span(Source("<nowhere>", ""), 0, 0, 1, 1)
