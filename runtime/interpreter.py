"""Triton's interpreter, repaired: kernels on a CPU, for tests of what they compute.

It is on when `TRITON_INTERPRET=1` was set before triton was imported; a process that interprets
cannot also compile.  Call `repair` before the first kernel runs.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any


def interpreting() -> bool:
    """Whether this process interprets kernels instead of compiling them."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def repair() -> None:
    """Put two faults of Triton 3.6's interpreter right; does nothing where kernels are compiled.

    It keeps bfloat16 as 16 bits of an integer and multiplies those bits in a dot product; and since
    numpy 2.4 its one-element arrays no longer count as the ends of a `range`.
    """
    if not interpreting():
        return
    import numpy as np
    import triton.language as tl
    import triton.runtime.interpreter as interpreter

    builder: Any = interpreter.InterpreterBuilder
    module: Any = interpreter
    dot, patch = builder.create_dot, module._patch_lang_tensor

    def widened(x: Any) -> Any:
        if x.dtype.scalar != tl.bfloat16:
            return x
        return module.TensorHandle((x.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def patched(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda x: int(np.asarray(x.handle.data).reshape(-1)[0]))

    builder.create_dot = lambda self, a, b, *rest: dot(self, widened(a), widened(b), *rest)
    module._patch_lang_tensor = patched
