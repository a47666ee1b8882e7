"""Runs modules of `tests.kernels` in processes that interpret kernels, each forked from this one.

This process has imported the compiler, torch and Triton when the first job comes, so a job costs its own
work alone.  A line of stdin is a job, ["module", "argument", …]; a line of stdout tells how it ended.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback

from tests.kernels import compare_layers, interpret

MODULES = {"compare_layers": compare_layers.main, "interpret": interpret.main}


def ended(module: str, arguments: list[str]) -> dict[str, object]:
    """The exit status of a job in a process of its own, and what it wrote."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if child == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            status = 1
            try:
                MODULES[module](arguments)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        _, status = os.waitpid(child, 0)
        out.seek(0)
        err.seek(0)
        code = os.waitstatus_to_exitcode(status)
        return {"status": code, "stdout": out.read(), "stderr": err.read()}


def main() -> None:
    for line in sys.stdin:
        module, *arguments = json.loads(line)
        print(json.dumps(ended(module, arguments)), flush=True)


if __name__ == "__main__":
    main()
