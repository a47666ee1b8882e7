"""The log of a run: one JSON object a line, appended, cut back to a step when a run is resumed.

Nothing in it depends on the clock, so a run that was killed and resumed writes the same log as one
that was not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO

from miras_dsl.exceptions import EnvironmentFailure
from miras_dsl.runtime.load import atomic_write

Row = dict[str, object]


class MetricsLogError(EnvironmentFailure):
    """A log cannot be written or read, in one sentence with a way out."""


class MetricsLog:
    """An open log, for a `with`; a row that `append` has written survives a kill."""

    def __init__(self, path: Path, *, keep_to: int | None = None):
        """Open ``path``; keep rows up to step ``keep_to``, or start anew when that is None.

        Raises JournalError where the rows to keep are not all there, or nothing can be written.
        """
        rows = [] if keep_to is None else _rows_to(path, keep_to)
        self.path, self.step = path, keep_to or 0
        try:
            text = "".join(_line(row) for row in rows)
            atomic_write.temporary_beside(path).write_text(text, encoding="utf-8")
            atomic_write.replace_atomically(path)
            self.file: TextIO = path.open("a", encoding="utf-8")
        except OSError as error:
            raise self._unwritable(error) from error

    def append(self, row: Row) -> None:
        """Write one row; it must hold its `step`.  Raises JournalError where that fails."""
        self.step = _step(row)
        try:
            self.file.write(_line(row))
            self.file.flush()
        except OSError as error:
            raise self._unwritable(error) from error

    def settle(self) -> None:
        """Wait until what was written would survive a power cut.  Raises as `append` does."""
        try:
            os.fsync(self.file.fileno())
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> MetricsLogError:
        return MetricsLogError(
            f"the log {self.path} could not be written at step {self.step}: "
            f"{error.strerror}; make room and go on with --resume"
        )

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # After a failure closing would try to write what is left, and hide the reason.
        with suppress(OSError) if error is not None else nullcontext():
            self.file.close()


def read(path: Path) -> list[Row]:
    """The rows of a log; a last line that was cut off in the middle is left out.

    Raises JournalError for a damaged line that is not the last.
    """
    return list(_rows(path))


def series(rows: list[Row], key: str) -> list[tuple[int, float]]:
    """The (step, value) pairs of the rows that hold ``key``."""
    return [(_step(r), float(str(r[key]))) for r in rows if key in r]


def _rows(path: Path) -> Iterator[Row]:
    if not path.exists():
        return
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise MetricsLogError(
                f"line {number} of the log {path} is damaged ({error}); "
                "put the line right, or train again in another folder (--out)"
            ) from error
        yield row


def _rows_to(path: Path, step: int) -> list[Row]:
    """The rows up to a step; what comes after them may be damaged, these must be there."""
    rows: list[Row] = []
    reason: MetricsLogError | None = None
    try:
        for row in _rows(path):
            if _step(row) > step:
                break
            rows.append(row)
    except MetricsLogError as damage:
        reason = damage
    last = _step(rows[-1]) if rows else 0
    if last < step:
        raise reason or MetricsLogError(
            f"the log {path} ends at step {last} and the checkpoint is of step {step}; "
            "put the log back, or train again in another folder (--out)"
        )
    return rows


def _line(row: Row) -> str:
    return json.dumps(row, sort_keys=True) + "\n"


def _step(row: Row) -> int:
    return int(str(row["step"]))
