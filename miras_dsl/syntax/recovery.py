"""Goes on after a syntax error: the clause that holds it is left out, and the others are read."""

from __future__ import annotations

import re

CLAUSES = ("tokens", "architecture", "bias", "retention", "algorithm", "order", "read", "gates")
WORDS = re.compile(r"#[^\n]*|[A-Za-z_][A-Za-z0-9_]*|[0-9.]+|[ \t\r\n]+|.", re.DOTALL)


def word_spans(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """(start, end) of each word and sign of a part of a text, without comments and spaces."""
    found = (m for m in WORDS.finditer(text, start, end))
    return [m.span() for m in found if not (m.group().isspace() or m.group().startswith("#"))]


def without_clause(text: str, at: int) -> str | None:
    """The text of a memory without the clause in which character ``at`` is; None if it is in none.

    What is left out becomes spaces, so that all other places stay.  An error at the first words of a
    clause may come from the clause before it, and then both are left out.
    """
    spans = word_spans(text, 0, len(text))
    starts = _clause_starts(text, spans)
    holding = [n for n, (start, _) in enumerate(starts) if start <= at]
    if not holding:
        return None
    last = holding[-1]
    first = max(last - 1, 0) if starts[last][1] + 2 >= _index(spans, at) else last
    begin = starts[first][0]
    end = starts[last + 1][0] if last + 1 < len(starts) else spans[-1][0]
    if end <= begin:
        return None
    return text[:begin] + re.sub(r"[^\n]", " ", text[begin:end]) + text[end:]


def _clause_starts(text: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """(character, number of the word) at which each clause of a memory begins."""
    found: list[tuple[int, int]] = []
    depth = 0
    current = ""
    for number, (start, end) in enumerate(spans):
        word = text[start:end]
        if word in ("(", "[", "{"):
            depth += 1
        elif word in (")", "]", "}"):
            depth -= 1
        elif depth == 1 and word in CLAUSES:
            own_line = "\n" in text[spans[number - 1][1] : start]
            # `read` is an event, too
            if own_line or not (current == "order" and word == "read"):
                found.append((start, number))
                current = word
    return found


def _index(spans: list[tuple[int, int]], at: int) -> int:
    return sum(1 for start, _ in spans if start < at)
