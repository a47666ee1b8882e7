"""Generated modules on disk: one folder per user, one entry per content, verified before it runs.

An entry is a directory named by the SHA-256 of the one file it holds.  It is written under another
name and renamed when it is complete, so a reader sees all of it or nothing; processes that write the
same entry at once write the same bytes.  What is imported is the text whose hash was checked, even if
the file changes a moment later.
"""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.util
import linecache
import os
import shutil
import stat
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from types import ModuleType

import platformdirs
from filelock import FileLock

from miras_dsl.exceptions import EnvironmentFailure

FILE = "generated.py"
ASIDE = "aside-"
ABANDONED = 3600.0
"""Seconds after which an unfinished entry is taken to be left by a process that died."""

_importing = threading.RLock()


class CacheError(EnvironmentFailure):
    """The cache folder cannot be used, in one sentence with a way out."""


class DamagedEntry(CacheError):
    """An entry does not hold what its name says."""


def root() -> Path:
    """The cache folder of this user, made on first use; `MIRAS_CACHE_DIR` names another.

    Raises CacheError when someone else could write to it: what is in it will be executed.
    """
    folder = _chosen()
    try:
        _make_private(folder)
        found = folder.stat()
    except OSError as error:
        raise CacheError(
            f"the cache folder {folder} cannot be made: {error.strerror}; "
            "set MIRAS_CACHE_DIR to a folder of yours"
        ) from error
    if os.name == "posix":
        if found.st_uid != os.geteuid():
            raise CacheError(
                f"the cache folder {folder} belongs to another user, and what is in it would be "
                "executed; set MIRAS_CACHE_DIR to a folder of yours"
            )
        if stat.S_IMODE(found.st_mode) & 0o022:
            raise CacheError(
                f"the cache folder {folder} can be written by others, and what is in it would be "
                f"executed; run: chmod 700 {folder}"
            )
    return folder


def _chosen() -> Path:
    """Where the cache is to be: as the environment says, else in the user's home folder.

    A user without one (a container that runs under a bare number) has a folder among the temporary
    files.
    """
    named = os.environ.get("MIRAS_CACHE_DIR")
    if named:
        return Path(named).absolute()
    try:
        usual = Path(platformdirs.user_cache_dir("miras_dsl"))
    except (RuntimeError, KeyError):
        # What platformdirs, or the table of users, says where there is no home folder.
        usual = Path("~")
    if usual.is_absolute():
        return usual
    own = (
        Path(tempfile.gettempdir()) / f"miras_dsl-{os.geteuid() if os.name == 'posix' else 'user'}"
    )
    if own.is_symlink():
        raise CacheError(
            f"{own} is a link, which another user may have made, and what is behind it would be "
            "executed; set MIRAS_CACHE_DIR to a folder of yours"
        )
    return own


def _make_private(folder: Path) -> None:
    """Make a folder and those above it that are missing; only the user may look into them."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    for place in reversed(missing):
        # One after the other: `parents=True` would leave those above to the umask.
        place.mkdir(mode=0o700, exist_ok=True)


def digest(text: str) -> str:
    """The name of the entry that holds this text."""
    return hashlib.sha256(text.encode()).hexdigest()


def put(text: str) -> Path:
    """The file in the cache that holds exactly ``text``; written if it is not there yet."""
    folder = root()
    entry = folder / digest(text)
    if entry.exists():
        try:
            verified(entry / FILE)
        except DamagedEntry as damage:
            warnings.warn(f"{damage}; built again", stacklevel=2)
            _replace(folder, entry, text)
        return entry / FILE
    _publish(folder, entry, text)
    return entry / FILE


def verified(path: Path) -> str:
    """The text of an entry, once its hash has been found to be its name."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DamagedEntry(f"the cached module {path} cannot be read ({error.strerror})") from error
    if hashlib.sha256(data).hexdigest() != path.parent.name:
        raise DamagedEntry(f"the cached module {path} is not what was written there")
    return data.decode()


def import_module(path: Path) -> ModuleType:
    """The module in a cache entry; imported once per process.  Raises DamagedEntry."""
    # A module is in sys.modules before it has run; the lock keeps other threads from seeing it.
    with _importing:
        name = f"miras_generated_{path.parent.name[:20]}"
        return sys.modules[name] if name in sys.modules else _imported(name, path)


def _imported(name: str, path: Path) -> ModuleType:
    """Run an entry as the module ``name``; a module that fails is not kept."""
    text = verified(path)
    # inspect, and Triton through it, reads sources from linecache: it gets the text that was hashed.
    linecache.cache[str(path)] = (len(text), None, text.splitlines(keepends=True), str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=_Verified(path, text))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


class _Verified(importlib.abc.SourceLoader):
    """A loader of a text in memory, which neither reads nor writes byte code."""

    def __init__(self, path: Path, text: str):
        self.path, self.text = path, text

    def get_filename(self, fullname: str) -> str:
        return str(self.path)

    def get_data(self, path: str | bytes) -> bytes:
        return self.text.encode()


def _publish(folder: Path, entry: Path, text: str) -> None:
    """Write an entry under another name and rename it; another process may have been quicker."""
    try:
        aside = Path(tempfile.mkdtemp(prefix=ASIDE, dir=folder))
    except OSError as error:
        raise CacheError(
            f"nothing can be written to the cache folder {folder}: {error.strerror}; "
            "set MIRAS_CACHE_DIR to a folder with room"
        ) from error
    try:
        with open(aside / FILE, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        os.rename(aside, entry)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        if not (entry / FILE).exists():
            raise CacheError(
                f"the generated module cannot be written to {folder}: {error.strerror}; "
                "set MIRAS_CACHE_DIR to a folder with room"
            ) from error
        verified(entry / FILE)
    _sweep(folder)


def _replace(folder: Path, entry: Path, text: str) -> None:
    """Replace a damaged entry, one process at a time."""
    with FileLock(folder / "repair.lock", mode=0o600):
        try:
            verified(entry / FILE)
            return
        except DamagedEntry:
            pass
        away = Path(tempfile.mkdtemp(prefix=ASIDE, dir=folder)) / "damaged"
        os.rename(entry, away)
        _publish(folder, entry, text)
        shutil.rmtree(away.parent, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove unfinished entries of processes that were killed."""
    for left in folder.glob(f"{ASIDE}*"):
        try:
            age = time.time() - left.stat().st_mtime
        except FileNotFoundError:
            continue
        if age > ABANDONED:
            shutil.rmtree(left, ignore_errors=True)
