"""The command line, as a new user meets it: help, exit status, JSON, and nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from miras_dsl.cli import app

ROOT = Path(__file__).resolve().parents[2]
GOOD = """
memory Delta(d) {
  architecture W: matrix[value, key]
  bias         l2
  retention    none
  algorithm    gd(eta), exact
  order        predict, write, read
  gates        { eta = sigmoid(linear(x)) }
}
"""
WRONG = GOOD.replace("eta = sigmoid", "beta = sigmoid").replace(
    "bias         l2", "bias         l22"
)


@pytest.fixture
def miras(tmp_path, monkeypatch):
    """Runs the command in an empty directory that holds good.mem and wrong.mem."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.mem").write_text(GOOD)
    (tmp_path / "wrong.mem").write_text(WRONG)
    runner = CliRunner(env={"COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb"})
    return lambda *words: runner.invoke(app, [str(w) for w in words])


def files(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("command", ["new", "check", "explain", "compile", "train"])
def test_help_teaches_by_example(miras, command):
    """Each command's help shows a line that could be typed."""
    shown = miras(command, "--help")
    assert shown.exit_code == 0
    assert re.search(rf"miras {command} \w", shown.output)


def test_help_is_quick():
    """Nothing heavy is imported to print it."""
    start = time.perf_counter()
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "miras_dsl", "--help"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0
    assert time.perf_counter() - start < 5
    assert not re.search(r"\| +(torch|sympy|triton|lark)$", run.stderr, re.MULTILINE)


def test_new_writes_a_file_that_is_right(miras, tmp_path):
    """What a newcomer starts from is well formed, and is not overwritten."""
    assert miras("new", "mine.mem").exit_code == 0
    compiled = miras("compile", "mine.mem", "-o", "mine.py")
    assert compiled.exit_code == 0, compiled.output
    again = miras("new", "mine.mem")
    assert again.exit_code == 3
    assert "mine.mem exists" in again.output


@pytest.mark.parametrize("command", ["check", "compile", "explain", "train"])
def test_a_wrong_spec_is_told_and_nothing_is_written(miras, tmp_path, command):
    """Every mistake of the file in one run, with codes; status 1; the directory as it was."""
    before = files(tmp_path)
    extra = ["-o", "out"] if command != "explain" else []
    shown = miras(command, "wrong.mem", *extra)
    assert shown.exit_code == 1, shown.output
    assert len(set(re.findall(r"M\d{4}", shown.output))) >= 2
    assert "wrong.mem:" in shown.output
    assert files(tmp_path) == before


@pytest.mark.parametrize("command", ["check", "compile", "train"])
def test_a_wrong_spec_as_json(miras, command):
    """The same as data, on stdout, and nothing else there."""
    shown = miras(command, "wrong.mem", "--json")
    assert shown.exit_code == 1
    codes = {error["code"] for error in json.loads(shown.stdout)["errors"]}
    assert all(re.fullmatch(r"M\d{4}", code) for code in codes)
    assert len(codes) >= 2


@pytest.mark.parametrize("command", ["check", "compile", "explain", "train"])
def test_a_missing_file_gets_a_sentence(miras, command):
    shown = miras(command, "nothing.mem")
    assert shown.exit_code == 3
    assert "there is no file nothing.mem" in shown.output


def test_a_file_that_is_not_text_gets_a_sentence(miras, tmp_path):
    (tmp_path / "picture.mem").write_bytes(b"\x89PNG\xff\xfe")
    shown = miras("compile", "picture.mem")
    assert shown.exit_code == 3
    assert "picture.mem is not UTF-8 text" in shown.output


@pytest.mark.parametrize(
    "words",
    [
        ["check"],
        ["check", "good.mem", "--dtype", "int8"],
        ["train", "good.mem", "--steps", "0"],
        ["train", "good.mem", "--steps", "5", "--minutes", "1"],
        ["explain", "good.mem", "--stage", "nonsense"],
        ["explain", "M9999"],
        ["nonsense"],
    ],
)
def test_a_wrong_command_has_status_two(miras, words):
    assert miras(*words).exit_code == 2


def test_a_code_is_explained(miras):
    """What the diagnostics of a wrong file point at exists."""
    (code, *_) = re.findall(r"M\d{4}", miras("check", "wrong.mem").output)
    shown = miras("explain", code.lower())
    assert shown.exit_code == 0
    assert code in shown.output


def test_compile_writes_what_it_prints(miras, tmp_path):
    printed = miras("compile", "good.mem")
    assert miras("compile", "good.mem", "-o", "good.py").exit_code == 0
    assert (tmp_path / "good.py").read_text() == printed.stdout
    compile(printed.stdout, "good.py", "exec")
    assert json.loads(miras("compile", "good.mem", "--json").stdout)["text"] == printed.stdout


ALONE = """
import sys

sys.modules["triton"] = None
import good
import pytest
import torch

y, _ = good.Delta(width=8, heads=2)(torch.randn(1, 5, 8))
assert y.shape == (1, 5, 8)
with pytest.raises(RuntimeError, match="Triton is not installed here.*MIRAS_KERNELS=off"):
    good.delta_kernels.forward[1, 1]()
"""


def test_compile_writes_kernels_that_need_no_triton(miras, tmp_path):
    """Where Triton cannot be imported the module still can, and runs in its chunk form."""
    assert miras("compile", "good.mem", "-o", "good.py").exit_code == 0
    assert "@triton.jit" in (tmp_path / "good.py").read_text()
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path}
    run = subprocess.run(
        [sys.executable, "-c", ALONE], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def test_compile_into_nowhere_gets_a_sentence(miras):
    shown = miras("compile", "good.mem", "-o", "no/such/folder/good.py")
    assert shown.exit_code == 3
    assert "cannot be written" in shown.output


@pytest.mark.parametrize("form", ["text", "latex", "json"])
def test_a_derivation_is_shown(miras, form):
    shown = miras("explain", "good.mem", "--format", form)
    assert shown.exit_code == 0, shown.output
    assert len(shown.stdout) > 200
    if form == "json":
        json.loads(shown.stdout)
    if form == "latex":
        assert "\\" in shown.stdout


@pytest.mark.slow
def test_check_prints_and_writes_a_certificate(miras, tmp_path):
    """Green: status 0, the table on the screen, the same as JSON in the file."""
    shown = miras("check", "good.mem", "-o", "good.json")
    assert shown.exit_code == 0, shown.output
    written = json.loads((tmp_path / "good.json").read_text())
    assert set(written) == {"Delta"}
    assert json.loads(miras("check", "good.mem", "--json").stdout).keys() == written.keys()


@pytest.mark.slow
def test_train_from_text_to_picture(miras, tmp_path):
    """A few steps on a small text; then more of the same run, exactly."""
    text = tmp_path / "text.txt"
    text.write_text("the memory remembers what the memory was told\n" * 400)
    small = ["--text", text, "--width", 32, "--layers", 1, "--batch", 4, "--length", 64]
    shown = miras("train", "good.mem", *small, "--steps", 6, "--json")
    assert shown.exit_code == 0, shown.output
    told = json.loads(shown.stdout)
    assert told["steps"] == 6
    assert told["bits"] < 8.5
    run = tmp_path / "runs" / "good"
    assert files(run) == ["checkpoint.safetensors", "log.jsonl", "loss.png"]

    again = miras("train", "good.mem", *small, "--steps", 6)
    assert again.exit_code == 3
    assert "already holds a run" in again.output
    assert miras("train", "good.mem", *small, "--resume").exit_code == 0
    other = miras("train", "good.mem", *small, "--resume", "--steps", 9)
    assert other.exit_code == 3
    assert "steps: 6 then, 9 now" in other.output


@pytest.mark.slow
def test_a_resumed_run_finds_its_text(miras, tmp_path):
    """Without --text it reads the file that it began with, and says what became of it."""
    text = tmp_path / "text.txt"
    text.write_text("the memory remembers what the memory was told\n" * 400)
    small = ["--width", 32, "--layers", 1, "--batch", 4, "--length", 64, "--steps", 2]
    assert miras("train", "good.mem", "--text", text, *small).exit_code == 0
    again = miras("train", "good.mem", "--resume")
    assert again.exit_code == 0, again.output
    assert str(text) in again.output

    text.write_text("something else entirely\n" * 400)
    changed = miras("train", "good.mem", "--resume")
    assert changed.exit_code == 3
    assert f"{text}, which has changed since; give the same text (--text)" in changed.output
    text.unlink()
    gone = miras("train", "good.mem", "--resume")
    assert gone.exit_code == 3
    assert f"no text file at {text}; name one with --text" in gone.output


BAD_TEXTS = {
    "missing": (None, "there is no text file at text.txt; name one"),
    "empty": (b"", "is empty; training needs 4096 bytes or more: name a longer one"),
    "ten bytes": (b"ten bytes.", "has 10 bytes; training needs 4096 bytes or more: name a longer"),
    "binary": (b"\x7fELF" + bytes(9000), "is no text (byte 4 is zero); name a text file"),
    "one window": (b"a b " * 1100, "the held-out part of the text has 220 bytes and a window nee"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("content", "sentence"), BAD_TEXTS.values(), ids=BAD_TEXTS)
def test_train_on_a_bad_text_gets_a_sentence(miras, tmp_path, content, sentence):
    """Status 3, what is wrong and what to do; no folder is made."""
    if content is not None:
        (tmp_path / "text.txt").write_bytes(content)
    shown = miras("train", "good.mem", "--text", "text.txt", "--steps", 2)
    assert shown.exit_code == 3
    assert sentence in shown.output
    assert "--text" in shown.output
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_train_on_a_directory_gets_a_sentence(miras, tmp_path):
    shown = miras("train", "good.mem", "--text", tmp_path, "--steps", 2)
    assert shown.exit_code == 3
    assert "is a directory; name one text file with --text" in shown.output


@pytest.mark.slow
def test_train_into_a_folder_that_cannot_be_used(miras, tmp_path, monkeypatch):
    """It cannot be made, or nothing can be written to it, or it holds no run to go on with."""
    (tmp_path / "file").touch()
    words = ["train", "good.mem", "--steps", 2, "--length", 64, "--width", 32]
    shown = miras(*words, "-o", "file/run")
    assert shown.exit_code == 3
    assert "the folder file/run cannot be made: Not a directory; choose another" in shown.output

    shown = miras(*words, "-o", "empty", "--resume")
    assert shown.exit_code == 3
    assert "no checkpoint at empty/checkpoint.safetensors; start without --resume" in shown.output

    def denied(*_args, **_options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    # Not by permissions of a real folder: root may write to it all the same.
    monkeypatch.setattr("miras_dsl.runtime.checkpoint.save_file", denied)
    shown = miras(*words, "-o", "locked")
    assert shown.exit_code == 3
    assert "Permission denied; make room, or choose another folder (--out)" in shown.output


@pytest.mark.parametrize("command", ["check", "compile", "explain", "train"])
def test_ctrl_c_has_status_130(miras, tmp_path, monkeypatch, command):
    """One sentence, no traceback, and nothing is left."""

    def interrupted(_spec):
        raise KeyboardInterrupt

    before = files(tmp_path)
    monkeypatch.setattr("miras_dsl.parse", interrupted)
    monkeypatch.setattr("miras_dsl.compile", interrupted)
    shown = miras(command, "good.mem", *(["-o", "out"] if command != "explain" else []))
    assert shown.exit_code == 130
    assert shown.stderr == "stopped before the end; start again when you like\n"
    assert files(tmp_path) == before


def test_ctrl_c_while_a_file_is_written(miras, tmp_path, monkeypatch):
    """The file is not there, nor what was written of it."""

    def interrupted(_source, _target):
        raise KeyboardInterrupt

    before = files(tmp_path)
    monkeypatch.setattr(os, "replace", interrupted)
    assert miras("compile", "good.mem", "-o", "good.py").exit_code == 130
    assert files(tmp_path) == before
