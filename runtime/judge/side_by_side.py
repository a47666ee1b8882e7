"""A list of independent computations on several cores: some of them in copies of this process."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any, BinaryIO, TypeVar

Result = TypeVar("Result")


def side_by_side(
    work: Callable[[int], Result], order: Sequence[int], workers: int
) -> dict[int, Result]:
    """``work(n)`` of every n of ``order``, by n.  Results must be such that they can be pickled.

    order    the order in which they are begun; at most 4,000
    workers  processes, this one included; this one alone where processes cannot be copied

    What a copy could not compute is computed here, so that its exception is raised here.
    """
    if workers < 2 or len(order) < 2 or not hasattr(os, "fork"):
        return {n: work(n) for n in order}
    # Each process takes the next number as soon as it is done with the one before.
    reader, writer = os.pipe()
    os.write(writer, b"".join(n.to_bytes(2, "big") for n in order))
    os.close(writer)
    copies: list[tuple[int, BinaryIO]] = []
    found: dict[int, Result] = {}
    with ExitStack() as files:
        try:
            for _ in range(min(workers, len(order)) - 1):
                kept = files.enter_context(tempfile.TemporaryFile())
                child = os.fork()
                if child == 0:
                    _work_in_a_copy(work, reader, kept)
                copies.append((child, kept))
            while (n := _next(reader)) is not None:
                found[n] = work(n)
        finally:
            os.close(reader)
            for child, kept in copies:
                os.waitpid(child, 0)
                found |= _written(kept)
    return found | {n: work(n) for n in order if n not in found}


def _next(reader: int) -> int | None:
    taken = os.read(reader, 2)
    return int.from_bytes(taken, "big") if taken else None


def _work_in_a_copy(work: Callable[[int], Any], reader: int, kept: BinaryIO) -> None:
    """Write what is computed, and end the copy without anything that its owner does at its end."""
    status = 1
    try:
        while (n := _next(reader)) is not None:
            pickle.dump((n, work(n)), kept)
            kept.flush()
        status = 0
    finally:
        os._exit(status)


def _written(kept: BinaryIO) -> dict[int, Any]:
    """What a copy computed until it ended; of a result that it did not write to its end, nothing."""
    kept.seek(0)
    found = {}
    with suppress(EOFError, pickle.UnpicklingError):
        while True:
            n, result = pickle.load(kept)
            found[n] = result
    return found
