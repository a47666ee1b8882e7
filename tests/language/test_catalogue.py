"""Every diagnostic can occur, has its expected message, and its mended file has no mistake."""

from pathlib import Path

import pytest

import miras_dsl
from miras_dsl.check import read, warnings
from miras_dsl.codegen.pipeline import compile_file
from miras_dsl.diagnostics import SpecErrors, catalogue, explain
from miras_dsl.source import Source

MESSAGES = Path(__file__).parent / "messages"
CODES = sorted(catalogue())


def diagnostics(text):
    """All errors of a text, those of the derivation too, or its warnings when it has none."""
    try:
        spec = read(Source("bad.mem", text))
        compile_file(spec)
        return warnings(spec)
    except SpecErrors as errors:
        return errors.diagnostics


@pytest.mark.parametrize("code", CODES)
def test_the_failing_file_fails_with_exactly_its_code(code):
    found = diagnostics(catalogue()[code].bad)

    assert {d.code for d in found} == {code}


@pytest.mark.parametrize("code", CODES)
def test_the_mended_file_has_no_problem_at_all(code):
    assert diagnostics(catalogue()[code].good) == ()


@pytest.mark.parametrize("code", CODES)
def test_the_message_is_the_golden_one(code, request):
    text = "\n\n".join(str(d) for d in diagnostics(catalogue()[code].bad)) + "\n"
    golden = MESSAGES / f"{code}.txt"

    if request.config.getoption("--update-golden"):
        golden.write_text(text, encoding="utf-8")

    assert golden.read_text(encoding="utf-8") == text


def test_there_are_enough_codes_and_every_code_in_the_source_has_a_page():
    package = Path(miras_dsl.__file__).parent
    written = {
        word
        for page in (*package.rglob("*.py"), *(package / "codegen").rglob("*.py"))
        for word in page.read_text(encoding="utf-8").split('"')
        if len(word) == 5 and word.startswith("M0") and word.isalnum()
    }

    assert len(CODES) >= 35
    assert written == set(CODES)


def test_golden_messages_have_no_strays():
    assert {p.stem for p in MESSAGES.glob("*.txt")} == set(CODES)


@pytest.mark.parametrize("code", CODES)
def test_a_page_explains_itself(code):
    page = explain(code)

    assert page.startswith(f"{code}: ") and "fails:" in page and "mended:" in page
    assert len(page) < 8000


def test_an_unknown_code_names_a_close_one():
    with pytest.raises(LookupError, match="M020"):
        explain("M0299")
