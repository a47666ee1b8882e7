"""The wheel holds everything, and works where the repository is not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("codegen", "templates", "runtime", "specs")
DATA = {".mem", ".j2", ".lark", ".md", ".py", ".typed", ".txt"}

pytestmark = pytest.mark.xdist_group("wheel")


def within(root: Path) -> list[Path]:
    """The files below a folder, those behind links not."""
    found: list[Path] = []
    for place, inner, names in os.walk(root):
        inner[:] = [d for d in inner if d != "__pycache__" and not (Path(place) / d).is_symlink()]
        found += [Path(place) / name for name in names]
    return found


def shipped() -> set[str]:
    """The files that a wheel must hold, by their name in it."""
    found = set()
    for folder, place in (("", "miras_dsl"), *((f"miras_dsl/{f}", f) for f in FOLDERS)):
        for path in within(ROOT / place):
            if path.suffix in DATA - ({".md"} if folder else set()):
                found.add(f"{folder or 'miras_dsl'}/{path.relative_to(ROOT / place).as_posix()}")
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from a copy of the sources, so that nothing left in the tree can help."""
    copy = tmp_path_factory.mktemp("source") / "miras"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy)
    for name in ("miras_dsl", *FOLDERS):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignore)
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps"]
    run = subprocess.run(
        [*command, "--quiet", "-w", str(copy / "out"), str(copy)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    (built,) = (copy / "out").glob("*.whl")
    return built


def test_every_folder_is_declared():
    """setuptools ships what is listed; a folder that nobody listed would be lost silently."""
    listed = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    )
    there = set()
    for folder, place in (("", "miras_dsl"), *((f"miras_dsl.{f}", f) for f in FOLDERS)):
        for path in within(ROOT / place):
            parts = path.parent.relative_to(ROOT / place).parts
            if path.suffix in DATA - {".txt", ".md"}:
                there.add(".".join((folder or "miras_dsl", *parts)))
    assert there <= listed


def test_folders_are_linked_into_the_package():
    """An editable install finds the four folders through relative links."""
    for folder in FOLDERS:
        link = ROOT / "miras_dsl" / folder
        assert link.is_symlink()
        assert os.readlink(link) == f"../{folder}"


def test_the_wheel_holds_every_file(wheel):
    """Compared by name with the tree."""
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert shipped() - inside == set()


def test_the_wheel_holds_nothing_else(wheel):
    """No tests, no examples, no build leftovers."""
    inside = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    assert {n for n in inside if not n.startswith("miras_dsl/")} == set()
    assert {n for n in inside if Path(n).suffix not in DATA} == set()


@pytest.mark.slow
def test_an_installed_wheel_works_in_an_empty_directory(wheel, tmp_path):
    """From text to a trained step, far from the repository and its working directory."""
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    code = """
import sys, pathlib
import miras_dsl
assert pathlib.Path(miras_dsl.__file__).is_relative_to(sys.argv[1]), miras_dsl.__file__
import torch
from importlib.resources import files
text = (files("miras_dsl.specs") / "deltanet.mem").read_text()
library = miras_dsl.load(text)
layer = library.DeltaNet(width=16, heads=2)
x = torch.randn(2, 5, 16)
y, state = layer(x)
y.square().sum().backward()
assert all(p.grad is not None for p in layer.parameters())
print(tuple(y.shape))
"""
    env = {**os.environ, "PYTHONPATH": str(site), "MIRAS_CACHE_DIR": str(tmp_path / "cache")}
    run = subprocess.run(
        [sys.executable, "-c", code, str(site)], cwd=empty, env=env, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "(2, 5, 16)"
    assert list(empty.iterdir()) == []
