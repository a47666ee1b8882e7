"""What README and docs tell a reader to type works when it is typed."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import specs_page

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
QUICK = {"train": ["--steps", "2", "--batch", "2", "--length", "64"]}


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page that are in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


PYTHON = [(p.name, i, text) for p in PAGES for i, text in enumerate(blocks(p, "python"))]


@pytest.mark.slow
@pytest.mark.parametrize(("page", "number", "text"), PYTHON, ids=[f"{p}-{i}" for p, i, _ in PYTHON])
def test_python_blocks_run(page, number, text, tmp_path):
    run = subprocess.run([sys.executable, "-c", text], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
def test_the_first_session_works(tmp_path):
    """The commands of the README in their order, with few training steps."""
    lines = [line for block in blocks(ROOT / "README.md", "sh") for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines]
    ours = [words[1:] for words in commands if words and words[0] == "miras"]
    assert [words[0] for words in ours] == ["new", "check", "explain", "compile", "train"]
    for words in ours:
        short = [w for w in words if not w.startswith("--minutes") and w != "2"]
        short += QUICK.get(words[0], [])
        run = subprocess.run(
            [sys.executable, "-m", "miras_dsl", *short],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, (short, run.stdout, run.stderr)
    left = {p.name for p in tmp_path.iterdir()}
    assert {"robust.mem", "robust.py", "runs"} <= left


def test_make_knows_what_the_readme_says():
    """Every `make` target that a page names exists."""
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"(?:^|`)make (\w+)", page.read_text(), re.MULTILINE))
        assert named <= targets


def test_links_lead_somewhere():
    """Links of the pages point at files of the repository, or at headings of the same page."""
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
        headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
        assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors, page.name


def test_every_shipped_memory_is_in_the_readme():
    """By the name one types; and as many as it says."""
    text = (ROOT / "README.md").read_text()
    specs = list((ROOT / "specs").glob("*.mem"))
    for spec in specs:
        assert f"`{spec.stem}`" in text
    assert f"\n{len(specs)} specs, each by its name" in text


def test_the_page_of_specs_is_what_the_compiler_says():
    assert specs_page.PAGE.read_text(encoding="utf-8") == specs_page.page(), "run `make docs`"
