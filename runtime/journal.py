"""The log of a run: one JSON object a line, appended, cut back to a step when a run is resumed.

Nothing in it depends on the clock, so a run that was killed and resumed writes the same log as one
that was not.
"""

from __future__ import annotations

import json
import os
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO

from miras_dsl.failures import Unusable

Row = dict[str, object]


class Journal:
    """An open log, for a `with`; a row that `append` has written survives a kill."""

    def __init__(self, path: Path, *, keep_to: int | None = None):
        """Open ``path``; keep rows up to step ``keep_to``, or start anew when that is None."""
        rows = [] if keep_to is None else [r for r in read(path) if _step(r) <= keep_to]
        aside = path.with_suffix(".aside")
        aside.write_text("".join(_line(row) for row in rows), encoding="utf-8")
        os.replace(aside, path)
        self.path = path
        self.file: TextIO = path.open("a", encoding="utf-8")

    def append(self, row: Row) -> None:
        """Write one row; it must hold its `step`.  Raises Unusable where it cannot be written."""
        try:
            self.file.write(_line(row))
            self.file.flush()
        except OSError as error:
            raise Unusable(
                f"the log {self.path} could not be written at step {row['step']}: "
                f"{error.strerror}; make room and go on with --resume"
            ) from error

    def settle(self) -> None:
        """Wait until what was written would survive a power cut."""
        os.fsync(self.file.fileno())

    def __enter__(self) -> Journal:
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

    Raises ValueError for a damaged line that is not the last.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    rows: list[Row] = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number} of {path} is damaged: {error}") from error
    return rows


def series(rows: list[Row], key: str) -> list[tuple[int, float]]:
    """The (step, value) pairs of the rows that hold ``key``."""
    return [(_step(r), float(str(r[key]))) for r in rows if key in r]


def _line(row: Row) -> str:
    return json.dumps(row, sort_keys=True) + "\n"


def _step(row: Row) -> int:
    return int(str(row["step"]))
