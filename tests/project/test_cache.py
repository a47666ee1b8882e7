"""Generated modules on disk: right or absent, and nobody else's."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from miras_dsl.runtime import cache

TEXT = '"""A generated module."""\n\n\ndef answer():\n    return 41 + 1\n'


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Each test has a cache of its own, not made yet."""
    monkeypatch.setenv("MIRAS_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def text(mark: str) -> str:
    """A module that no other test imports."""
    return f"{TEXT}\nMARK = {mark!r}\n"


def test_what_is_put_can_be_imported():
    path = cache.put(text("first"))
    module = cache.import_module(path)
    assert module.answer() == 42
    assert cache.import_module(path) is module
    assert cache.put(text("first")) == path


def test_sources_can_be_read_back():
    """Triton compiles what inspect returns."""
    module = cache.import_module(cache.put(text("source")))
    assert "41 + 1" in inspect.getsource(module.answer)


def test_the_folder_is_private(own_cache):
    cache.put(text("private"))
    assert own_cache.stat().st_mode & 0o777 == 0o700
    assert [p.name for p in own_cache.iterdir()] == [cache.digest(text("private"))]


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_that_others_can_write_is_refused(own_cache, mode):
    own_cache.mkdir()
    own_cache.chmod(mode)
    with pytest.raises(cache.CacheError, match=r"can be written by others.*chmod 700"):
        cache.put(text("open"))


def test_another_users_folder_is_refused(own_cache, monkeypatch):
    own_cache.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: own_cache.stat().st_uid + 1)
    with pytest.raises(cache.CacheError, match="belongs to another user"):
        cache.put(text("theirs"))


def test_a_changed_file_is_never_run():
    """Changed on disk after it was written: refused before a line of it runs."""
    path = cache.put(text("changed"))
    path.write_text("raise SystemExit('this must not run')")
    with pytest.raises(cache.DamagedEntry, match="not what was written"):
        cache.import_module(path)


def test_stale_byte_code_is_never_run():
    """Python would prefer a byte-code file beside the source; nobody verified that one."""
    path = cache.put(text("bytecode"))
    cache.import_module(path)
    assert not (path.parent / "__pycache__").exists()


def test_a_damaged_entry_is_built_again():
    path = cache.put(text("damaged"))
    path.write_text("half")
    with pytest.warns(UserWarning, match="built again"):
        again = cache.put(text("damaged"))
    assert again == path
    assert cache.import_module(path).MARK == "damaged"


def test_an_entry_without_its_file_is_built_again(own_cache):
    path = cache.put(text("gone"))
    path.unlink()
    with pytest.warns(UserWarning, match="built again"):
        cache.put(text("gone"))
    assert cache.verified(path) == text("gone")


def test_a_module_that_fails_is_not_kept():
    path = cache.put("raise ValueError('from the module')\n")
    for _ in range(2):
        with pytest.raises(ValueError, match="from the module"):
            cache.import_module(path)


def test_what_the_dead_left_is_swept(own_cache):
    cache.put(text("one"))
    old, new = own_cache / f"{cache.ASIDE}old", own_cache / f"{cache.ASIDE}new"
    old.mkdir()
    new.mkdir()
    os.utime(old, (0, 0))
    cache.put(text("two"))
    assert not old.exists()
    assert new.exists()


def test_no_room_gets_a_sentence(own_cache, monkeypatch):
    own_cache.mkdir(mode=0o700)

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.tempfile, "mkdtemp", full)
    with pytest.raises(cache.CacheError, match="No space left"):
        cache.put(text("full"))


RACER = """
import sys, pathlib
from miras_dsl.runtime import cache
go = pathlib.Path(sys.argv[1])
while not go.exists():
    pass
for n in range(20):
    path = cache.put(f"X = {n}\\n" + "# padding\\n" * 3000)
    assert cache.verified(path).startswith(f"X = {n}\\n")
"""


@pytest.mark.slow
def test_thirty_two_race_and_one_is_killed(tmp_path, own_cache):
    """One empty cache, 32 writers of the same twenty entries, a SIGKILL in the middle."""
    go = tmp_path / "go"
    # No torch in these processes: the cache needs none, and 32 of them would.
    runners = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", RACER, str(go)], stderr=subprocess.PIPE
        )
        for _ in range(32)
    ]
    time.sleep(1.0)
    go.touch()
    deadline = time.monotonic() + 60
    while not list(own_cache.glob("*")) and time.monotonic() < deadline:
        time.sleep(0.001)
    runners[0].send_signal(signal.SIGKILL)
    errors = [runner.communicate()[1].decode() for runner in runners]
    assert [r.returncode for r in runners[1:]] == [0] * 31, errors
    entries = [p for p in own_cache.iterdir() if not p.name.startswith((cache.ASIDE, "repair"))]
    assert len(entries) == 20
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for n in range(20):
            cache.put(f"X = {n}\n" + "# padding\n" * 3000)
    assert all(cache.verified(Path(e) / cache.FILE) for e in entries)
