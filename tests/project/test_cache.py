"""The cache of generated modules: an entry is right or absent, and belongs to the user alone."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from miras_dsl.runtime.load import cache

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


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_the_folders_above_are_private_too(tmp_path, monkeypatch, mask):
    """Whatever the umask: who may write there could put another folder in the place of ours."""
    monkeypatch.setenv("MIRAS_CACHE_DIR", str(tmp_path / "a" / "b" / "c"))
    before = os.umask(mask)
    try:
        path = cache.put(text(f"mask {mask}"))
    finally:
        os.umask(before)
    made = [tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "c", path.parent]
    assert {place.stat().st_mode & 0o777 for place in made} == {0o700}


@pytest.fixture
def homeless(tmp_path, monkeypatch):
    """A user who is a bare number: no HOME, no entry in the table of users."""
    for name in ("MIRAS_CACHE_DIR", "HOME", "XDG_CACHE_HOME", "USER", "LOGNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path / f"miras_dsl-{os.geteuid()}"


def test_a_user_without_a_home_has_a_folder_among_temporary_files(homeless):
    path = cache.put(text("homeless"))
    assert path.parent.parent == homeless
    assert homeless.stat().st_mode & 0o777 == 0o700
    assert cache.import_module(path).MARK == "homeless"


@pytest.mark.parametrize("home", ["", "relative"])
def test_a_home_that_is_no_place_counts_as_none(homeless, monkeypatch, home):
    """Not a folder called `~` wherever the command happens to run."""
    monkeypatch.setenv("HOME", home)
    assert cache.root().is_absolute()


def test_without_a_home_another_users_folder_is_refused(homeless, monkeypatch):
    """Anybody can make a folder, or a link, among temporary files."""
    homeless.mkdir()
    homeless.chmod(0o777)
    with pytest.raises(cache.CacheError, match="can be written by others"):
        cache.put(text("open"))
    homeless.rmdir()
    (homeless.parent / "elsewhere").mkdir(mode=0o700)
    homeless.symlink_to(homeless.parent / "elsewhere")
    with pytest.raises(cache.CacheError, match=r"is a link.*set MIRAS_CACHE_DIR"):
        cache.put(text("link"))


def test_a_home_that_cannot_be_written_says_what_to_set(homeless, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    with pytest.raises(cache.CacheError, match=r"cannot be made.*set MIRAS_CACHE_DIR to a folder"):
        cache.put(text("full"))


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


def test_threads_wait_until_a_module_has_run():
    """Eight threads ask for a module that takes a while to run; each gets all of it."""
    path = cache.put("import time\ntime.sleep(0.3)\n" + text("threads"))
    together = threading.Barrier(8)

    def ask(_: int) -> tuple[object, object]:
        together.wait()
        module = cache.import_module(path)
        return module, getattr(module, "MARK", "half-made")

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(8)))
    assert {mark for _, mark in found} == {"threads"}
    assert len({id(module) for module, _ in found}) == 1


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
import os, pathlib, signal, sys, time
from miras_dsl.runtime.load import cache
ready, go, victim = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3:] == ["victim"]
texts = [f"X = {n}\\n" + "# padding\\n" * 3000 for n in range(20)]
ready.touch()
while not go.exists():
    time.sleep(0.001)
if victim:
    os.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    cache._publish(cache.root(), cache.root() / cache.digest(texts[0]), texts[0])
for text in texts:
    assert cache.verified(cache.put(text)) == text
"""


@pytest.mark.slow
def test_thirty_two_race_and_one_is_killed(tmp_path, own_cache):
    """One empty cache, 32 writers of the same twenty entries; one dies between write and rename."""
    go, ready = tmp_path / "go", tmp_path / "ready"
    ready.mkdir()
    # No torch in these processes: the cache needs none, and 32 of them would.
    runners = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", RACER, str(ready / str(n)), str(go), *extra],
            stderr=subprocess.PIPE,
        )
        for n in range(32)
        for extra in [["victim"] if n == 0 else []]
    ]
    deadline = time.monotonic() + 120
    while len(list(ready.iterdir())) < 32 and time.monotonic() < deadline:
        time.sleep(0.01)
    go.touch()
    errors = [runner.communicate()[1].decode() for runner in runners]
    assert [r.returncode for r in runners] == [-signal.SIGKILL, *[0] * 31], errors
    left = [p for p in own_cache.iterdir() if p.name.startswith(cache.ASIDE)]
    assert len(left) == 1, "what the killed one had built, and nothing of the others"
    entries = [p for p in own_cache.iterdir() if not p.name.startswith((cache.ASIDE, "repair"))]
    assert len(entries) == 20
    assert all(cache.verified(entry / cache.FILE) for entry in entries)
