"""`miras`, and `python -m miras_dsl`: the command line."""

from __future__ import annotations

import sys


def main() -> None:
    """The `miras` command.  Ctrl-C ends it with status 130, also while the commands are imported."""
    try:
        from miras_dsl.cli.app import main as run

        run()
    except KeyboardInterrupt:
        print("stopped before the end; start again when you like", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
