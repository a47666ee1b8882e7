"""A process that has imported and compiled everything, and runs each `miras` command in a fork.

python -m tests.train.warm SPEC ...      then one JSON list of words a line on stdin

It answers with two lines: the fork's process number, and its exit status when it has ended.  A fork
of a process that has trained nothing starts like a new one, without the seconds of imports.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"width": 16, "layers": 1}


class Warm:
    """The process seen from a test."""

    def __init__(self, *specs: str):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.train.warm", *specs],
            cwd=ROOT,
            # Forks of a process with threads may wait for ever.
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, *words: object) -> int:
        """Begin a command; its process number."""
        assert self.process.stdin is not None
        print(json.dumps([str(word) for word in words]), file=self.process.stdin, flush=True)
        return self._answer()

    def ended(self) -> int:
        """Wait for the command that was started; its exit status, or minus the signal's number."""
        return self._answer()

    def close(self) -> None:
        """Let the process end."""
        self.process.communicate()

    def _answer(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())


def main() -> None:
    import torch

    import miras_dsl as miras
    from miras_dsl.cli.app import app
    from miras_dsl.runtime.train import job

    for spec in sys.argv[1:]:
        job.language_model(job.wrap_in_model(miras.find(spec), **SMALL))
    torch.optim.AdamW([torch.zeros(1)])
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
            app(json.loads(line))
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
