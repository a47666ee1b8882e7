"""Writes specs/README.md: the choices of every shipped memory, and what they come to.

python -m tests.project.specs_page
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

from miras_dsl.check import read
from miras_dsl.codegen.card.card import card_of
from miras_dsl.codegen.pipeline import compile_file
from miras_dsl.source import Source

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "specs" / "README.md"
CLAUSES = ("architecture", "bias", "retention", "algorithm", "order")
HEAD = """# Shipped memories

Each by its name: `miras check kda`, `miras.load("kda")`. The columns after the memory are its choices as
the file writes them, then what the compiler makes of them: the class of its chunk form, the numbers that
it carries for one head, and how many steps of 1,024 tokens wait for one another.

This page is written by `make docs`.

"""
COLUMNS = ("file", "memory", *CLAUSES[:4], "class", "carried", "steps", "paper")


def rows() -> list[str]:
    """A row for each memory, files in the order of their names."""
    made = []
    for path in sorted((ROOT / "specs").glob("*.mem")):
        text = path.read_text(encoding="utf-8")
        spec = read(Source(path.name, text))
        for name, compiled in compile_file(spec).memories.items():
            card = card_of(compiled)
            own = clauses(text, name)
            cells = [f"`{path.stem}`", name, *(f"`{own[word]}`" for word in CLAUSES[:4])]
            cells += [card.family, card.state_numbers, f"{card.depth.steps:,}", paper(text)]
            made.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return made


def clauses(text: str, memory: str) -> dict[str, str]:
    """The clauses of a memory as they are written, each on one line."""
    body = text[text.index(f"memory {memory}(") :].split("\nlayer ")[0].split("\nmemory ")[0]
    found = {}
    for word, after in pairwise(CLAUSES):
        ends = rf"\n\s+(?:{after}|bias|retention|algorithm|order)\b"
        match = re.search(rf"\n\s+{word}\s+(.*?)(?={ends})", body, re.DOTALL)
        assert match is not None, f"{memory} has no {word}"
        found[word] = " ".join(match[1].split())
    return found


def paper(text: str) -> str:
    """The papers that the comments name."""
    numbers = dict.fromkeys(re.findall(r"arXiv (\d{4}\.\d{5})", text))
    links = [f"[{number}](https://arxiv.org/abs/{number})" for number in numbers]
    return ", ".join(links) or "none"


def page() -> str:
    """The whole page."""
    head = "| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|\n"
    return HEAD + head + "\n".join(rows()) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: written anew")
