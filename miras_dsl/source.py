"""Texts and places in them: a named source, and a span of its characters."""

from __future__ import annotations

import re
from dataclasses import dataclass

UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Characters that Python calls printable and that no terminal shows."""


def is_visible(character: str) -> bool:
    """Whether a character shows itself: no control, no direction, nothing of zero width."""
    return character.isprintable() and not UNSEEN.match(character)


def escaped(text: str, keep: str = "\n\t") -> str:
    r"""``text`` as it may be printed: what does not show itself is written `\x1b`, `\u202e`.

    A terminal obeys some characters and hides others: a text from a stranger could move the cursor,
    or look like another text.  Those in ``keep`` stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in keep or is_visible(c) else _code(c) for c in text)


def _code(character: str) -> str:
    number = ord(character)
    digits = 2 if number < 0x100 else 4 if number < 0x10000 else 8
    return f"\\{ {2: 'x', 4: 'u', 8: 'U'}[digits] }{number:0{digits}x}"


@dataclass(frozen=True, slots=True)
class Source:
    """A text and the name it is shown under (a file name, ``<string>`` or ``std/biases.mem``)."""

    name: str
    text: str

    def line(self, at: int) -> str:
        """The line in which character ``at`` is, without its end-of-line character."""
        start = self.text.rfind("\n", 0, at) + 1
        end = self.text.find("\n", at)
        return self.text[start : end if end >= 0 else len(self.text)]


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
        return f"{escaped(self.source.name, keep='')}:{self.line}:{self.column}"

    def to(self, other: Span) -> Span:
        """The span from the start of this one to the end of ``other``."""
        return Span(self.source, self.start, max(self.end, other.end), self.line, self.column)


NOWHERE = Span(Source("<nowhere>", ""), 0, 0, 1, 1)
