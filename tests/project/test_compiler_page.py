"""`docs/compiler.md` says what the compiler prints, and its maps and paths name what is there.

`--update-golden` (or `make docs`) writes its printed stages and maps anew.
"""

from __future__ import annotations

import ast
import re

import pytest

from miras_dsl import ir
from tests.project.compiler_page import (
    FOLDERS,
    MAPS,
    PAGE,
    ROOT,
    STAGES,
    TREES,
    codegen_files,
    folder_line,
    folders,
    part,
    renewed,
    written,
)

PARTS = [*(("stage", name) for name in STAGES), *(("map", name) for name in MAPS)]
MAP = "## 4. Map of folders"


def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def prose() -> str:
    """The page without what the compiler has written, and without the maps."""
    text = page().partition(MAP)[0]
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def rows(text: str) -> set[str]:
    """What the first column of its tables names, without the slash of a folder."""
    return {name.rstrip("/") for name in re.findall(r"^\| \**`([^`]+)`", text, re.MULTILINE)}


def explain_difference(wanted: str, found: str) -> str:
    """The lines of two texts that only one of them has."""
    old, new = found.splitlines(), wanted.splitlines()
    lines = [f"missing: {line}" for line in new if line not in old]
    lines += [f"too much: {line}" for line in old if line not in new]
    return "\n".join([*lines, "if it is meant: make docs"])


def test_every_part_is_on_the_page() -> None:
    assert set(written(page())) == set(PARTS)


@pytest.mark.parametrize(("kind", "name"), PARTS, ids=[name for _, name in PARTS])
def test_the_page_is_what_the_compiler_prints(kind: str, name: str, update_golden: bool) -> None:
    if update_golden:
        PAGE.write_text(renewed(page()), encoding="utf-8")
    wanted, found = part(kind, name), written(page())[kind, name]
    assert found == wanted, explain_difference(wanted, found)


def test_a_page_that_is_out_of_date_is_noticed() -> None:
    """One sign of the chunk program changed by hand, and one row of the map lost."""
    text = renewed(page())
    for old, new in ((" - (solve @ (", " + (solve @ ("), ("| `codegen/emit/render.py` |", "| ")):
        wrong = text.replace(old, new)
        assert wrong != text
        assert any(written(wrong)[key] != part(*key) for key in PARTS)
        assert renewed(wrong) == text


def test_the_maps_name_every_folder_and_every_file_of_the_compiler() -> None:
    """And no other; what is compared is the file tree, not the code that makes the maps."""
    named = rows(page().partition(MAP)[2])
    there = {
        path.parent.relative_to(ROOT).as_posix()
        for tree in TREES
        for path in (ROOT / tree).rglob("*")
        if path.is_file() and not {"__pycache__", ".pytest_cache"} & set(path.parts)
    }
    there |= set(codegen_files())
    assert named == there, explain_difference("\n".join(there), "\n".join(named))


def test_every_folder_has_a_line() -> None:
    """Its package's docstring, or one in `FOLDERS`; none is there for a folder that is gone."""
    silent = [folder for folder in folders() if not folder_line(folder)]
    assert silent == [], "tests/project/compiler_page.py: FOLDERS has no line for these"
    packages = {folder for folder in FOLDERS if (ROOT / folder / "__init__.py").exists()}
    stale = set(FOLDERS) - set(folders()) | packages
    assert stale == set(), "tests/project/compiler_page.py: FOLDERS has a line for these"


def test_every_path_that_is_named_exists() -> None:
    """Files, folders and patterns of files; and tests, written `file.py::test`."""
    named = {
        word
        for word in re.findall(r"`([\w./*]+(?:::\w+)?)`", prose())
        if word.split("/")[0] in TREES
    }
    assert len(named) > 50
    for word in sorted(named):
        path, _, test = word.partition("::")
        assert list(ROOT.glob(path)), f"{path} is not there"
        if test:
            assert f"def {test}(" in (ROOT / path).read_text(encoding="utf-8"), word


def test_what_is_named_beside_a_file_is_in_it() -> None:
    """`file.py` (`NAME`): a function or table of that file."""
    named = re.findall(r"`([\w/]+\.py)` \(`(\w+)`\)", prose())
    assert len(named) > 4
    for path, name in named:
        assert name in names_of(path), f"{path} has no {name}"


def names_of(path: str) -> set[str]:
    """What a file defines at its top."""
    found: set[str] = set()
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
                found.add(name)
            case _:
                pass
    return found


def test_the_table_of_stages_is_true() -> None:
    """Each stage's type is a class of the project, and its folder has the functions that make it."""
    table = re.findall(
        r"^\| (\d) \| `(\w+)` \| (.+?) \| .* \| `([\w/]+)` \|$", prose(), re.MULTILINE
    )
    assert [number for number, *_ in table] == [str(n) for n in range(1, 9)]
    classes = {
        name
        for tree in ("miras_dsl", "codegen")
        for path in (ROOT / tree).rglob("*.py")
        for name in names_of(path.relative_to(ROOT).as_posix())
    }
    for _, type_, makers, folder in table:
        assert type_ in classes
        inside = set[str]().union(
            *(names_of(p.relative_to(ROOT).as_posix()) for p in (ROOT / folder).rglob("*.py"))
        )
        assert set(re.findall(r"`(\w+)`", makers)) <= inside, folder


def test_the_table_of_nodes_is_complete() -> None:
    """Every operation has a row, and nothing else has."""
    table = prose().partition("| node | means |")[2].partition("\n\n")[0]
    first = " ".join(row.split(" | ")[0] for row in table.splitlines())
    named = set(re.findall(r"`([A-Z]\w+)`", first))
    classes = {x for x in vars(ir).values() if isinstance(x, type)}
    assert named == {x.__name__ for x in classes if issubclass(x, ir.Node)} - {"Node"}
