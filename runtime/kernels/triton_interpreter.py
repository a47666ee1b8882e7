"""Whether Triton is installed, and patches for its interpreter.

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
    """Patch two faults of the interpreter of Triton 3.6; does nothing where kernels are compiled.

    With numpy 2.4 or later, its one-element arrays are no longer accepted as bounds of a `range`.
    Each call of a helper function from a kernel patches the whole language again, although the kernel
    has done so: that is a third of the time of a kernel.
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
    _patch_language_once(module)


def _patch_language_once(module: Any) -> None:
    """Leave out the patches of the language that are in force already, for the same modules of it."""
    make, restore = module._patch_lang, module._LangPatchScope.restore
    active: dict[frozenset[int], Any] = {}

    def patch_language(function: Any) -> Any:
        held = frozenset(
            id(v) for v in function.__globals__.values() if v is module.tl or v is module.tl.core
        )
        if held in active:
            return module._LangPatchScope()
        active[held] = scope = make(function)
        return scope

    def end(scope: Any) -> None:
        for held in [held for held, own in active.items() if own is scope]:
            del active[held]
        restore(scope)

    module._patch_lang = patch_language
    module._LangPatchScope.restore = end
