"""miras_dsl: from a memory written as text to a certified `torch.nn.Module`.

    import miras_dsl as miras
    Robust = miras.load("robust.mem").Robust
    y, state = Robust(width=768, heads=12)(x)

Importing this package is quick: sympy, jinja2 and torch are imported on first use.
"""

from __future__ import annotations

from collections.abc import Collection
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from .exceptions import EnvironmentFailure, SpecWarning, UsageError
from .source import Source, escaped
from .spec_file import read_file

if TYPE_CHECKING:
    from torch import Tensor

    from miras_dsl.codegen.pipeline import RenderedModule
    from miras_dsl.runtime.judge.certificate import Certificate
    from miras_dsl.runtime.layers.state_tree import State
    from miras_dsl.runtime.load.loader import LoadedModule

    from .diagnostics import SpecErrors
    from .spec import FileSpec

__version__ = "0.1.0"
__all__ = [
    "EnvironmentFailure",
    "Source",
    "SpecErrors",
    "SpecWarning",
    "certify",
    "compile",
    "detach",
    "explain",
    "find",
    "is_code",
    "load",
    "load_state",
    "parse",
    "save_state",
    "shipped",
    "state_rows",
]  # fmt: skip


def find(path_or_text: str | PathLike[str] | Source) -> Source:
    """A `.mem` file, or `.mem` text, as a named source.

    A `Path`, or a string of one line without braces, names a file or a shipped memory (`yaad`); any
    other string is the text itself.  Raises EnvironmentFailure for a file that cannot be read, and
    UsageError for an empty text.
    """
    if isinstance(path_or_text, Source):
        return path_or_text
    if isinstance(path_or_text, str):
        path_or_text = path_or_text.removeprefix("\ufeff")
        if "\n" in path_or_text or "{" in path_or_text:
            return Source("<string>", path_or_text)
        if not path_or_text.strip():
            raise UsageError("an empty text names no memory; give a file, or the text of a spec")
    path, name = Path(path_or_text), str(path_or_text)
    if not path.exists() and (text := shipped(name)) is not None:
        return Source(f"{name}.mem", text)
    return read_file(path, name)


def shipped(name: str) -> str | None:
    """The text of a shipped memory, such as ``yaad``; None if there is none of this name."""
    if Path(name).name != name or Path(name).suffix:
        return None
    from importlib.resources import files

    file = files("miras_dsl.specs").joinpath(f"{name}.mem")
    return file.read_text(encoding="utf-8") if file.is_file() else None


def parse(path_or_text: str | PathLike[str] | Source) -> FileSpec:
    """What a `.mem` file means.  Raises `SpecErrors` with every mistake found."""
    from .check import read

    return read(find(path_or_text))


def compile(path_or_text: str | PathLike[str] | Source) -> RenderedModule:
    """The generated Python module as text, with its digest and every stage of every memory.

    The text holds Triton kernels; without a GPU or without Triton it runs without them.  Raises
    `SpecErrors`.
    """
    spec = parse(path_or_text)
    from miras_dsl.codegen.pipeline import compile_file

    return compile_file(spec, kernels=True)


def load(path_or_text: str | PathLike[str] | Source) -> LoadedModule:
    """The memories, layers and models of a `.mem` file as `torch.nn.Module` classes.

    Warns (`SpecWarning`), once per text, of what is probably not meant.  Raises `SpecErrors`, and
    EnvironmentFailure where the cache cannot be written.
    """
    from miras_dsl.runtime.load.loader import load as build

    return build(find(path_or_text))


def certify(
    path_or_text: str | PathLike[str] | Source,
    *,
    only: Collection[str] = (),
    dtype: str = "float32",
    device: str = "cpu",
) -> dict[str, Certificate]:
    """A certificate for each memory of a `.mem` file, or for those named in ``only``.

    The generated code is compared with autograd on the loss of the file.

    dtype   of tokens: "float32", "bfloat16", "float16" or "float64"
    device  "cpu" or "cuda"
    """
    spec = parse(path_or_text)
    from miras_dsl.runtime.load.certify_file import certify_file

    return certify_file(spec, only=only, dtype=dtype, device=device)


def explain(
    what: str | PathLike[str] | Source, *, stage: str = "summary", form: str = "text"
) -> str:
    """What was derived from a spec; or the page of a diagnostic's code, such as ``M0101``.

    stage  one of `stages.Stage`
    form   "text", "latex" or "json"

    Raises `SpecErrors`, and LookupError for an unknown code.
    """
    if isinstance(what, str) and is_code(what):
        from .diagnostics import explain as page

        return page(what.upper())
    spec = parse(what)
    from miras_dsl.codegen.explain import explain

    return escaped(explain(spec, stage=stage, form=form))


def is_code(word: str) -> bool:
    """Whether a word is the code of a diagnostic, such as M0101."""
    return len(word) == 5 and word[0] in "Mm" and word[1:].isdecimal()


def detach(state: State) -> State:
    """A state without its autograd graph: what one segment of a long text hands to the next."""
    from miras_dsl.runtime.layers.state_tree import detach

    return detach(state)


def state_rows(state: State, index: Tensor) -> State:
    """The state of other rows of a batch: row n is row ``index[n]``, as a beam search needs it."""
    from miras_dsl.runtime.layers.state_tree import rows

    return rows(state, index)


def save_state(state: State, path: str | PathLike[str]) -> None:
    """Write a state to a safetensors file.  Raises EnvironmentFailure where that is not possible."""
    from miras_dsl.runtime.layers.state_tree import save

    save(state, path)


def load_state(path: str | PathLike[str], device: str = "cpu") -> State:
    """The state in a file that `save_state` wrote.

    Raises EnvironmentFailure for a file that cannot be read or holds no state.
    """
    from miras_dsl.runtime.layers.state_tree import load

    return load(path, device)


def __getattr__(name: str) -> object:
    if name == "SpecErrors":
        from .diagnostics import SpecErrors

        return SpecErrors
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
