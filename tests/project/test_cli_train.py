"""`miras train` from the command line: what it writes, what it refuses, how a run goes on."""

from __future__ import annotations

import errno
import json
import os

import pytest

from tests.project.command import files


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
