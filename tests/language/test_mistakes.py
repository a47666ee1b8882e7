"""A hundred deliberate mistakes, and what is told about each: its place, its cause and a way out."""

from pathlib import Path

import pytest

from miras_dsl.check import read
from miras_dsl.diagnostics import SpecErrors
from miras_dsl.source import Source

from .hostile_files import memory
from .mistakes import MISTAKES

GOLDEN = Path(__file__).with_name("mistakes.txt")


def told(name):
    given = dict(MISTAKES[name])
    head, after, before = (
        given.pop(w, d) for w, d in (("head", "M(d)"), ("after", ""), ("before", ""))
    )
    with pytest.raises(SpecErrors) as caught:
        read(Source("m.mem", memory(head, after, before, **given)))
    return caught.value.diagnostics


def test_the_messages_are_the_golden_ones(update_golden):
    text = "".join(f"{name}\n\n{SpecErrors(told(name))}\n\n\n" for name in MISTAKES)

    if update_golden:
        GOLDEN.write_text(text, encoding="utf-8")

    assert GOLDEN.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_answered_at_its_place_with_a_way_out(name):
    for found in told(name):
        assert found.help and found.at.span.line >= 1 and found.at.text
        assert "expected `" not in found.help


def test_there_are_a_hundred():
    assert len(MISTAKES) >= 100
