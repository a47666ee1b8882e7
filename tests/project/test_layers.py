"""Layers import downwards only.  The contract is run, so nobody has to remember it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXPORTED = {
    "SpecErrors", "SpecWarning", "Unusable",
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
JUDGE = {"oracle", "reference", "compare", "agree", "cases", "certificate"}
SEEN = {"miras_dsl.spec"}


def layer_of(module: str) -> str:
    """The folder that a module of ours belongs to."""
    parts = module.split(".")
    if len(parts) == 1 or parts[1].split("_")[0] == "cli" or parts[1] == "__main__":
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
            names = [f"{base}.{a.name}" if base in OURS else base for a in node.names]
            found += [(node.lineno, n, bool(node.level), id(node) in typing_only) for n in names]
    return found


OURS = {"miras_dsl", *(f"miras_dsl.{f}" for f in ("codegen", "templates", "specs", "runtime"))}


def violations(text: str, module: str, *, package: bool = False) -> list[str]:
    """Every import of one file that breaks the contract, as sentences."""
    layer, wrong = layer_of(module), []
    for line, name, relative, typing_only in imports(text, module, package):
        top = name.split(".")[0]
        if top in FORBIDDEN[layer] and not typing_only:
            wrong.append(f"{module}:{line} imports {name}; {layer} must not")
        if top != "miras_dsl":
            continue
        # `from miras_dsl import Source` names the facade; `from . import ir` names a module.
        target = layer_of(name)
        if name.count(".") == 1 and name.split(".")[1] in EXPORTED:
            target = "facade"
        if target not in BELOW[layer] and not (layer == "language" and name == "miras_dsl"):
            wrong.append(f"{module}:{line} imports {name}: {layer} is below {target}")
        same = target == layer or {target, layer} == {"facade", "language"}
        if relative and not same:
            wrong.append(f"{module}:{line} imports {name} relatively, across folders")
        if not relative and same and name != "miras_dsl":
            wrong.append(f"{module}:{line} imports {name} absolutely, inside its folder")
        if judges(module) and name not in SEEN and not judges(name):
            wrong.append(f"{module}:{line} imports {name}: the judge must not see the defendant")
    return wrong


def judges(module: str) -> bool:
    """Whether a module is part of the judge."""
    folder, _, name = module.rpartition(".")
    mine = name in JUDGE or name.partition("_")[0] == "oracle"
    return folder == "miras_dsl.runtime" and mine


def files() -> list[Path]:
    """Our Python files, each once (the folders inside miras_dsl are links to those beside it)."""
    found = list((ROOT / "miras_dsl").glob("*.py"))
    for folder in ("codegen", "templates", "specs", "runtime"):
        found += (ROOT / folder).rglob("*.py")
    return sorted(found)


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downwards(path):
    """Read from the syntax tree, so an import inside a function counts too."""
    package = path.name == "__init__.py"
    assert violations(path.read_text(), module_of(path), package=package) == []


def test_the_judge_is_all_there():
    """Every name of the list is a file, and the oracle has parts of its own."""
    found = {path.stem for path in files() if judges(module_of(path))}
    assert found >= JUDGE and "oracle_token" in found and "build" not in found


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("miras_dsl.check", "import torch"),
        ("miras_dsl.check", "def f():\n    from jinja2 import Template"),
        ("miras_dsl.check", "from miras_dsl.codegen import pipeline"),
        ("miras_dsl.check", "from miras_dsl.spec import Ref"),
        ("miras_dsl.codegen.plan", "import triton.language as tl"),
        ("miras_dsl.codegen.plan", "from miras_dsl.runtime.cache import put"),
        ("miras_dsl.codegen.plan", "from ..spec import Ref"),
        ("miras_dsl.codegen.plan", "from miras_dsl.codegen.chunk import x"),
        ("miras_dsl.runtime.oracle", "from miras_dsl.codegen.update import x"),
        ("miras_dsl.runtime.oracle_token", "from miras_dsl.scalars import sigmoid"),
        ("miras_dsl.runtime.oracle_rules", "from .tiles import inverted"),
        ("miras_dsl.runtime.reference", "from . import build"),
        ("miras_dsl.runtime.compare", "from miras_dsl import lower"),
        ("miras_dsl.runtime.agree", "def f():\n    from .walk import walk"),
        ("miras_dsl.runtime.cases", "from miras_dsl.ranges import of"),
        ("miras_dsl.runtime.certificate", "from .state import State"),
        ("miras_dsl.templates.macros", "import sympy"),
    ],
)
def test_the_contract_can_be_broken(module, text):
    """Each planted import is one the walk must find."""
    assert violations(text, module) != []


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("miras_dsl.check", "import sympy\nfrom .spec import Ref\nfrom . import ranges"),
        ("miras_dsl.codegen.plan", "from .chunk import x\nfrom miras_dsl.spec import Ref"),
        ("miras_dsl.runtime.build", "import torch\nfrom miras_dsl.codegen.pipeline import x"),
        ("miras_dsl.runtime.compare", "from . import oracle\nfrom .agree import judge"),
        ("miras_dsl.runtime.oracle", "import sympy\nfrom miras_dsl.spec import MemorySpec, walk"),
    ],
)
def test_the_contract_allows_what_it_should(module, text):
    """A walk that refuses everything would prove nothing."""
    assert violations(text, module) == []
