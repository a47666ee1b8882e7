"""The log of a run: what it keeps, what it leaves out, what it says when it cannot be written."""

from __future__ import annotations

import errno
import io
import os

import pytest

from miras_dsl.runtime.load import atomic_write
from miras_dsl.runtime.train import metrics_log
from miras_dsl.runtime.train.metrics_log import MetricsLog, MetricsLogError


def steps(path):
    return [row["step"] for row in metrics_log.read(path)]


@pytest.fixture
def five(tmp_path):
    """A log of five steps."""
    path = tmp_path / "log.jsonl"
    with MetricsLog(path) as log:
        for step in range(1, 6):
            log.append({"step": step, "bits": 1.0})
    return path


def test_resuming_forgets_what_comes_after_the_checkpoint(five):
    """Rows after the checkpoint's step, and a torn last line, are of a run that did not happen."""
    with open(five, "a") as file:
        file.write('{"step": 6, "bi')
    with MetricsLog(five, keep_to=3):
        pass
    assert steps(five) == [1, 2, 3]
    assert list(five.parent.iterdir()) == [five]


def test_what_comes_after_may_be_damaged(five):
    """A power cut may leave anything beyond the last row that was waited for."""
    with open(five, "ab") as file:
        file.write(b"\0\0\xff\n" + b'{"step": 7}\n')
    with MetricsLog(five, keep_to=5):
        pass
    assert steps(five) == [1, 2, 3, 4, 5]


def test_a_damaged_line_that_is_needed_is_told(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n{"ste\xff\n{"step": 3}\n')
    with pytest.raises(MetricsLogError, match=r"line 2 of the log .* is damaged"):
        metrics_log.read(path)
    with pytest.raises(MetricsLogError, match="line 2"):
        MetricsLog(path, keep_to=3)


def test_a_log_that_is_too_short_is_told(five):
    """Resuming would leave a hole in it."""
    before = five.read_bytes()
    with pytest.raises(MetricsLogError, match="ends at step 5 and the checkpoint is of step 8"):
        MetricsLog(five, keep_to=8)
    assert five.read_bytes() == before


def test_a_new_log_is_on_the_disk_before_it_takes_its_place(five, monkeypatch):
    """The file is waited for, then renamed, then the folder is waited for."""
    done, names = [], {}

    def opened(path, flags):
        names[handle := os_open(path, flags)] = "folder"
        return handle

    os_open, os_replace = os.open, os.replace
    monkeypatch.setattr(atomic_write.os, "open", opened)
    monkeypatch.setattr(
        atomic_write.os, "fsync", lambda handle: done.append(names.get(handle, "file"))
    )
    monkeypatch.setattr(
        atomic_write.os, "replace", lambda *paths: (done.append("rename"), os_replace(*paths))
    )
    with MetricsLog(five, keep_to=3):
        assert done == ["file", "rename", "folder"]


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Full(io.RawIOBase):
    """A file on a disk without room."""

    def writable(self):
        return True

    def write(self, _content):
        full()


def test_a_full_disk_stops_the_log_with_a_sentence(tmp_path):
    """Not a traceback: which file, which step, what to do."""
    sentence = r"log\.jsonl could not be written at step 2: No space .* go on with --resume"
    with pytest.raises(MetricsLogError, match=sentence), MetricsLog(tmp_path / "log.jsonl") as log:
        log.append({"step": 1, "bits": 1.0})
        log.file.close()
        log.file = io.TextIOWrapper(io.BufferedWriter(Full()))
        log.append({"step": 2, "bits": 1.0})
    assert steps(tmp_path / "log.jsonl") == [1]


def test_a_disk_may_say_so_only_when_it_is_waited_for(five, monkeypatch):
    with MetricsLog(five, keep_to=4) as log:
        log.append({"step": 5, "bits": 1.0})
        monkeypatch.setattr(metrics_log.os, "fsync", full)
        with pytest.raises(MetricsLogError, match="could not be written at step 5: No space"):
            log.settle()


def test_a_full_disk_leaves_the_old_log(five, monkeypatch):
    """When it is cut back, too."""
    before = five.read_bytes()
    monkeypatch.setattr(atomic_write.os, "fsync", full)
    with pytest.raises(MetricsLogError, match="could not be written at step 3: No space"):
        MetricsLog(five, keep_to=3)
    assert five.read_bytes() == before
