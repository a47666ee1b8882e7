"""The folder of a run: that it can be made, that it is unused, and that one run at a time writes to it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from miras_dsl.runtime.train import checkpoint
from miras_dsl.runtime.train.config import TrainError

LOCK = "run.lock"
NOT_HERE = frozenset({errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})
"""What a file system says that cannot lock a folder."""


def require_folder(out: Path) -> None:
    """Raise TrainError where a run's folder cannot be, because a file is there."""
    if out.exists() and not out.is_dir():
        raise TrainError(f"{out} is a file; --out names the folder of a run: choose another")


def require_unused(out: Path) -> None:
    """Raise TrainError when the folder holds a run already, or another process makes one there."""
    require_free(out)
    require_no_run(out)


def require_no_run(out: Path) -> None:
    """Raise TrainError when the folder holds a run already."""
    kept = out / checkpoint.NAME
    if kept.exists():
        raise TrainError(
            f"{out} already holds a run, at step {checkpoint.facts(kept).step}; "
            "go on with it (--resume) or choose another folder (--out)"
        )


def require_free(out: Path) -> None:
    """Raise TrainError while another process trains in the folder."""
    if out.is_dir():
        with locked(out):
            pass


def make_folder(out: Path) -> None:
    """The folder, made if it is missing.  Raises TrainError where it cannot be."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainError(
            f"the folder {out} cannot be made: {error.strerror}; choose another (--out)"
        ) from error


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """A `with` in which nobody else trains in the folder; a process that dies lets go of it.

    Raises TrainError where another does.  What is locked is the folder itself, or, where the system
    cannot do that, a file in it.
    """
    with ExitStack() as held:
        if os.name != "posix" or not _lock_folder(out, held):
            _lock_file(out / LOCK, held)
        yield


def _lock_folder(out: Path, held: ExitStack) -> bool:
    """Lock a folder until ``held`` ends; False where this file system cannot."""
    import fcntl

    handle = os.open(out, os.O_RDONLY)
    held.callback(os.close, handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _in_use(out) from None
    except OSError as error:
        if error.errno in NOT_HERE:
            return False
        raise
    return True


def _lock_file(path: Path, held: ExitStack) -> None:
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise _in_use(path.parent) from None

    def release() -> None:
        with suppress(OSError):
            path.unlink()
        lock.release()

    held.callback(release)


def _in_use(out: Path) -> TrainError:
    return TrainError(
        f"another process is training in {out}; wait until it has ended, stop it, or choose another "
        "folder (--out)"
    )
