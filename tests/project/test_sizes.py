"""Files stay small enough to be read in one sitting."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 300
TABLES: dict[str, int] = {"miras_dsl/spec.py": 420, "miras_dsl/ir/nodes.py": 520}
"""Files that are one long table, with their own limit."""


FILES_IN_A_FOLDER = 12
FOLDERS = ("miras_dsl", "codegen", "templates", "specs", "runtime", "examples")


def code() -> list[Path]:
    """Our Python files and templates, each once: the folders inside miras_dsl are links."""
    found: list[Path] = []
    for folder in FOLDERS:
        for place, inner, names in os.walk(ROOT / folder):
            inner[:] = [
                d for d in inner if d != "__pycache__" and not (Path(place) / d).is_symlink()
            ]
            found += [Path(place) / n for n in names if n.endswith((".py", ".j2"))]
    return sorted(found)


def test_a_folder_can_be_taken_in_at_a_glance():
    """At most twelve files, the empty `__init__.py` aside."""
    held = Counter(path.parent for path in code() if path.name != "__init__.py")
    crowded = {str(d.relative_to(ROOT)): n for d, n in held.items() if n > FILES_IN_A_FOLDER}
    assert crowded == {}


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
