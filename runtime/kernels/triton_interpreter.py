"""Triton where there is no GPU: whether it is there, and its interpreter, repaired.

The interpreter runs kernels on a CPU, for tests of what they compute.  It is on when
`TRITON_INTERPRET=1` was set before triton was imported; a process that interprets cannot also
compile.  Call `repair` before the first kernel runs.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from typing import Any


@cache
def installed() -> bool:
    """Whether Triton can be imported here."""
    return find_spec("triton") is not None


def interpreting() -> bool:
    """Whether this process interprets kernels instead of compiling them."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def patch_interpreter() -> None:
    """Put a fault of Triton 3.6's interpreter right; does nothing where kernels are compiled.

    Since numpy 2.4 its one-element arrays no longer count as the ends of a `range`.
    """
    if not interpreting():
        return
    import numpy as np
    import triton.runtime.interpreter as interpreter

    module: Any = interpreter
    patch = module._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda x: int(np.asarray(x.handle.data).reshape(-1)[0]))

    module._patch_lang_tensor = patched
