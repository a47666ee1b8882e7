"""The first pass over a text: its words, its limits, and where each definition begins.

Texts that are too large or too deeply nested are refused here, before a parser runs over them.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass

from miras_dsl.diagnostics import Findings, Label, Problem, problem
from miras_dsl.source import Source, Span, is_visible

from .habit_hints import hint_for
from .version import after_version, not_first

MAX_CHARACTERS = 1 << 20
MAX_NESTING = 64
MAX_NODES = 5000
MAX_WORDS = 20000
MAX_NAME = 64

ITEMS = frozenset({"memory", "bias", "retention", "algorithm", "architecture", "layer", "model"})
LATER = frozenset({"space", "pattern"})
WORD = re.compile(
    r"(?P<skip>[ \t\r\n]+|#[^\n]*)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<number>[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)"
    r"|(?P<sign>->|<=|>=|==|[-+*/@^<>=(){}\[\],:;])|(?P<strange>.)",
    re.DOTALL,
)
CLOSES = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True, slots=True)
class Chunk:
    """The text of one definition.

    word        its first word
    start, end  its characters in the source; end is exclusive
    doc         the comment lines directly above it
    """

    word: str
    start: int
    end: int
    doc: str


class SourceMap:
    """Makes spans, with line and column, of character positions in a source."""

    def __init__(self, source: Source):
        self.source = source
        self.starts = [0, *(m.end() for m in re.finditer("\n", source.text))]

    def span(self, start: int, end: int) -> Span:
        """The span of characters ``start`` to ``end``."""
        line = bisect_right(self.starts, start)
        return Span(self.source, start, end, line, start - self.starts[line - 1] + 1)


def split_definitions(source: Source, places: SourceMap, findings: Findings) -> list[Chunk]:
    """The definitions of a text, in order.

    Brackets that do not match are added to ``findings``, and the result is then empty.  Raises Problem
    for a text that is too large or too deeply nested, and for a character or word out of place.
    """
    text = source.text
    if len(text) > MAX_CHARACTERS or len(text.encode("utf-8", "replace")) > MAX_CHARACTERS:
        raise problem(
            "M0001",
            "this file is larger than 1 MiB",
            places.span(0, 1),
            "the text starts here",
            help="split it: every memory can live in a file of its own",
        )
    found: list[tuple[str, int]] = []
    opened: list[tuple[str, int]] = []
    broken = False
    words = 0
    last_end = 0
    for match in WORD.finditer(text, after_version(places)):
        if match.lastgroup == "skip":
            continue
        start, word = match.start(), match.group()
        words += 1
        _limits(match.lastgroup or "", word, start, words, places)
        at_line_start = start == places.starts[bisect_right(places.starts, start) - 1]
        if opened and at_line_start and word in ("memory", "layer", "model"):
            findings.add(_unclosed(opened[-1], places))
            opened, broken = [], True
        if found and not opened and at_line_start and word == "miras":
            raise not_first(places, start)
        if not opened and _begins(text, start, word, places):
            found.append((word, start))
            broken = False
        elif not found:
            raise problem(
                "M0101",
                f"a definition must begin here, not `{shortened(word)}`",
                places.span(start, match.end()),
                "unexpected",
                help=hint_for(text, start)
                or "a file is made of `memory`, `layer` and `model` definitions, and of `bias`, "
                "`retention`, `algorithm` and `architecture` definitions of your own",
            )
        if word in CLOSES:
            opened.append((word, start))
            if len(opened) > MAX_NESTING:
                raise problem(
                    "M0002",
                    f"brackets are nested more than {MAX_NESTING} deep",
                    places.span(start, start + 1),
                    f"level {MAX_NESTING + 1} opens here",
                    help="give an inner part a name of its own, as a gate or a token",
                )
        elif word in (")", "]", "}") and not broken:
            if opened and CLOSES[opened[-1][0]] == word:
                opened.pop()
            else:
                findings.add(_unmatched(word, start, opened, places))
                opened, broken = [], True
        last_end = match.end()
    if opened and not broken:
        findings.add(_unclosed(opened[-1], places))
    if findings or not found:
        # After a bracket that does not match, further messages would be wrong.
        return []
    ends = [start for _, start in found[1:]] + [last_end]
    return [
        Chunk(word, start, end, _doc(text, start))
        for (word, start), end in zip(found, ends, strict=True)
    ]


def _begins(text: str, start: int, word: str, places: SourceMap) -> bool:
    line = places.starts[bisect_right(places.starts, start) - 1]
    return (word in ITEMS or word in LATER) and not text[line:start].strip()


def _limits(kind: str, word: str, start: int, words: int, places: SourceMap) -> None:
    if words > MAX_WORDS:
        raise problem(
            "M0003",
            f"this file has more than {MAX_WORDS} words and signs",
            places.span(start, start + len(word)),
            "reading stops here",
            help="split the file, or generate shorter formulas",
        )
    if kind == "strange":
        raise problem(
            "M0102",
            f"{_character(word)} has no meaning in this language",
            places.span(start, start + 1),
            "this character",
            help=hint_for(places.source.text, start)
            or "names are made of a-z, digits and `_`; text of any kind may stand after `#`",
        )
    if kind == "name" and len(word) > MAX_NAME:
        raise problem(
            "M0006",
            f"a name may have {MAX_NAME} characters, this one has {len(word)}",
            places.span(start, start + len(word)),
            "too long",
        )


def _character(word: str) -> str:
    return f"`{word}`" if is_visible(word) else f"the character U+{ord(word):04X}"


def shortened(word: str) -> str:
    """A word as it is shown in a message: at most 40 characters."""
    return word if len(word) <= 40 else word[:37] + "…"


def _unclosed(opened: tuple[str, int], places: SourceMap) -> Problem:
    sign, start = opened
    return problem(
        "M0103",
        f"this `{sign}` is never closed",
        places.span(start, start + 1),
        f"needs a `{CLOSES[sign]}`",
        help=f"add `{CLOSES[sign]}` where the part that begins here ends",
    )


def _unmatched(word: str, start: int, opened: list[tuple[str, int]], places: SourceMap) -> Problem:
    at = places.span(start, start + 1)
    if not opened:
        return problem("M0103", f"this `{word}` closes nothing", at, "nothing is open here")
    sign, where = opened[-1]
    because = (Label(places.span(where, where + 1), f"opened here with `{sign}`"),)
    expected = CLOSES[sign]
    return problem(
        "M0103",
        f"`{expected}` must come before this `{word}`",
        at,
        f"expected `{expected}`",
        because=because,
    )


def _doc(text: str, start: int) -> str:
    lines: list[str] = []
    for line in reversed(text[:start].split("\n")[-64:-1]):
        stripped = line.strip()
        if not stripped.startswith("#"):
            break
        lines.append("".join(c for c in stripped.lstrip("#").strip() if is_visible(c)))
    return "\n".join(reversed(lines))
