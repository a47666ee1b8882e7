"""The twin of a spec: the same memories with every name changed and no word of the library left.

Names get new ones in the opposite order of the alphabet, and definitions of the library stand in the
file under new names, with new names for their parameters.
"""

from __future__ import annotations

import re
from pathlib import Path

from miras_dsl.check import read
from miras_dsl.source import Source
from miras_dsl.spec import MemorySpec

STANDARD = Path(__file__).resolve().parents[2] / "specs" / "std"
CLAUSES = ("bias", "retention", "algorithm")
OTHERS = ("tokens", "architecture", "order", "read", "gates")
GIVEN = {"query", "key", "value", "r"}


def library() -> dict[tuple[str, str], str]:
    """The text of every definition of the library, by clause and name."""
    found = {}
    for path in sorted(STANDARD.glob("*.mem")):
        text = re.sub(r"#.*\n", "", path.read_text(encoding="utf-8"))
        for part in re.split(r"^(?=\w)", text, flags=re.MULTILINE):
            if (head := re.match(r"(\w+) (\w+)", part)) and head[1] in CLAUSES:
                found[head[1], head[2]] = part.strip()
    return found


def renamed(text: str, names: dict[str, str]) -> str:
    """The text with whole words replaced."""
    return re.sub(r"\w+", lambda word: names.get(word[0], word[0]), text)


def other_names(names: set[str], prefix: str) -> dict[str, str]:
    """A new name for each, in the opposite order."""
    return {name: f"{prefix}{99 - i}" for i, name in enumerate(sorted(names))}


def definition(clause: str, name: str) -> str:
    """A definition of the library as `other_…`, with new names for its parameters and what it carries.

    The rate stays `eta`: under this name a penalty knows it.
    """
    text = library()[clause, name]
    head = re.match(r"\w+ \w+(?:\(([^)]*)\))?", text)
    assert head
    parameters = set(re.findall(r"(\w+)(?: = [\w/ ]+)?(?:,|$)", head[1] or "")) - GIVEN
    carried = set(re.findall(r"carry (\w+)", text))
    names = other_names((parameters | carried) - {"eta"}, "given")
    given = f"({renamed(head[1], names)})" if head[1] else ""
    return f"{clause} other_{name}{given}{renamed(text[len(head[0]) :], names)}"


def names_of(spec: MemorySpec) -> set[str]:
    """What the author of a memory has named, but for the tokens that every memory has."""
    named = {x.name for x in (*spec.tokens, *spec.gates, *spec.terms)} | set(spec.algorithm.carry)
    named |= {name for name, _ in spec.params}
    return {name for name in named - GIVEN if re.match(r"[A-Za-z]", name) and "." not in name}


def weights_of(body: str) -> set[str]:
    """The weights that a memory declares itself, and not by a word of the library."""
    return set(re.findall(r"(\w+): (?:matrix|vector|number)\b", body))


def twin_of(text: str) -> str:
    """The twins of all memories of a text, each called `Other…`."""
    specs = read(Source("spec.mem", text)).memories
    found: list[str] = []
    for name, body in re.findall(r"^memory (\w+)(.*?^})", text, re.MULTILINE | re.DOTALL):
        names = other_names(names_of(specs[name]), "name")
        weights = other_names(weights_of(body), "weight")
        lines, within = [], ""
        for line in body.splitlines():
            clause, *rest = line.split(maxsplit=1)
            word = re.match(r"\w+", rest[0]) if rest else None
            if clause in CLAUSES and word and (clause, word[0]) in library():
                found.append(definition(clause, word[0]))
                line = line.replace(word[0], f"other_{word[0]}", 1)
            within = clause if clause in (*CLAUSES, *OTHERS) else within
            # In rules for every weight, W is a word of the language.
            generic = within == "algorithm" and not specs[name].algorithm.by_weight
            lines.append(renamed(line, names if generic else names | weights))
        found.append(f"memory Other{name}" + "\n".join(lines))
    return "\n".join(dict.fromkeys(found)) + "\n"
