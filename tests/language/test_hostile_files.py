"""Hostile files end soon, in little memory, and with a sentence: no hang, no crash, no fault of miras."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import miras_dsl as miras
from miras_dsl.exceptions import EnvironmentFailure

from .hostile_files import KINDS

RUN = Path(__file__).with_name("run_hostile.py")
SECONDS, MEBIBYTES = 4, 512
"""CPU time, twice what a quiet machine needs, and memory of each command on a file."""
SAMPLE = [8, 10, 12, 14, 17, 19, 21, 22, 23, 41, 46, 47, 90, 93]
"""Files that once hung or failed, and one of each kind that is cheap."""
THOROUGH = [
    pytest.param(list(range(n, n + 20)), marks=pytest.mark.thorough) for n in range(0, 300, 20)
]


@pytest.mark.parametrize("numbers", [SAMPLE, *THOROUGH])
def test_a_hostile_file_ends_soon_with_a_code(numbers):
    command = [sys.executable, str(RUN), str(SECONDS), str(MEBIBYTES), *map(str, numbers)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    found = [json.loads(line) for line in done.stdout.splitlines()]

    assert len(found) == 3 * len(numbers), done.stderr
    assert [f for f in found if f["outcome"].startswith("fails")] == []


def test_the_numbers_reach_every_kind():
    assert len(KINDS) >= 25 and len(KINDS) * 12 <= 300


def test_a_pipe_and_a_device_are_refused_at_once(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.mem")

    with pytest.raises(EnvironmentFailure, match="is a pipe; write the text"):
        miras.find(tmp_path / "pipe.mem")
    with pytest.raises(EnvironmentFailure, match="is a device; write the text"):
        miras.find(Path("/dev/zero"))


def test_no_more_of_a_file_is_read_than_a_spec_may_have(tmp_path):
    path = tmp_path / "large.mem"
    with path.open("wb") as file:
        file.truncate(1 << 32)

    assert len(miras.find(path).text) < (1 << 20) + 100
    with pytest.raises(miras.SpecErrors, match="M0001"):
        miras.parse(path)


def test_a_file_cut_inside_a_character_is_still_text(tmp_path):
    path = tmp_path / "wide.mem"
    path.write_text("# " + "\N{SNOWMAN}" * 400_000, encoding="utf-8")

    with pytest.raises(miras.SpecErrors, match="M0001"):
        miras.parse(path)
