"""The card as text: about ten lines, each a word and what there is to say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isinf
from textwrap import wrap

from .decays import Decay, half_life
from .types import Card, GateRow, Work

WIDTH = 100
"""Characters of a line."""


def card_rows(card: Card) -> list[tuple[str, str]]:
    """(word, sentence) for each line of a card."""
    rows = [("class", f"{card.family}: {'; '.join(card.reasons)}" if card.reasons else card.family)]
    rows.append(("state", _state(card)))
    if card.gates:
        rows.append(("gates", " · ".join(_gates(card.gates))))
    if card.decays:
        rows.append(("keeps", " · ".join(map(_decay, card.decays))))
    chunks = f"in chunks of {card.chunk}" if card.chunk > 1 else "token by token"
    rows.append(("training", f"{_work(card.training)} a token and head, {chunks}"))
    rows.append(("decoding", f"{_work(card.decoding)} a token and head"))
    rows.append(("depth", _depth(card)))
    rows += [("CPU", card.cpu), ("GPU", card.gpu)]
    rows += [("warning", warning) for warning in card.warnings]
    return rows


def card_text(card: Card) -> str:
    """The card in columns, long lines wrapped."""
    lines: list[str] = []
    for word, sentence in card_rows(card):
        first, *more = wrap(sentence, WIDTH - 10, break_long_words=False, break_on_hyphens=False)
        lines += [f"{word:<10}{first}", *(f"{'':<10}{line}" for line in more)]
    return "\n".join(lines)


def number(value: float) -> str:
    """A number to three digits."""
    if isinf(value):
        return "-∞" if value < 0 else "∞"
    rounded = f"{value:.3g}"
    # A share of nearly 1 keeps the digits that tell it from 1.
    return f"{value:.6g}" if 0.99 < abs(value) < 1 else rounded


def _state(card: Card) -> str:
    shapes: dict[tuple[str, ...], list[str]] = {}
    for row in card.state:
        sides = " x ".join(map(str, row.shape))
        shape = f"[{', '.join(row.axes)}] {sides}" if row.axes else "one number"
        shapes.setdefault((shape, _start(row.starts)), []).append(row.name)
    parts = [f"{', '.join(names)} {shape}{start}" for (shape, start), names in shapes.items()]
    sizes = ", ".join(f"{name} = {value}" for name, value in card.sizes.items())
    total = f"{card.state_numbers} numbers, {_bytes(card.state_bytes)} a head at {sizes}"
    return f"{'; '.join(parts)}: {total}"


def _start(starts: str) -> str:
    return "" if starts.startswith("as ") else f", starts {starts}"


def _gates(rows: Sequence[GateRow]) -> Iterable[str]:
    """One phrase for each gate; rows of several weights with the same numbers are one."""
    seen: dict[str, None] = {}
    for row in rows:
        axes = "[row]" if row.weight else f"[{', '.join(row.axes)}]" if row.axes else ""
        start = _between(number(row.start_low), number(row.start_high))
        name = row.name if not row.name.startswith("_") else f"learned{row.name}"
        seen[f"{name}{axes} in [{number(row.low)}, {number(row.high)}], starts at {start}"] = None
    return seen


def _decay(decay: Decay) -> str:
    start, shares = (
        _between(*(said(end) for end in (decay.start.low, decay.start.high)))
        for said in (_half, number)
    )
    low, high = sorted((decay.range.low, decay.range.high), key=abs)
    return (
        f"{', '.join(decay.states)}: half-life {start} tokens at first ({shares} kept a token), "
        f"{_half(low)} to {_half(high)} over the range"
    )


def _between(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"


def _half(factor: float) -> str:
    tokens = half_life(factor)
    return "∞" if isinf(tokens) else f"{tokens:,.0f}" if tokens >= 1000 else f"{tokens:.3g}"


def _work(work: Work) -> str:
    return f"{work.flops:,} flops ({work.formula}), {_bytes(work.bytes)} moved"


def _bytes(count: int) -> str:
    for unit, size in (("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"


def _depth(card: Card) -> str:
    depth = card.depth
    what = "chunks" if card.chunk > 1 else "tokens"
    rows = f"; {depth.rows:,} rows in them" if depth.rows else ""
    return (
        f"{depth.steps:,} steps one after the other for {depth.tokens:,} tokens "
        f"({depth.walks:,} {what}{rows})"
    )
