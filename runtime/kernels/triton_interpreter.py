"""Whether Triton is installed, and a patch for its interpreter.

The interpreter runs kernels on a CPU, for tests of what they compute.  It is on if `TRITON_INTERPRET=1`
was set before triton was imported; a process that interprets cannot also compile.
`patch_interpreter` must be called before the first kernel runs.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from typing import Any

# A constant, so that `torch.compile` need not trace how it is found out.
_INSTALLED = find_spec("triton") is not None


def installed() -> bool:
    """Whether Triton can be imported here."""
    return _INSTALLED


def interpreting() -> bool:
    """Whether this process interprets kernels instead of compiling them."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def patch_interpreter() -> None:
    """Patch a fault of the interpreter of Triton 3.6; does nothing where kernels are compiled.

    With numpy 2.4 or later, its one-element arrays are no longer accepted as bounds of a `range`.
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
