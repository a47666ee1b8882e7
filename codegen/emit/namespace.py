"""What a generated module calls its classes and functions, so that no two of them meet.

A spec tells names apart that are one name in lower case (`AB`, `Ab`), and a memory's function may
be called as another's part (`Foo`'s reverse walk, `FooBack`'s walk).  One table for each file gives
every class its name and every memory a prefix of its own.
"""

from __future__ import annotations

import builtins
import dis
import keyword
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from miras_dsl.spec import FileSpec

from .identifiers import RESERVED, identifier, snake_case

FUNCTIONS = ("token", "block_start", "block_start_back", "block_end", "block_end_back")
"""Straight functions of a memory."""
WALKS = (
    *("before", "before_forward", "loop", "next_state", "after", "answer"),
    *("back_before", "back_loop", "back_after"),
)
"""The regions of its chunk program, and of the adjoint of that."""
ENTRIES = ("memory", "step", "forward", "backward")
"""What is called from outside, and the Triton kernels."""
ROWS = re.compile(r"(_(?:row|part)\d+)+\Z")
"""The end of the name of a substitution's body, and of a part that functions share."""


@dataclass(frozen=True, slots=True)
class FileNames:
    """Names of one generated module.

    classes   the class of each memory, layer and model
    prefixes  what the functions of each memory begin with
    """

    classes: Mapping[str, str] = field(default_factory=dict)
    prefixes: Mapping[str, str] = field(default_factory=dict)

    def class_of(self, name: str) -> str:
        """The class of a memory, layer or model; its own name where it is printed alone."""
        return self.classes.get(name) or identifier(name)

    def prefix_of(self, name: str) -> str:
        """The prefix of a memory's functions; its own name where it is printed alone."""
        return self.prefixes.get(name) or snake_case(name)


def file_names(spec: FileSpec) -> FileNames:
    """Names for everything in a file, in its order; the first to ask for a name has it."""
    classes = _classes([*spec.memories, *spec.layers, *spec.models])
    used = {*RESERVED, *dir(builtins), *keyword.kwlist, *map(strip_row_number, classes.values())}
    prefixes: dict[str, str] = {}
    for name in spec.memories:
        made, count = snake_case(name), 1
        while reserved_names(made) & used:
            count += 1
            made = f"{snake_case(name)}_{count}"
        prefixes[name] = made
        used |= reserved_names(made)
    return FileNames(classes, prefixes)


def reserved_names(prefix: str) -> frozenset[str]:
    """Every name that a memory may have at the top of a module; numbered rows count as one.

    What nothing outside calls begins with `_`: its constant, its kernels' table, its rows.
    """
    called = (f"{prefix}_{part}" for part in (*FUNCTIONS, *WALKS, *ENTRIES))
    own = {f"_{prefix}", f"_{prefix}_kernels", f"_{prefix}_op", f"_{prefix}_row"}
    return frozenset(own.union(called))


def unreserved(text: str, prefix: str) -> set[str]:
    """Top-level names of a memory's text that its prefix does not give it."""
    return {strip_row_number(name) for name in top_level(text)} - reserved_names(prefix)


def assert_defined_once(text: str) -> str:
    """A module's text as it is, once it is known that it defines each name once.

    AssertionError otherwise: the later definition would silently stand in for the earlier one.
    """
    twice = sorted(name for name, count in Counter(top_level(text)).items() if count > 1)
    if twice:
        raise AssertionError(f"the generated module defines {', '.join(twice)} more than once")
    return text


def top_level(text: str) -> list[str]:
    """What a module defines, assigns or imports at its top level, as often as it does.

    Read off the compiled module, which stores each such name once.  Not off `ast.parse`: in Python
    3.11 its trees share one counter, and two threads that build trees at once make it raise
    SystemError.
    """
    code = compile(text, "<generated>", "exec")
    stores = (step.argval for step in dis.get_instructions(code) if step.opname == "STORE_NAME")
    return [name for name in stores if name != "__doc__"]


def _classes(names: list[str]) -> dict[str, str]:
    """Names as they are; those that generated code needs for itself with `_` after them."""
    made: dict[str, str] = {}
    for name in names:
        word = identifier(name)
        while word != name and word in {*names, *made.values()}:
            word += "_"
        made[name] = word
    return made


def strip_row_number(name: str) -> str:
    """A name with the numbers of its rows taken off."""
    return ROWS.sub("_row", name)
