"""Generated classes through pickle: as the `.mem` text that they were made from, never as code.

A generated module is no package that another process could import.  What is pickled of a class is the
text of its spec and the SHA-256 of the generated module; whoever reads the pickle finds that module
in its cache, or compiles the text and compares the hashes.  So a pickle of ours brings data, and what
runs is what this user's compiler has written.
"""

from __future__ import annotations

import copyreg
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from miras_dsl.check import read
from miras_dsl.codegen.pipeline import compile_file
from miras_dsl.exceptions import EnvironmentFailure
from miras_dsl.runtime.layers.generated_module import GeneratedClass
from miras_dsl.source import Source

from . import cache


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a generated module was made from; ``digest`` is that of its text."""

    source: Source
    kernels: bool
    digest: str


_recipes: dict[str, Recipe] = {}
"""By the name of the module in this process."""


class UnpicklingError(EnvironmentFailure):
    """A pickled class cannot be had here, in one sentence with a way out."""


def remember(module: ModuleType, source: Source, kernels: bool, path: Path) -> None:
    """Let the classes of a module that was generated from ``source`` be pickled."""
    _recipes.setdefault(module.__name__, Recipe(source, kernels, path.parent.name))


def generated_class(name: str, text: str, kernels: bool, digest: str, cls: str) -> type[nn.Module]:
    """A class that was pickled: from the cache, else compiled from the text of its spec.

    name, text  of the spec; kernels: whether the module holds Triton kernels
    digest      SHA-256 of the generated module: nothing else is imported
    cls         the name of the class in it

    Raises UnpicklingError where this version of miras_dsl generates another module from the text.
    """
    if not (
        all(isinstance(x, str) for x in (name, text, digest, cls))
        and re.fullmatch("[0-9a-f]{64}", digest)
    ):
        raise UnpicklingError("this pickle holds no class that miras_dsl has written")
    source = Source(name, text)
    path = cache.root() / digest / cache.FILE
    try:
        cache.verified(path)
    except cache.DamagedEntry:
        rendered = compile_file(read(source), bool(kernels))
        if cache.digest(rendered.text) != digest:
            raise UnpicklingError(
                f"{cls} of {name} was pickled by another version of miras_dsl, which generated "
                "another module: save its state_dict() there, and load that into the class that "
                "`miras_dsl.load` gives here"
            ) from None
        path = cache.put(rendered.text)
    module = cache.import_module(path)
    remember(module, source, bool(kernels), path)
    found = vars(module).get(cls)
    if not isinstance(found, GeneratedClass) or found.__module__ != module.__name__:
        raise UnpicklingError(f"{name} defines no class {cls!r:.80}")
    return found  # type: ignore[return-value]


def _reduced(cls: type) -> str | tuple[Any, ...]:
    """What pickle writes for a class: a call of `generated_class`, or its name if a file defines it."""
    recipe = _recipes.get(cls.__module__)
    if recipe is None:
        return cls.__qualname__
    source = recipe.source
    given = (source.name, source.text, recipe.kernels, recipe.digest, cls.__name__)
    return generated_class, given


copyreg.pickle(GeneratedClass, _reduced)  # type: ignore[arg-type]
