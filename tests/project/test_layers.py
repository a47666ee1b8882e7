"""Layers import downwards only.  The contract is run, so nobody has to remember it."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXPORTED = {
    "SpecErrors", "SpecWarning", "EnvironmentFailure",
    "certify", "compile", "explain", "find", "is_code", "load", "shipped",
}  # fmt: skip
"""Names of the facade, which hide no module of the same name."""

# Third-party packages that a folder must not import, not even inside a function.
FORBIDDEN = {
    "language": {"torch", "triton", "jinja2"},
    "codegen": {"torch", "triton"},
    "templates": {"torch", "triton", "sympy", "numpy"},
    "specs": {"torch", "triton", "sympy", "jinja2", "numpy"},
    "runtime": set(),
    "facade": {"torch", "triton", "jinja2"},
}

# Which of our folders a folder may import from.
BELOW = {
    "language": {"language"},
    "codegen": {"language", "templates", "codegen"},
    "templates": {"templates"},
    "specs": {"specs"},
    "runtime": {"language", "templates", "codegen", "runtime"},
    "facade": {"language", "templates", "codegen", "runtime", "facade"},
}

# The judge shares no code with the defendant: of ours it may see what a memory means, and itself.
JUDGE = "miras_dsl.runtime.judge"
SEEN = {"miras_dsl.spec"}


def layer_of(module: str) -> str:
    """The part of the project that a module of ours belongs to."""
    parts = module.split(".")
    if len(parts) == 1 or parts[1] in {"cli", "__main__"}:
        return "facade"
    return parts[1] if parts[1] in {"codegen", "templates", "specs", "runtime"} else "language"


def module_of(path: Path) -> str:
    """The name under which a file imports."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    parts = parts if parts[0] == "miras_dsl" else ["miras_dsl", *parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(text: str, module: str, package: bool) -> list[tuple[int, str, bool, bool]]:
    """Each import of a file: line, absolute name, relative?, for type checkers only?"""
    tree = ast.parse(text)
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, a.name, False, id(node) in typing_only) for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                up = node.level - 1 if package else node.level
                parts = parts[: len(parts) - up]
                base = ".".join([*parts, node.module] if node.module else parts)
            # `from miras_dsl.codegen import pipeline` names a module, or what the package gives.
            names = [f"{base}.{a.name}" if base in FOLDERS else base for a in node.names]
            found += [(node.lineno, n, bool(node.level), id(node) in typing_only) for n in names]
    return found


def violations(text: str, module: str, *, package: bool = False) -> list[str]:
    """Every import of one file that breaks the contract, as sentences."""
    layer, wrong = layer_of(module), []
    here = module if package else module.rpartition(".")[0]
    for line, name, relative, typing_only in imports(text, module, package):
        top = name.split(".")[0]
        if top in FORBIDDEN[layer] and not typing_only:
            wrong.append(f"{module}:{line} imports {name}; {layer} must not")
        if top != "miras_dsl":
            continue
        target = layer_of(name)
        if name.count(".") == 1 and name.split(".")[1] in EXPORTED:
            target = "facade"
        if target not in BELOW[layer] and not (layer == "language" and name == "miras_dsl"):
            wrong.append(f"{module}:{line} imports {name}: {layer} is below {target}")
        if relative and not (name == here or name.startswith(f"{here}.")):
            wrong.append(f"{module}:{line} imports {name} relatively, across folders")
        if not relative and name.rpartition(".")[0] == here and target != "facade":
            wrong.append(f"{module}:{line} imports {name} absolutely, inside its folder")
        if judges(module) and name not in SEEN and not judges(name):
            wrong.append(f"{module}:{line} imports {name}: the judge must not see the defendant")
    return wrong


def judges(module: str) -> bool:
    """Whether a module is part of the judge."""
    return module == JUDGE or module.startswith(f"{JUDGE}.")


def files() -> list[Path]:
    """Our Python files, each once (the folders inside miras_dsl are links to those beside it)."""
    found: list[Path] = []
    for folder in ("miras_dsl", "codegen", "templates", "specs", "runtime"):
        for place, inner, names in os.walk(ROOT / folder, followlinks=False):
            inner[:] = [
                d for d in inner if d != "__pycache__" and not (Path(place) / d).is_symlink()
            ]
            found += [Path(place) / name for name in names if name.endswith(".py")]
    return sorted(found)


FOLDERS = {module_of(path) for path in files() if path.name == "__init__.py"}
"""Packages of ours: importing from one names the package, not the folder that it lies in."""


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downwards(path):
    """Read from the syntax tree, so an import inside a function counts too."""
    package = path.name == "__init__.py"
    assert violations(path.read_text(), module_of(path), package=package) == []


def test_the_judge_is_all_there():
    """The folder holds the oracle and what compares with it, and nothing of the defendant."""
    found = {
        module_of(path).removeprefix(f"{JUDGE}.") for path in files() if judges(module_of(path))
    }
    assert found >= {"cases", "certificate", "checks", "reference", "tolerance", "oracle.run"}
    assert not judges("miras_dsl.runtime.load.loader")


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("miras_dsl.check.file", "import torch"),
        ("miras_dsl.check.file", "def f():\n    from jinja2 import Template"),
        ("miras_dsl.check.file", "from miras_dsl.codegen import pipeline"),
        ("miras_dsl.check.file", "from miras_dsl.check.memory import memory"),
        ("miras_dsl.ir.nodes", "from ..spec import Ref"),
        ("miras_dsl.codegen.pipeline", "import triton.language as tl"),
        ("miras_dsl.codegen.pipeline", "from miras_dsl.runtime.load.cache import put"),
        ("miras_dsl.codegen.derive.chunk", "from ..spec import Ref"),
        ("miras_dsl.codegen.derive.chunk", "from ..passes.autodiff import x"),
        ("miras_dsl.codegen.derive.chunk", "from miras_dsl.codegen.derive.update import x"),
        ("miras_dsl.runtime.judge.oracle.run", "from miras_dsl.codegen.derive.update import x"),
        ("miras_dsl.runtime.judge.oracle.token_step", "from miras_dsl.scalar.functions import x"),
        ("miras_dsl.runtime.judge.oracle.rules", "from miras_dsl.runtime.ops import tensor_ops"),
        ("miras_dsl.runtime.judge.reference", "from miras_dsl.runtime.load import loader"),
        ("miras_dsl.runtime.judge.checks", "from miras_dsl import ir"),
        ("miras_dsl.runtime.judge.tolerance", "def f():\n    from miras_dsl.runtime import run"),
        ("miras_dsl.runtime.judge.cases", "from miras_dsl.check.formula.intervals import of"),
        ("miras_dsl.runtime.judge.certificate", "from miras_dsl.runtime.layers.parts import x"),
        ("miras_dsl.templates.macros", "import sympy"),
    ],
)
def test_the_contract_can_be_broken(module, text):
    """Each planted import is one the walk must find."""
    assert violations(text, module) != []


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (
            "miras_dsl.check.file",
            "import sympy\nfrom miras_dsl.spec import Ref\nfrom . import layers",
        ),
        ("miras_dsl.diagnostics", "from .source import Span\nfrom .ir import Node"),
        ("miras_dsl.codegen.derive.chunk", "from .update import x\nfrom miras_dsl.spec import Ref"),
        ("miras_dsl.codegen.derive.chunk", "from miras_dsl.codegen.passes.autodiff import x"),
        ("miras_dsl.runtime.load.loader", "import torch\nfrom miras_dsl.codegen.pipeline import x"),
        ("miras_dsl.runtime.judge.checks", "from .oracle import run\nfrom .tolerance import judge"),
        ("miras_dsl.runtime.judge.oracle.run", "import sympy\nfrom miras_dsl.spec import Ref"),
    ],
)
def test_the_contract_allows_what_it_should(module, text):
    """A walk that refuses everything would prove nothing."""
    assert violations(text, module) == []
