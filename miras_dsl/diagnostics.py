"""Diagnostics: what is wrong with a `.mem` file, where, why, a way out, and a code to look up.

A `Diagnostic` is data.  `Problem` is the exception that carries one of them to the clause that can go on
without it; `SpecErrors` is what a user sees: all diagnostics of one run, in source order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from .source import Span, escaped
from .suggestions import did_you_mean


@dataclass(frozen=True, slots=True)
class Label:
    """A place in a source and what to say about it."""

    span: Span
    text: str = ""


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One problem of a file.

    code      `M` and four digits; `explain` has a page for it
    what      the problem, in one sentence
    at        the place to mend
    because   other places that show why it is a problem
    help      a way out; may be empty
    severity  "error" or "warning"
    """

    code: str
    what: str
    at: Label
    because: tuple[Label, ...] = ()
    help: str = ""
    severity: str = "error"

    def __str__(self) -> str:
        labels = sorted((*self.because, self.at), key=lambda l: (l.span.source.name, l.span.start))
        own = [label for label in labels if label.span.source == self.at.span.source]
        foreign = [label for label in labels if label.span.source != self.at.span.source]
        gutter = max(len(str(label.span.line)) for label in labels) + 2
        lines = [f"{self.severity}[{self.code}]: {escaped(self.what)}"]
        lines.append(f"{'':{gutter}}--> {self.at.span.place}")
        lines += _quote(own, gutter)
        for label in foreign:
            lines.append(f"{'':{gutter}}::: {label.span.place}")
            lines += _quote([label], gutter)
        if self.help:
            lines.append(f"{'':{gutter}} = help: {escaped(self.help)}")
        lines.append(f"{'':{gutter}} = more: miras explain {self.code}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        """The same as plain data, for editors and other programs."""
        return {
            "code": self.code,
            "severity": self.severity,
            "what": self.what,
            "at": _label_json(self.at),
            "because": [_label_json(label) for label in self.because],
            "help": self.help,
        }


class Problem(Exception):
    """Carries one diagnostic; None if the cause has been reported already."""

    def __init__(self, diagnostic: Diagnostic | None):
        self.diagnostic = diagnostic
        super().__init__(diagnostic.what if diagnostic else "reported elsewhere")


class SpecErrors(Exception):
    """All problems of one run, in source order."""

    def __init__(self, diagnostics: Iterable[Diagnostic]):
        unique = dict.fromkeys(diagnostics)
        self.diagnostics = tuple(sorted(unique, key=lambda d: (d.at.span.start, d.code)))
        super().__init__(f"{len(self.diagnostics)} problem(s)")

    def __str__(self) -> str:
        return "\n\n".join(str(d) for d in self.diagnostics)

    def to_json(self) -> list[dict[str, object]]:
        """The diagnostics as plain data."""
        return [d.to_json() for d in self.diagnostics]


@dataclass(slots=True)
class Findings:
    """The problems found so far; a clause that fails adds one and the check goes on."""

    found: list[Diagnostic] = field(default_factory=list)

    def add(self, problem: Problem) -> None:
        """Add the diagnostic of ``problem``, if it carries one."""
        if problem.diagnostic is not None:
            self.found.append(problem.diagnostic)

    def __bool__(self) -> bool:
        return any(d.severity == "error" for d in self.found)


def problem(
    code: str,
    what: str,
    span: Span,
    label: str = "",
    *,
    because: tuple[Label, ...] = (),
    help: str = "",
) -> Problem:
    """An error, to be raised; the arguments are those of `Diagnostic`, with ``label`` at ``span``."""
    return Problem(Diagnostic(code, what, Label(span, label), because, help))


def warning(
    code: str,
    what: str,
    span: Span,
    label: str = "",
    *,
    because: tuple[Label, ...] = (),
    help: str = "",
) -> Diagnostic:
    """A warning: the file has a meaning, but probably not the one that was meant."""
    return Diagnostic(code, what, Label(span, label), because, help, "warning")


@dataclass(frozen=True, slots=True)
class Entry:
    """A page about one code: an explanation, a file that fails, and the same file mended."""

    code: str
    title: str
    explanation: str
    bad: str
    good: str


@cache
def catalogue() -> dict[str, Entry]:
    """The page of every code."""
    pages = (p for p in files("miras_dsl").joinpath("errors").iterdir() if p.name.endswith(".txt"))
    entries = [_entry(p.name.removesuffix(".txt"), p.read_text(encoding="utf-8")) for p in pages]
    return {e.code: e for e in sorted(entries, key=lambda e: e.code)}


def explain(code: str) -> str:
    """The page of a code, as text.  Raises LookupError for an unknown code."""
    entry = catalogue().get(code.upper())
    if entry is None:
        raise LookupError(f"there is no code `{code}`; {did_you_mean(code.upper(), catalogue())}")
    bad, good = (_indent(_shorten(text)) for text in (entry.bad, entry.good))
    head = f"{entry.code}: {entry.title}\n\n{entry.explanation}"
    return f"{head}\n\nfails:\n\n{bad}\n\nmended:\n\n{good}\n"


def _entry(code: str, page: str) -> Entry:
    head, bad, good = page.split("\n---\n")
    title, _, explanation = head.partition("\n")
    return Entry(code, title.strip(), explanation.strip(), _expand(bad), _expand(good))


def _expand(text: str) -> str:
    """An example file; to keep pages short, `@repeat 900 g` stands for 900 lines `g`, in which `@n`
    is the number of the line."""
    lines: list[str] = []
    for line in text.strip("\n").split("\n"):
        if line.startswith("@repeat "):
            _, count, repeated = line.split(" ", 2)
            lines += [repeated.replace("@n", str(n)) for n in range(1, int(count) + 1)]
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def _shorten(text: str) -> str:
    lines = text.rstrip("\n").split("\n")
    shown = (
        lines
        if len(lines) <= 40
        else [*lines[:8], f"… {len(lines) - 12} more lines …", *lines[-4:]]
    )
    return "\n".join(line if len(line) <= 160 else line[:150] + " …" for line in shown)


def _indent(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.split("\n"))


def _quote(labels: list[Label], gutter: int) -> list[str]:
    lines: list[str] = []
    last = 0
    for label in labels:
        span = label.span
        text = span.source.line(span.start).removesuffix("\r")
        start = span.column - 1
        width = max(1, min(span.end - span.start, len(text) - start))
        # a very long line is cut around the place, so that a hostile file cannot flood the terminal
        left = max(0, start - 60)
        cut = text[left : left + 120].replace("\t", " ")
        width = min(width, max(1, len(cut) - (start - left)))
        before = escaped(cut[: start - left], keep="")
        marked = escaped(cut[start - left : start - left + width], keep="")
        if span.line != last or left:
            lines.append(f"{span.line:>{gutter - 1}} | {escaped(cut, keep='')}")
        last = 0 if left else span.line
        carets = "^" * max(1, len(marked))
        lines.append(f"{'':{gutter}}| {'':{len(before)}}{carets} {escaped(label.text)}".rstrip())
    return lines


def _label_json(label: Label) -> dict[str, object]:
    span = label.span
    return {
        "file": span.source.name,
        "line": span.line,
        "column": span.column,
        "start": span.start,
        "end": span.end,
        "text": label.text,
    }
