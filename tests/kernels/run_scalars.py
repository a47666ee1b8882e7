"""Runs every scalar formula as Triton text, one kernel each; prints a JSON line for each.

With TRITON_INTERPRET=1 on a CPU, else on the GPU.  The argument is a folder for the kernels' text.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import torch

from miras_dsl.codegen.emit.scalar_printer import TRITON, print_scalar
from miras_dsl.runtime.kernels.triton_interpreter import interpreting, patch_interpreter
from tests.kernels.scalar_cases import CASES, POSITIVE, X, points, worst

HEAD = '''"""Scalar formulas."""

import triton
import triton.language as tl

from miras_dsl.runtime.generated import tl_math
'''
KERNEL = """

@triton.jit
def formula_{number}(x_ptr, y_ptr, N: tl.constexpr):
    here = tl.arange(0, N)
    x = tl.load(x_ptr + here)
    tl.store(y_ptr + here, {text})
"""


def main(folder: Path) -> None:
    path = folder / "formulas.py"
    made = [KERNEL.format(number=n, text=print_scalar(formula, {X: "x"}, TRITON))
            for n, (formula, _) in enumerate(CASES.values())]  # fmt: skip
    path.write_text(HEAD + "".join(made), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("formulas", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    patch_interpreter()
    device = "cpu" if interpreting() else "cuda"
    for number, name in enumerate(CASES):
        x = points(torch.float32, name in POSITIVE).to(device)
        y = torch.full_like(x, float("nan"))
        getattr(module, f"formula_{number}")[(1,)](x, y, N=len(x))
        error, at = worst(name, x.cpu(), y.cpu())
        print(json.dumps({"name": name, "error": error, "at": at}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
