"""No character of a stranger's text reaches the terminal that does something there, or hides."""

from __future__ import annotations

import unicodedata
import warnings

import hypothesis.strategies as st
import pytest
from hypothesis import given

import miras_dsl as miras
from miras_dsl.exceptions import EnvironmentFailure
from miras_dsl.runtime.train.evaluate import readable
from miras_dsl.source import escaped, is_visible
from tests.project.command import GOOD, process

HOSTILE = {
    "escape": "\x1b[31m",
    "title": "\x1b]0;owned\x07",
    "c1": "\x9b31m",
    "return": "\r",
    "backspace": "\b\b",
    "null": "\0",
    "bidi": "\u202e",
    "isolate": "\u2066",
    "mark": "\u200f",
    "zero width": "\u200b",
    "joiner": "\u200d",
    "soft hyphen": "\xad",
    "bom": "\ufeff",
    "filler": "\u3164",
    "selector": "\ufe0f",
    "tag": "\U000e0041",
    "line": "\u2028",
    "surrogate": "\ud800",
    "space": "\xa0",
}


def harmless(text: str) -> bool:
    """What Unicode calls no control, no format, no separator; and nothing that is not drawn."""
    return not any(
        unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
        or c in "\u3164\ufe0f\u034f\u115f\u1160\uffa0"
        for c in text
        if c != "\n"
    )


PLACES = {
    "in a name": "memory M(d) {{\n  gates {{ g{0}x = 1 }}\n}}\n",
    "first": "{0}memory M(d) {{ }}\n",
    "beside a mistake": "memory M(d) {{ # {0}\n  bias l22 # {0}\n}}\n",
    "before a mistake": GOOD.replace("{", "{{").replace("}", "}}").replace("l2", "l2 * 1 ^ # {0}"),
    "in an unclosed bracket": "memory M(d) {{ # {0}\n  bias l2( # {0}\n",
    "in a definition's name": "memory M{0}(d) {{ }}\n",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_diagnostic_shows_it_escaped(place, kind):
    text = PLACES[place].format(HOSTILE[kind])
    with pytest.raises(miras.SpecErrors) as caught:
        miras.parse(miras.Source(f"{HOSTILE[kind]}.mem", text))
    said = str(caught.value)
    assert harmless(said), ascii(said)
    code = f"{ord(HOSTILE[kind][0]):x}"
    assert f"{code.zfill(2)}" in said and "\\" in said


def test_the_mark_stands_below_the_character_that_is_meant():
    """Also where what is before it is longer on the screen than in the file."""
    with pytest.raises(miras.SpecErrors) as caught:
        miras.parse("memory M(d) { # \u202e\n  gates { \u200b\u200b = 1 }\n}")
    lines = str(caught.value).split("\n")
    quoted = next(line for line in lines if "gates" in line)
    marks = lines[lines.index(quoted) + 1]
    start = marks.index("^")
    assert quoted[start : start + marks.count("^")] == r"\u200b"


def test_the_ends_of_lines_of_other_systems_are_no_characters_of_a_line():
    with pytest.raises(miras.SpecErrors) as caught:
        miras.parse("memory M(d) {\r\n  bias l22\r\n}\r\n")
    assert "\\x0d" not in str(caught.value) and "\r" not in str(caught.value)


@given(st.text())
def test_what_is_shown_is_harmless_and_plain_text_stays(text):
    assert harmless(escaped(text, keep="\n"))
    if all(map(is_visible, text)):
        assert escaped(text) == text


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_warning_an_exception_a_document_and_a_sample(kind):
    mark = HOSTILE[kind]
    assert harmless(str(EnvironmentFailure(f"there is no file {mark}")))
    assert harmless(readable(f"it writes {mark}"))
    text = f"# A memory.{mark}\n" + GOOD.strip().replace(
        "linear(x)) }", f"linear(x) # {mark}\n  )   unused = sigmoid(linear(x)) }}"
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        library = miras.load(miras.Source(f"{mark}.mem", text))
    assert told and all(harmless(str(w.message)) for w in told)
    assert harmless(library.text)
    for stage in ("summary", "spec"):
        assert harmless(miras.explain(miras.Source("a.mem", text), stage=stage))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["check", "explain", "compile", "train"])
def test_the_command_line_shows_it_escaped(command, tmp_path):
    """In a spec, and in the name of a file that is there or not."""
    bad = tmp_path / "\x1b[31m\u202e.mem"
    bad.write_text("memory M(d) {\n  gates { g\x1b]0;owned\x07\u202e = 1 }\n}\n")
    for path in (bad, tmp_path / "no\x1b[31m\u202e.mem"):
        done = process(command, path)
        assert done.returncode in (1, 3)
        assert harmless(done.stdout + done.stderr), ascii(done.stderr)
        assert r"\x1b" in done.stderr
