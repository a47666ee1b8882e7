"""Writes a generated module to a file and imports it."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from miras_dsl.codegen.emit.imports import import_lines
from tests.module import rules


def write(path: Path, function: str, texts: Sequence[str], rule: str = rules.TEXT) -> ModuleType:
    """The module of a rule and the classes around it."""
    body = "\n\n".join([rule.format(name=function).strip() + "\n", *texts])
    path.write_text(f'"""Generated."""\n\n{import_lines(body)}\n\n{body}', encoding="utf-8")
    found = importlib.util.spec_from_file_location(path.stem, path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module
