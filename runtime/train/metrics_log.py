"""The log of a run: one JSON object a line, appended, cut back to a step when a run is resumed.

Nothing in it depends on the clock, so a run that was killed and resumed writes the same log as one
that was not.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO

from miras_dsl.exceptions import EnvironmentFailure
from miras_dsl.runtime.load import atomic_write

Row = dict[str, object]
NUMBERS = frozenset({"bits", "norm", "held_out"})
"""What a row may measure: of a training step its loss and its gradient's norm, of the held-out part."""
WAY_OUT = "put the line right, or train again in another folder (--out)"


class MetricsLogError(EnvironmentFailure):
    """A log cannot be written or read, in one sentence with a way out.

    step  of the row that is in the wrong place; None for what is no row at all
    """

    def __init__(self, sentence: str, step: int | None = None) -> None:
        super().__init__(sentence)
        self.step = step


class MetricsLog:
    """An open log, for a `with`; a row that `append` has written survives a kill."""

    def __init__(self, path: Path, *, keep_to: int | None = None, checksum: str = ""):
        """Open ``path``; keep rows up to step ``keep_to``, or start anew when that is None.

        checksum  what `checksum` was after the rows to keep; "" where nobody knows

        Raises MetricsLogError where the rows to keep are not all there or not those that were
        written, or nothing can be written.
        """
        rows = [] if keep_to is None else _rows_to(path, keep_to)
        self.path, self.step = path, keep_to or 0
        text = "".join(_line(row) for row in rows)
        self._written = hashlib.sha256(text.encode())
        if checksum and checksum != self.checksum:
            raise MetricsLogError(
                f"the log {path} is not what this run wrote up to step {keep_to}; "
                "put the log back, or train again in another folder (--out)"
            )
        try:
            atomic_write.temporary_beside(path).write_text(text, encoding="utf-8")
            atomic_write.replace_atomically(path)
            self.file: TextIO = path.open("a", encoding="utf-8")
        except OSError as error:
            raise self._unwritable(error) from error

    def append(self, row: Row) -> None:
        """Write one row; it must hold its `step`.  Raises MetricsLogError where that fails."""
        self.step = _step(row)
        line = _line(row)
        try:
            self.file.write(line)
            self.file.flush()
        except OSError as error:
            raise self._unwritable(error) from error
        self._written.update(line.encode())

    @property
    def checksum(self) -> str:
        """SHA-256 of all rows so far."""
        return self._written.hexdigest()

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

    Raises MetricsLogError for a damaged line that is not the last, and for a row that is missing,
    doubled or in the wrong place.
    """
    return list(_rows(path))


def series(rows: list[Row], key: str) -> list[tuple[int, float]]:
    """The (step, value) pairs of the rows that hold ``key``."""
    return [(_step(r), float(str(r[key]))) for r in rows if key in r]


def _rows(path: Path) -> Iterator[Row]:
    trained = measured = 0
    for number, line in enumerate(_whole_lines(path), 1):
        where = f"line {number} of the log {path}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise MetricsLogError(f"{where} is damaged ({error}); {WAY_OUT}") from error
        if reason := _no_row(row):
            raise MetricsLogError(f"{where} is damaged ({reason}); {WAY_OUT}")
        step = row["step"]
        if "bits" in row:
            if step != trained + 1:
                raise MetricsLogError(
                    f"{where} is of step {step} where step {trained + 1} must be; {WAY_OUT}", step
                )
            trained = step
        if "held_out" in row:
            if not measured < step <= trained:
                raise MetricsLogError(
                    f"{where} measures step {step} after steps {trained} (training) and {measured} "
                    f"(measured); {WAY_OUT}",
                    step,
                )
            measured = step
        yield row


def _whole_lines(path: Path) -> list[bytes]:
    """The lines of a log that were written to their end; none where there is no log."""
    if not path.exists():
        return []
    if not path.is_file():
        raise MetricsLogError(f"the log {path} is no regular file; {WAY_OUT}")
    try:
        return path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise MetricsLogError(
            f"the log {path} cannot be read: {error.strerror}; {WAY_OUT}"
        ) from error


def _no_row(row: object) -> str | None:
    """Why something is no row of a log."""
    if not isinstance(row, dict):
        return "it is no table"
    step = row.get("step")
    if type(step) is not int or step < 1:
        return f"its step is {step!r:.40}"
    for key, value in row.items():
        if key in NUMBERS:
            if type(value) not in (int, float) or not math.isfinite(value):
                return f"its {key} is {value!r:.40}"
        elif key != "step" and not (key == "sample" and isinstance(value, str)):
            return f"{key!r:.40} is nothing that a run writes"
    return None


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
        if damage.step is not None and damage.step <= step:
            raise
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
