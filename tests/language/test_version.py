"""A file may say in which version of the language it is written, and another one is refused."""

from __future__ import annotations

import pytest

import miras_dsl as miras
from miras_dsl.cli.scaffold import spec_template
from miras_dsl.codegen.digest import digest_of
from miras_dsl.syntax.version import LANGUAGE
from tests.project.command import GOOD

WELL = {
    "alone": "miras 1\n",
    "after comments": "# a file\n\n  # of mine\nmiras 1\n\n",
    "with a comment": "miras 1   # the first\n",
    "of another system": "miras\t1\r\n",
    "with zeros": "miras 001\n",
    "indented": "  miras 1\n",
}


@pytest.mark.parametrize("head", WELL.values(), ids=WELL)
def test_the_version_that_is_read_here(head):
    """It changes nothing of the meaning; documentation and places stay."""
    stated, plain = miras.parse(head + GOOD), miras.parse(GOOD)
    assert digest_of(stated) == digest_of(plain)
    text = head + "# What it is.\n" + GOOD.lstrip()
    memory = miras.parse(text).memories["Delta"]
    assert memory.doc == "What it is."
    assert text[memory.span.start :].startswith(("memory", "Delta"))
    assert memory.span.line == text[: memory.span.start].count("\n") + 1


WRONG = {
    "miras 2": ("version 2 of the language", "version 1 is read here", "a newer one"),
    "miras 0": ("version 0 of the language", "version 1 is read here", "the file was written for"),
    "miras 999999999": ("version 999999999 of", "version 1 is read here", "a newer one"),
    "miras 9999999999999999999999": (
        "followed by the version",
        "a whole number",
        "write `miras 1`",
    ),
    "miras": ("followed by the version", "a whole number", "write `miras 1`"),
    "miras one": ("followed by the version", "a whole number", "or leave the line out"),
    "miras 1.5": ("followed by the version", "a whole number", "write `miras 1`"),
    "miras -1": ("followed by the version", "a whole number", "write `miras 1`"),
    "miras = 1": ("followed by the version", "a whole number", "write `miras 1`"),
    "miras 1 memory": ("followed by the version", "nothing else on this line", "write `miras 1`"),
    "miras \u0661": ("followed by the version", "a whole number", "write `miras 1`"),
}


@pytest.mark.parametrize("head", WRONG, ids=ascii)
def test_another_one_is_refused(head):
    with pytest.raises(miras.SpecErrors) as caught:
        miras.parse(f"{head}\n{GOOD}")
    (found,) = caught.value.diagnostics
    assert found.code == "M0120"
    said = str(found)
    for part in WRONG[head]:
        assert part in said


@pytest.mark.parametrize("text", ["{}miras 1\n", "miras 1\n{}miras 1\n", "{}miras 1\n{}"])
def test_it_stands_first(text):
    with pytest.raises(miras.SpecErrors) as caught:
        miras.parse(text.replace("{}", GOOD.lstrip()))
    (found,) = caught.value.diagnostics
    assert found.code == "M0120" and "before all definitions" in found.what


def test_the_word_is_free_everywhere_else():
    """A gate may be called so."""
    text = GOOD.replace("gd(eta)", "gd(miras)").replace("eta =", "miras =")
    assert [g.name for g in miras.parse(text).memories["Delta"].gates] == ["miras"]


def test_a_new_file_states_it():
    text = spec_template("robust.mem")
    assert text.startswith(f"miras {LANGUAGE}\n")
    assert "Robust" in miras.parse(text).memories
