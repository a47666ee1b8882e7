"""Runs hostile files, each in a process of its own under limits; prints a line of JSON for each.

    python run_hostile.py SECONDS MIB NUMBER…

A process is forked when all of the compiler has been imported, so that what is measured is the work on
one file: it may take SECONDS of CPU time for each of check, explain and compile, and MIB MiB of memory
more than the imports have.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback

import miras_dsl.codegen.explain as explaining
from miras_dsl.check import read, warnings
from miras_dsl.codegen.pipeline import compile_file
from miras_dsl.diagnostics import SpecErrors
from miras_dsl.source import Source

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from hostile_files import hostile_file, memory

WORK = {
    "check": lambda spec: warnings(spec),
    "explain": lambda spec: explaining.explain(spec),
    "compile": lambda spec: compile_file(spec, kernels=True),
}


def outcome(text: str, command: str) -> str:
    """What a command does with a text: "done", the codes of its diagnostics, or how it fails."""
    try:
        WORK[command](read(Source("hostile.mem", text)))
        return "done"
    except SpecErrors as errors:
        assert str(errors) and errors.to_json()
        return " ".join(sorted({d.code for d in errors.diagnostics}))
    except MemoryError:
        return "fails: out of memory"
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return (
            f"fails: {type(error).__name__} at {place.filename}:{place.lineno}: {str(error)[:99]}"
        )


def limited(text: str, command: str, seconds: int, mebibytes: int) -> dict[str, object]:
    """The outcome of a command in a process of its own, and its CPU time in seconds."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        with open("/proc/self/statm") as pages:
            used = int(pages.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (mebibytes << 20),) * 2)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        os.write(writer, outcome(text, command).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as said:
        told = said.read().decode()
    _, status, usage = os.wait4(child, 0)
    if status:
        told = f"fails: stopped by signal {os.waitstatus_to_exitcode(status)}"
    return {"outcome": told, "seconds": round(usage.ru_utime + usage.ru_stime, 2)}


def main() -> None:
    seconds, mebibytes, *numbers = map(int, sys.argv[1:])
    for command in WORK:
        outcome(memory(), command)
    for number in numbers:
        kind, text = hostile_file(number)
        for command in WORK:
            found = limited(text, command, seconds, mebibytes)
            print(
                json.dumps({"number": number, "kind": kind, "command": command, **found}),
                flush=True,
            )


if __name__ == "__main__":
    main()
