"""Files stay small enough to be read in one sitting."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 300
TABLES: dict[str, int] = {"miras_dsl/spec.py": 420, "miras_dsl/nodes.py": 500}
"""Files that are one long table, with their own limit."""


def code() -> list[Path]:
    """Our Python files and templates, each once."""
    found = list((ROOT / "miras_dsl").glob("*.py"))
    for folder in ("codegen", "templates", "specs", "runtime", "examples"):
        found += [p for p in (ROOT / folder).rglob("*") if p.suffix in {".py", ".j2"}]
    return sorted(found)


@pytest.mark.parametrize("path", code(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_is_one_idea(path):
    """Three hundred lines; a table that is one idea may be longer, and is listed."""
    lines = path.read_text().count("\n")
    assert lines <= TABLES.get(str(path.relative_to(ROOT)), LIMIT)


@pytest.mark.parametrize("path", code(), ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_is_left_open(path):
    """No stub and no promise: a thing is in the code or it is not."""
    text = path.read_text()
    for word in ("TODO", "FIXME", "XXX", "NotImplementedError", "except Exception", "except:"):
        assert word not in text


def test_the_code_is_formatted_and_linted():
    """`ruff check` and `ruff format` have nothing to say."""
    for words in (["check"], ["format", "--check"]):
        run = subprocess.run(
            [sys.executable, "-m", "ruff", *words, "."], cwd=ROOT, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stdout
