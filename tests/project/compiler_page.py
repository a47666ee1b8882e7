"""The parts of `docs/compiler.md` that the compiler itself writes: printed stages and maps of files.

A part stands between `<!-- stage: NAME -->` or `<!-- map: NAME -->` and `<!-- end -->`.  `make docs`
writes all of them anew; `tests/project/test_compiler_page.py` compares.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from miras_dsl.check import read
from miras_dsl.codegen.explain import explain
from miras_dsl.codegen.pipeline import CompiledMemory, RenderedModule, compile_file
from miras_dsl.codegen.plan.print_plan import print_plan
from miras_dsl.ir import axis_names
from miras_dsl.ir.notation.printer import Printer
from miras_dsl.ir.notation.style import TEXT
from miras_dsl.source import Source

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "compiler.md"
SPEC = ROOT / "specs" / "gated_deltanet.mem"
PART = re.compile(r"(<!-- (stage|map): (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)

FOLDERS = {
    "benchmarks": "Times and errors on a CPU and on a GPU, each with the script that measures it.",
    "docs": "Pages for people who work on the compiler, read a certificate or train a model.",
    "examples": "Scripts to copy from; each runs as it is.",
    "miras_dsl/errors": "One page for each diagnostic: what is wrong, a failing file, a mended one.",
    "specs/std": "The library of biases, retentions, algorithms and networks, as `.mem` text.",
    "templates/torch": "Frames of a memory, its module, layers and models in PyTorch.",
    "templates/triton": "Frames of the token-by-token kernels, forward and backward.",
    "tests": "What every test shares: options, threads, a cache of its own.",
    "tests/judge": "The oracle, certificates, planted faults, and random specs through it all.",
    "tests/judge/kept": "Random specs that once failed.",
    "tests/judge/random_specs": "The generator of random specs.",
    "tests/kernels": "Triton text: in Triton's interpreter, cross-compiled, and its scalar functions.",
    "tests/language": "What a `.mem` text means, and what is said about a wrong one.",
    "tests/language/messages": "The expected message of every diagnostic.",
    "tests/meaning": "Nodes, programs, passes, derivations and plans, in the float64 interpreter.",
    "tests/module": "Generated layers and models, against what their formulas mean.",
    "tests/papers": "Shipped specs against recurrences written from the papers.",
    "tests/papers/layers": "Whole layers written from the papers.",
    "tests/papers/loops": "Token loops written from the papers.",
    "tests/project": "Command line, documents, packaging, layering and sizes of files.",
    "tests/text": "Expected text of some stages, word for word.",
    "tests/text/golden/code": "Expected generated functions.",
    "tests/text/golden/law": "Expected equations in the docstring of a generated memory.",
    "tests/text/golden/plan": "Expected printed plans.",
    "tests/text/golden/rule": "Expected printed update rules.",
    "tests/train": "Training runs: data, checkpoints, logs, interruptions.",
}
"""One line for each folder that has no `__init__.py` to say it."""
TREES = (
    "miras_dsl", "codegen", "runtime", "templates", "specs", "tests", "benchmarks", "docs",
    "examples",
)  # fmt: skip
STAGE_ORDER = ("", "model", "derive", "inner_step", "passes", "analysis", "plan", "emit")
"""Folders of codegen in the order of the stages; any other one comes last."""


@cache
def module() -> RenderedModule:
    """The gated delta rule through all stages, kernels included."""
    return compile_file(read(Source(SPEC.name, SPEC.read_text(encoding="utf-8"))), kernels=True)


def memory() -> CompiledMemory:
    """Its only memory."""
    (found,) = module().memories.values()
    return found


# ------------------------------------------------------------ printed stages


def explained(stage: str) -> str:
    """What `miras explain --stage` prints, without its heading."""
    text = explain(read(Source(SPEC.name, SPEC.read_text(encoding="utf-8"))), stage=stage)
    return "\n".join(text.splitlines()[2:])


def inputs() -> str:
    """The table of inputs and states of stage 3."""
    lines = []
    for feed in memory().model.inputs:
        words = f"{feed.name}[{', '.join(axis_names(feed.axes))}]".ljust(14)
        of = f"the logarithm of `{feed.of}`, " if feed.log else ""
        lines.append(f"{words}{feed.kind}, {of}from {feed.range.low} to {feed.range.high}")
    for state in memory().model.weights:
        words = f"{state.name}[{', '.join(axis_names(state.axes))}]".ljust(14)
        lines.append(f"{words}carried, starts {state.init}")
    return "\n".join(lines)


def affine() -> str:
    """Each new state as kept states plus rank-one writes."""
    text = Printer(TEXT, {}).text
    lines = []
    for state, update in memory().rule.affine:
        lines.append(f"{state.name}' = Φ({', '.join(s.name for s, _ in update.keep)}) + Σ u xᵀ")
        lines += [f"  keep  {text(factor)} * {kept.name}" for kept, factor in update.keep]
        for write in update.writes:
            lines.append(f"  u     {text(write.scale)} * ({text(write.u)})")
            lines += [f"  x     {text(write.x)}"] if write.x is not None else []
    return "\n".join(lines)


def family() -> str:
    """The class of the rule, why it is in it, and what it costs: the end of the summary."""
    blocks = explained("summary").split("\n\n")
    return "\n\n".join(block for block in blocks if block.startswith(("class", "cost")))


def plan() -> str:
    """The plan of the torch text without its backward half and its list of buffers."""
    return _without(print_plan(memory().plan), ("backward", "buffers"))


def token_plan() -> str:
    """The plan of the token-by-token kernels, shortened in the same way."""
    found = memory().kernel_plan
    assert found is not None
    return _without(print_plan(found), ("backward", "buffers"))


def torch_text() -> str:
    """The generated functions of the forward pass: from the first to the one before the backward."""
    text = module().text
    start = text.index("@runner.returns")
    end = text.rindex("@runner.returns", 0, text.index("_back_before("))
    return text[start:end].strip()


def triton_text() -> str:
    """The loop over tokens of the forward kernel."""
    lines = module().text.splitlines()
    start = lines.index("    for t in range(0, length):")
    end = next(n for n in range(start + 1, len(lines)) if not lines[n].startswith("        "))
    return "\n".join(line[4:] for line in lines[start:end])


def _without(text: str, titles: tuple[str, ...]) -> str:
    """A printed plan without the sections of these titles; a title has no indentation."""
    kept, skipping = [], False
    for line in text.splitlines():
        if not line.startswith(" "):
            skipping = line in titles
        if not skipping:
            kept.append(line)
    return "\n".join(kept)


STAGES: Mapping[str, Callable[[], str]] = {
    "text": lambda: SPEC.read_text(encoding="utf-8").strip(),
    "spec": lambda: explained("spec"),
    "inputs": inputs,
    "layer": lambda: explained("layer"),
    "gradient": lambda: explained("gradient"),
    "update": lambda: explained("update"),
    "affine": affine,
    "chunk": lambda: explained("chunk"),
    "family": family,
    "adjoint": lambda: explained("adjoint"),
    "plan": plan,
    "token_plan": token_plan,
    "torch": torch_text,
    "triton": triton_text,
}
"""Printed stages by name, and what prints them."""


# ------------------------------------------------------------ maps


def folders() -> list[str]:
    """Every folder that holds files, as a path from the root; links are not followed."""
    found = []
    for tree in TREES:
        for place, inner, names in os.walk(ROOT / tree):
            inner[:] = sorted(
                d
                for d in inner
                if not d.startswith((".", "__pycache__")) and not (Path(place) / d).is_symlink()
            )
            if any(not name.startswith(".") for name in names):
                found.append(Path(place).relative_to(ROOT).as_posix())
    return found


def codegen_files() -> list[str]:
    """Every file of the compiler but `__init__.py`, as a path from the root."""
    paths = sorted((ROOT / "codegen").rglob("*.py"))
    return [p.relative_to(ROOT).as_posix() for p in paths if p.name != "__init__.py"]


def first_line(path: Path) -> str:
    """What the docstring of a file begins with: its first line, or paragraph if that goes on."""
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = said.partition("\n\n")[0]
    line = paragraph.partition("\n")[0]
    whole = line if line.endswith(".") else " ".join(paragraph.split())
    return re.sub(r"  +", " ", whole).replace("|", r"\|")


def folder_line(folder: str) -> str:
    """What is in a folder: its package's docstring, else `FOLDERS`; "" if neither says it."""
    package = ROOT / folder / "__init__.py"
    return first_line(package) if package.exists() else FOLDERS.get(folder, "")


def folder_map() -> str:
    """A row for each folder."""
    rows = [f"| `{folder}/` | {folder_line(folder)} |" for folder in folders()]
    return "\n".join(["| folder | what is in it |", "|---|---|", *rows])


def codegen_map() -> str:
    """A row for each file of the compiler, folders in the order of the stages."""
    rows, last = [], None
    for path in sorted(codegen_files(), key=_stage_place):
        folder = path.rpartition("/")[0]
        if folder != last:
            rows.append(f"| **`{folder}/`** | **{folder_line(folder)}** |")
            last = folder
        rows.append(f"| `{path}` | {first_line(ROOT / path)} |")
    return "\n".join(["| file | what is in it |", "|---|---|", *rows])


def _stage_place(path: str) -> tuple[int, str, str]:
    """Folders in the order of the stages, files by name."""
    folder, _, name = path.rpartition("/")
    top = folder.removeprefix("codegen").strip("/").partition("/")[0]
    place = STAGE_ORDER.index(top) if top in STAGE_ORDER else len(STAGE_ORDER)
    return place, folder, name


MAPS: Mapping[str, Callable[[], str]] = {"folders": folder_map, "codegen": codegen_map}


# ------------------------------------------------------------ the page


def part(kind: str, name: str) -> str:
    """What stands between the markers of a part."""
    if kind == "map":
        return f"\n{MAPS[name]()}\n\n"
    # Not `python`: ruff would format it, and test_documents.py would run it.
    return f"```text\n{STAGES[name]()}\n```\n"


def written(text: str) -> dict[tuple[str, str], str]:
    """The parts of a page by kind and name, as they stand there."""
    return {(kind, name): body for _, kind, name, body, _ in PART.findall(text)}


def renewed(text: str) -> str:
    """A page with every part written anew."""
    return PART.sub(lambda m: m[1] + part(m[2], m[3]) + m[5], text)


if __name__ == "__main__":
    before = PAGE.read_text(encoding="utf-8")
    after = renewed(before)
    PAGE.write_text(after, encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {'written anew' if after != before else 'as it was'}")
