"""Reports failures of a command: a message on stderr, and the exit status."""

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

WRONG, UNUSABLE, UNJUDGED, FAULT, STOPPED, UNREAD = 1, 3, 5, 70, 130, 141


class reporting_failures:
    """A `with` around a command that turns exceptions into a message and an exit status.

    The message goes to stderr, or to stdout as JSON.  The `with` gives the console for the command's
    output, which prints nothing if that is JSON.
    """

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self.errors = Console(stderr=True, soft_wrap=True, highlight=False)
        self.within = ExitStack()

    def __enter__(self) -> Console:
        def warn(message: Warning | str, *_where: object) -> None:
            self.errors.print(Text(escaped(f"warning: {message}"), "yellow"))

        self.within.enter_context(warnings.catch_warnings())
        # The command prints these itself, with their places.
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
            error = _flush_error()
        status = None if error is None else self._report(error)
        if status is not None:
            raise typer.Exit(status) from None

    def _report(self, error: BaseException) -> int | None:
        """Print a failure; its exit status, or None for an exception that is passed on."""
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
                self._print_error(str(error))
                return error.status
            case BrokenPipeError():
                _discard_output()
                return UNREAD
            case OSError(filename=None):
                # Without a name it is the standard output: all files are opened by their names.
                _discard_output()
                self.errors.print(Text(f"error: the output: {_reason(error)}"))
                return UNUSABLE
            case OSError():
                self._print_error(f"{error.filename}: {_reason(error)}")
                return UNUSABLE
            case KeyboardInterrupt():
                sentence = str(error) or "stopped before the end; start again when you like"
                self._print_error(sentence, mark="")
                return STOPPED
            case Exception():
                trace = "".join(traceback.format_exception(error))
                sys.stderr.write(trace)
                self._print_error(
                    "this is a fault of miras, not of your file; please report it with the lines "
                    f"above and the spec ({type(error).__name__}: {error})"
                )
                return FAULT
            case _:
                return None

    def _print_error(self, sentence: str, mark: str = "error: ") -> None:
        if self.as_json:
            print(json.dumps({"errors": [{"what": sentence}]}))
        else:
            self.errors.print(Text(mark + escaped(sentence)))


def warn(found: Iterable[Diagnostic], as_json: bool) -> None:
    """Print warnings on stderr, unless the output is JSON, which holds them itself."""
    if not as_json:
        errors = Console(stderr=True, soft_wrap=True, highlight=False)
        for diagnostic in found:
            errors.print(Text(f"{diagnostic}\n", "yellow"))


def _flush_error() -> OSError | None:
    """Flush the standard output; the error if that fails."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return error
    return None


def _discard_output() -> None:
    """Send what is left of the standard output to /dev/null, so that exiting raises no further error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with suppress(OSError):
        os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _reason(error: OSError) -> str:
    return error.strerror or errno.errorcode.get(error.errno or 0, str(error))
