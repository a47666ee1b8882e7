"""How many CPU threads torch uses, inside a `with`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_lock = threading.Lock()
_outermost: dict[int, int] = {}
"""For each Python thread inside a `with on_threads`: the count to go back to when it leaves."""


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Let torch use ``count`` CPU threads inside a `with`, and as many as before after it.

    torch keeps one count for Python threads that have not computed yet.  So a thread that enters
    while others are inside goes back to the count from before the first of them, and not to theirs.
    """
    me = threading.get_ident()
    with _lock:
        nested = me in _outermost
        before = torch.get_num_threads()
        if not nested:
            before = next(iter(_outermost.values()), before)
            _outermost[me] = before
        torch.set_num_threads(count)
    try:
        yield
    finally:
        with _lock:
            torch.set_num_threads(before)
            if not nested:
                del _outermost[me]
