"""The command line, as a new user meets it: help, exit status, JSON, and nothing half-written."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time

import pytest

import miras_dsl
from tests.project.command import GOOD, ROOT, files


@pytest.mark.parametrize("command", ["new", "check", "explain", "compile", "train"])
def test_help_teaches_by_example(miras, command):
    """Each command's help shows a line that could be typed."""
    shown = miras(command, "--help")
    assert shown.exit_code == 0
    assert re.search(rf"miras {command} \w", shown.output)


def test_help_lists_the_stages(miras):
    shown = " ".join(miras("explain", "--help").output.replace("│", "").split())
    assert "summary, spec, layer, gradient, update, chunk, adjoint, plan, code, all" in shown


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


@pytest.mark.parametrize(
    ("name", "next_"),
    [
        ("robust.mem", "miras check robust.mem"),
        ("my memory.mem", "miras check 'my memory.mem'"),
        ("-x.mem", "miras check -- -x.mem"),
    ],
)
def test_what_new_says_next_can_be_typed(miras, tmp_path, name, next_):
    """On the screen and in the file, whatever the file is called."""
    shown = miras("new", "--", name)
    assert shown.exit_code == 0, shown.output
    assert shown.output == f"wrote {name}; next: {next_}\n"
    assert f"# `{next_}` derives" in (tmp_path / name).read_text()
    assert miras(*shlex.split(next_.replace("miras check", "compile"))).exit_code == 0


def test_new_says_that_it_hides_a_shipped_memory(miras, tmp_path):
    assert "no longer the shipped memory yaad" in miras("new", "yaad").output
    assert "`miras check yaad` derives" in (tmp_path / "yaad").read_text()
    assert "shipped" not in miras("new", "yaad.mem").output


def test_the_version_is_printed(miras):
    shown = miras("--version")
    assert (shown.exit_code, shown.stdout) == (0, f"miras {miras_dsl.__version__}\n")


def test_a_byte_order_mark_is_no_mistake(miras, tmp_path):
    """Some editors begin every file with one."""
    plain = miras("compile", "good.mem").stdout
    (tmp_path / "good.mem").write_text(GOOD, encoding="utf-8-sig")
    assert miras("compile", "good.mem").stdout == plain
    assert miras_dsl.find("\ufeff" + GOOD).text == GOOD


@pytest.mark.parametrize("nothing", ["", "  "])
def test_an_empty_text_gets_a_sentence(miras, nothing):
    with pytest.raises(miras_dsl.EnvironmentFailure, match="an empty text names no memory"):
        miras_dsl.load(nothing)
    assert miras("check", nothing).exit_code == 2


def test_a_folder_gets_a_sentence(miras, tmp_path):
    shown = miras("check", tmp_path)
    assert shown.exit_code == 3
    assert "is a folder; name a .mem file" in shown.output


@pytest.mark.parametrize("command", ["check", "compile", "explain", "train"])
def test_a_wrong_spec_is_reported_and_nothing_is_written(miras, tmp_path, command):
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
        ["check", "good.mem", "--only", "Nope"],
        ["check", "good.mem", "--device", "foo"],
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
    good._delta_kernels.forward[1, 1]()
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
