"""What a command tells when it does not end well, and the exit status that says the same."""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
import warnings
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.text import Text

from miras_dsl.exceptions import EnvironmentFailure, SpecWarning
from miras_dsl.source import escaped

if TYPE_CHECKING:
    from miras_dsl.diagnostics import Diagnostic

WRONG, UNUSABLE, FAULT, STOPPED, UNREAD = 1, 3, 70, 130, 141


class reporting_failures:
    """Turns failures into a message on stderr (or JSON on stdout) and an exit status.

    A `with` around a command; what it gives is the console of the command's own words.
    """

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self.errors = Console(stderr=True, soft_wrap=True, highlight=False)
        self.within = ExitStack()

    def __enter__(self) -> Console:
        def warn(message: Warning | str, *_where: object) -> None:
            self.errors.print(Text(escaped(f"warning: {message}"), "yellow"))

        self.within.enter_context(warnings.catch_warnings())
        # The command tells these itself, with their places.
        warnings.simplefilter("ignore", SpecWarning)
        warnings.showwarning = warn
        return Console(soft_wrap=True, highlight=False, quiet=self.as_json)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.within.close()
        if error is None:
            error = _unwritten()
        status = None if error is None else self._tell(error)
        if status is not None:
            raise typer.Exit(status) from None

    def _tell(self, error: BaseException) -> int | None:
        """Tell of a failure; None for one that typer tells, or that ends the process itself."""
        from miras_dsl.diagnostics import SpecErrors

        match error:
            case typer.Exit() | typer.Abort() | typer.BadParameter():
                return None
            case SpecErrors():
                if self.as_json:
                    print(json.dumps({"errors": error.to_json()}, indent=2))
                else:
                    self.errors.print(Text(str(error)))
                return WRONG
            case EnvironmentFailure():
                self._complain(str(error))
                return error.status
            case BrokenPipeError():
                _forget_output()
                return UNREAD
            case OSError(filename=None):
                # No file of ours: every one of them is opened by its name.
                _forget_output()
                self.errors.print(Text(f"error: the output: {_reason(error)}"))
                return UNUSABLE
            case OSError():
                self._complain(f"{error.filename}: {_reason(error)}")
                return UNUSABLE
            case KeyboardInterrupt():
                sentence = str(error) or "stopped before the end; start again when you like"
                self._complain(sentence, mark="")
                return STOPPED
            case Exception():
                trace = "".join(traceback.format_exception(error))
                sys.stderr.write(trace)
                self._complain(
                    "this is a fault of miras, not of your file; please report it with the lines "
                    f"above and the spec ({type(error).__name__}: {error})"
                )
                return FAULT
            case _:
                return None

    def _complain(self, sentence: str, mark: str = "error: ") -> None:
        if self.as_json:
            print(json.dumps({"errors": [{"what": sentence}]}))
        else:
            self.errors.print(Text(mark + escaped(sentence)))


def warn(found: Iterable[Diagnostic], as_json: bool) -> None:
    """Print what is perhaps not meant on stderr, in yellow; JSON has a place of its own for it."""
    if not as_json:
        errors = Console(stderr=True, soft_wrap=True, highlight=False)
        for diagnostic in found:
            errors.print(Text(f"{diagnostic}\n", "yellow"))


def _unwritten() -> OSError | None:
    """What happens when the last of the output leaves the process."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return error
    return None


def _forget_output() -> None:
    """Nobody takes the output any more: what is left of it goes nowhere, without a word."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with suppress(OSError):
        os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _reason(error: OSError) -> str:
    return error.strerror or errno.errorcode.get(error.errno or 0, str(error))
