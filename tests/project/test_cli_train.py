"""`miras train` from the command line: what it writes, what it refuses, how a run goes on."""

from __future__ import annotations

import errno
import json
import os
import re
import stat

import pytest

from miras_dsl.runtime.train.evaluate import readable
from tests.project.command import GOOD, files

TINY = ["--width", 32, "--layers", 1, "--batch", 2]


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
    assert "steps: 6 then, 9 now\n  the learning rate falls over the steps" in other.output
    assert "begin a new run with --steps in another folder (--out)" in other.output
    modes = {stat.S_IMODE(path.stat().st_mode) for path in run.iterdir()}
    assert len(modes) == 1


@pytest.mark.slow
def test_a_run_goes_on_with_its_own_model(miras, tmp_path):
    """Another width is told as the setting that it is: nobody wrote the text of that model."""
    words = [*TINY, "--length", 64, "--steps", 2]
    assert miras("train", "good.mem", *words).exit_code == 0
    other = miras("train", "good.mem", "--resume", "--width", 64, "--layers", 3)
    assert other.exit_code == 3
    assert "other settings" in other.output
    assert "\n  width: 32 then, 64 now\n  layers: 1 then, 3 now\n" in other.output
    assert "model Trained" not in other.output
    same = miras("train", "good.mem", "--resume", "--width", 32, "--minutes", 1)
    assert same.exit_code == 0, same.output
    assert "this run has 2 steps, counted when it began; --minutes changes none" in same.output


@pytest.mark.slow
def test_the_usual_width_may_be_given_or_not(miras):
    """A run that began without --width goes on with --width 128, which is the same."""
    words = ["--layers", 1, "--batch", 2, "--length", 32, "--steps", 1]
    assert miras("train", "good.mem", *words).exit_code == 0
    again = miras("train", "good.mem", "--resume", "--width", 128, "--layers", 1)
    assert again.exit_code == 0, again.output


@pytest.mark.slow
@pytest.mark.parametrize("option", [["--width", 64], ["--layers", 2]])
def test_a_file_with_a_model_takes_no_other(miras, tmp_path, option):
    """A wrong command, as the file says otherwise; nothing is begun."""
    model = (
        "layer Mixer(heads = 2) = Delta\nmodel Own(width = 32, vocab = 256) = repeat 1 { Mixer }"
    )
    (tmp_path / "own.mem").write_text(f"{GOOD}{model}\n")
    shown = miras("train", "own.mem", *option)
    assert shown.exit_code == 2
    assert "Own" in shown.output and str(option[0])[2:] in shown.output
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_has_its_own_status(miras, tmp_path):
    shown = miras("train", "good.mem", *TINY, "--length", 64, "--steps", 9, "--rate", 1e30)
    assert shown.exit_code == 4
    assert re.search(r"error: step \d: .* is not finite", shown.output)


@pytest.mark.slow
@pytest.mark.parametrize("option", [[], ["--resume"]])
def test_a_run_is_a_folder(miras, tmp_path, option):
    shown = miras("train", "good.mem", "--out", "wrong.mem", *option)
    assert shown.exit_code == 3
    assert "wrong.mem is a file; --out names the folder of a run" in shown.output


@pytest.mark.slow
def test_train_shows_warnings(miras, tmp_path):
    """Once, although the model around the memory is loaded too; in JSON with the outcome."""
    words = [*TINY, "--length", 64, "--steps", 1]
    shown = miras("train", "warned.mem", *words)
    assert shown.exit_code == 0, shown.output
    assert shown.stderr.count("never used") == 1
    told = miras("train", "warned.mem", *words, "-o", "runs/other", "--json")
    assert [warning["code"] for warning in json.loads(told.stdout)["warnings"]] == ["M0801"]


def test_a_sample_is_shown_in_one_line():
    """What cannot be printed is a dot, and a long text is cut."""
    assert readable("the memory\n\n  remembers") == "the memory remembers"
    assert readable("a\x00\x01\ufffd\ufffdb\x7f") == "a·b·"
    assert readable("word " * 100) == ("word " * 15)[:71] + "…"


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
    monkeypatch.setattr("miras_dsl.runtime.train.checkpoint.save_file", denied)
    shown = miras(*words, "-o", "locked")
    assert shown.exit_code == 3
    assert "Permission denied; make room, or choose another folder (--out)" in shown.output


@pytest.mark.slow
def test_train_on_a_gpu_that_is_not_there(miras, tmp_path, monkeypatch):
    """A sentence and status 3; another word is a wrong command.  No folder is made."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    shown = miras("train", "good.mem", "--steps", 2, "--device", "cuda")
    assert shown.exit_code == 3
    assert "--device cuda needs a GPU and torch finds none on this machine" in shown.output
    shown = miras("train", "good.mem", "--steps", 2, "--device", "tpu")
    assert shown.exit_code == 2
    assert "there is no device tpu; choose auto, cpu or cuda" in shown.output
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_train_says_on_which_device(miras, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    words = [*TINY, "--length", 64, "--steps", 1]
    assert " on cpu\n" in miras("train", "good.mem", *words).output


@pytest.mark.slow
def test_a_resumed_run_may_have_an_edited_spec(miras, tmp_path):
    """With the same weights it goes on and is warned of; else it says which weights differ and why."""
    words = [*TINY, "--length", 64, "--steps", 2]
    assert miras("train", "good.mem", *words).exit_code == 0
    (tmp_path / "good.mem").write_text(GOOD.replace("bias         l2", "bias         l1"))
    again = miras("train", "good.mem", "--resume")
    assert again.exit_code == 0, again.output
    assert "-  bias         l2\n+  bias         l1" in again.output
    assert "its weights are the model's all the same" in again.output

    gate = "eta = sigmoid(linear(x))"
    (tmp_path / "good.mem").write_text(GOOD.replace(gate, "eta = sigmoid(linear(x) + param(1))"))
    other = miras("train", "good.mem", "--resume")
    assert other.exit_code == 3
    assert "does not fit this model" in other.output
    assert "is missing: the model has" in other.output
    assert "+  gates        { eta = sigmoid(linear(x) + param(1)) }" in other.output
