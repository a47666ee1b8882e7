"""`triton` and `tl` for generated files, which must load where Triton is not installed, too.

Triton exists for Linux only.  Elsewhere a kernel is defined but cannot be launched, and memories run in
their chunk form, as on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from .triton_interpreter import installed


class MissingTriton:
    """A kernel where Triton is not installed: launching it raises RuntimeError."""

    def __getitem__(self, grid: object) -> Any:
        raise RuntimeError(
            "Triton is not installed here, and this is one of its kernels: pip install triton, or "
            "MIRAS_KERNELS=off for the chunk form"
        )


def _jit(*_arguments: Any, **_options: Any) -> Callable[[object], MissingTriton]:
    return lambda function: MissingTriton()


if installed():
    import triton
    import triton.language as tl
else:
    triton: Any = SimpleNamespace(jit=_jit)
    tl: Any = SimpleNamespace(constexpr=int)
