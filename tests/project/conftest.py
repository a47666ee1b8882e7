"""The command line as a function, in a folder with three files."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from miras_dsl.cli.app import app
from tests.project.command import GOOD, WARNED, WRONG


@pytest.fixture
def miras(tmp_path, monkeypatch):
    """Runs the command in a directory that holds good.mem, warned.mem and wrong.mem."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.mem").write_text(GOOD)
    (tmp_path / "warned.mem").write_text(WARNED)
    (tmp_path / "wrong.mem").write_text(WRONG)
    runner = CliRunner(env={"COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb"})
    return lambda *words: runner.invoke(app, [str(w) for w in words])
