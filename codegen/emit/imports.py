"""The imports of a generated file, read off its text."""

from __future__ import annotations

from collections.abc import Iterator
from symtable import SymbolTable, symtable

from .identifiers import IMPORTED, RUNTIME
from .line_wrap import wrap_names


def import_lines(text: str) -> str:
    """The imports that ``text`` needs, and no other."""
    used = set(_borrowed(symtable(text, "generated", "exec")))
    lines = ["import torch"] if "torch" in used else []
    from_torch = [name for name in ("Tensor", "nn") if name in used]
    if from_torch:
        lines.append(f"from torch import {', '.join(from_torch)}")
    if "F" in used:
        lines.append("from torch.nn import functional as F")
    lines.append("")
    names = sorted(IMPORTED & used)
    if names:
        line = f"from {RUNTIME} import {', '.join(names)}"
        block = "".join(f"    {piece}\n" for piece in wrap_names(names, 4))
        lines.append(line if len(line) <= 100 else f"from {RUNTIME} import (\n{block})")
    return "\n".join(lines).strip() + "\n"


def _borrowed(scope: SymbolTable) -> Iterator[str]:
    """Names of the module that a scope or one inside it uses."""
    for symbol in scope.get_symbols():
        if symbol.is_referenced() and (symbol.is_global() or scope.get_type() == "module"):
            yield symbol.get_name()
    for inner in scope.get_children():
        yield from _borrowed(inner)
