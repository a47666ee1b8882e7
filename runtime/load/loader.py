"""From text to classes: compile a `.mem` file, put the module into the cache, import it.

Nothing is executed from a string: the generated module is a file whose hash is checked, and which
a reader can open (`Library.path`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from os import PathLike
from pathlib import Path
from types import ModuleType

import sympy as sp
import torch
from torch import Tensor, nn

from miras_dsl.check import read
from miras_dsl.check import warnings as concerns
from miras_dsl.codegen.derive.update import UpdateRule
from miras_dsl.codegen.model.inputs import window_inputs
from miras_dsl.codegen.model.types import MemoryInput
from miras_dsl.codegen.pipeline import CompiledMemory, RenderedModule, compile_file
from miras_dsl.exceptions import SpecWarning
from miras_dsl.ir import axis_names
from miras_dsl.runtime.execute.packed import Packed, batch_rows
from miras_dsl.runtime.kernels.recurrent import supported
from miras_dsl.runtime.layers.conv_state import upcast
from miras_dsl.runtime.layers.state_tree import State
from miras_dsl.runtime.ops.tensor_ops import log_gate
from miras_dsl.source import Source, escaped
from miras_dsl.spec import FileSpec, MemorySpec

from . import cache, pickling


@dataclass(frozen=True, slots=True)
class LoadedModule:
    """The memories, layers and models of a file as classes: `library.Robust(width=768, heads=12)`.

    spec         what the file means
    source_text  the text it was made from
    text         the generated module
    digest       of the meaning: equal for two files that say the same
    path         where the generated module lies
    source_name  the name of the file, or `<string>`
    """

    spec: FileSpec
    source_text: str
    text: str
    digest: str
    path: Path
    classes: Mapping[str, type[nn.Module]]
    source_name: str = "<string>"

    def __reduce__(self) -> tuple[object, ...]:
        # As the text that it was made from: another process compiles it, or has it in its cache.
        return load, (Source(self.source_name, self.source_text),)

    def __getattr__(self, name: str) -> type[nn.Module]:
        if name.startswith("__") or name not in self.classes:
            raise AttributeError(f"this file defines no {name}; it has {', '.join(self.classes)}")
        return self.classes[name]

    def __getitem__(self, name: str) -> type[nn.Module]:
        """A class by name, also where the name is one of this object's own."""
        return self.classes[name]

    def __repr__(self) -> str:
        kinds = {"memories": self.spec.memories, "layers": self.spec.layers}
        kinds["models"] = self.spec.models
        held = [f"{kind} {', '.join(names)}" for kind, names in kinds.items() if names]
        return f"Library({'; '.join([*held, f'digest {self.digest[:12]}'])})"

    def __dir__(self) -> list[str]:
        return [*object.__dir__(self), *self.classes]


def load(path_or_text: str | PathLike[str] | Source) -> LoadedModule:
    """Everything that a file defines.

    A `Source` is taken as it is; a path, or a string of one line without braces, names a file;
    anything else is the text itself.  Raises `diagnostics.SpecErrors` for a wrong spec, OSError for
    a file that cannot be read, `cache.CacheError` where the module cannot be written.
    """
    if isinstance(path_or_text, Source):
        return _load(path_or_text)
    written = isinstance(path_or_text, str) and ("\n" in path_or_text or "{" in path_or_text)
    if written:
        return _load(Source("<string>", str(path_or_text)))
    return _load(Source(str(path_or_text), Path(path_or_text).read_text(encoding="utf-8-sig")))


@lru_cache(maxsize=32)
def _load(source: Source) -> LoadedModule:
    spec = read(source)
    for concern in concerns(spec):
        said = (
            f"{concern.at.span.place}: {escaped(concern.what)}; more: miras explain {concern.code}"
        )
        warnings.warn(said, SpecWarning, stacklevel=4)
    kernels = _kernels_here()
    rendered, path = generate(spec, kernels)
    module = cache.import_module(path)
    pickling.remember(module, source, kernels, path)
    classes = {name: getattr(module, made) for name, made in rendered.names.classes.items()}
    return LoadedModule(
        spec, source.text, rendered.text, rendered.digest, path, classes, source.name
    )


def generate(spec: FileSpec, kernels: bool) -> tuple[RenderedModule, Path]:
    """The module of a file, and where it lies."""
    rendered = compile_file(spec, kernels)
    return rendered, cache.put(rendered.text)


Run = Callable[..., tuple[Tensor, State]]
"""(inputs, state, cu_seqlens=None, attention_mask=None) -> (y, state), named as the oracle names them."""


def _kernels_here() -> bool:
    """Whether kernels can run on this machine at all."""
    return supported("cuda" if torch.cuda.is_available() else "cpu", torch.float32)


def implementations(
    spec: FileSpec, kernels: bool = False
) -> dict[str, tuple[CompiledMemory, Callable[[Mapping[str, int]], Run], type[nn.Module]]]:
    """Every memory of a file by name, its function by sizes, and its class as a layer, from the module
    of the whole file."""
    rendered, path = generate(spec, kernels)
    module = cache.import_module(path)
    return {
        name: (
            memory,
            partial(with_sizes, memory, module),
            getattr(module, rendered.names.classes[name]),
        )
        for name, memory in rendered.memories.items()
    }


def implementation(spec: MemorySpec, sizes: Mapping[str, int], kernels: bool = False) -> Run:
    """The generated code of one memory as a function of its leaves, to be judged.

    kernels  with the memory's Triton kernels, as `load` makes it where they can run

    inputs  every token and gate by name, [B, T, H, *axes]; a gate per row once per weight, as
            `alpha.W1`; constants [H, *axes]; gates per position [H, block]
    state   by name, [B, H, *axes]; None starts at zero where the spec does
    """
    return with_sizes(*compiled(spec, kernels), sizes)


@lru_cache(maxsize=64)
def compiled(spec: MemorySpec, kernels: bool = False) -> tuple[CompiledMemory, ModuleType]:
    """A memory through all stages, and the module of it alone."""
    rendered = compile_file(FileSpec({spec.name: spec}, {}, {}), kernels)
    module = cache.import_module(cache.put(rendered.text))
    return rendered.memories[spec.name], module


def with_sizes(memory: CompiledMemory, module: ModuleType, sizes: Mapping[str, int]) -> Run:
    """The functions that a module has for a memory, with the oracle's names and order of axes."""
    function, step = (getattr(module, f"{memory.prefix}_{way}") for way in ("memory", "step"))
    return as_oracle_function(memory.spec, memory.rule, sizes, function, step)


def as_oracle_function(
    spec: MemorySpec,
    rule: UpdateRule,
    sizes: Mapping[str, int],
    function: Callable[..., tuple[Tensor, State]],
    step: Callable[..., tuple[Tensor, State]] | None = None,
) -> Run:
    """A memory's function, and its step if it has one, as the oracle would be called."""
    missing = {name for name, default in spec.params if default is None} - sizes.keys()
    if missing:
        raise ValueError(f"{spec.name} needs the size {', '.join(sorted(missing))}")
    timed = {feed.name for feed in rule.inputs if feed.kind in ("token", "gate")}
    written = {s.name: s.axes for s in spec.states}
    declared = {w.name: written[w.of] for w in rule.state_tensors}
    turned = {s.name: _places(declared[s.name], axis_names(s.axes)) for s in rule.states}
    back = {s.name: _places(axis_names(s.axes), declared[s.name]) for s in rule.states}

    def first(like: Tensor, count: int) -> State:
        blank = upcast(like.new_empty(0))
        extents = {axis: _extent(size, sizes) for axis, size in spec.sizes}
        state: State = {}
        for weight in rule.state_tensors:
            kind = next(s.init for s in spec.states if s.name == weight.of)
            if (kind if weight.init == "weight" else weight.init) != "zero":
                raise ValueError(f"{weight.name} starts at a learned value: a state is needed")
            shape = [extents[axis] for axis in declared[weight.name]]
            state[weight.name] = blank.new_zeros(count, like.shape[2], *shape)
        if spec.algorithm.anchored is not None or spec.algorithm.reset:
            state["position"] = blank.new_zeros(count, dtype=torch.int64)
        for name in window_inputs(spec):
            axes = next(axis_names(f.axes) for f in rule.inputs if f.name == name)
            past = [count, spec.algorithm.window[0] - 1, like.shape[2], *(extents[a] for a in axes)]
            state[f"window.{name}"] = blank.new_zeros(past)
        return state

    def run(
        inputs: Mapping[str, Tensor],
        state: State | None,
        cu_seqlens: Packed = None,
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        fed = {feed.name: _leaf(feed, inputs) for feed in rule.inputs}
        token = next(inputs[t.name] for t in spec.tokens if t.name in inputs)
        state = first(token, batch_rows(token, cu_seqlens)) if state is None else state
        state = {name: _turn(value, turned.get(name)) for name, value in state.items()}
        whole = cu_seqlens is None and attention_mask is None
        if step is not None and whole and _decoding(token):
            one = {name: x[:, 0] if name in timed else x for name, x in fed.items()}
            y, after = step(**one, state=state)
            y = y.unsqueeze(1)
        else:
            y, after = function(
                **fed, state=state, cu_seqlens=cu_seqlens, attention_mask=attention_mask
            )
        return y, {name: _turn(value, back.get(name)) for name, value in after.items()}

    return run


def _decoding(token: Tensor) -> bool:
    """Whether a call is one step of decoding: a single token, and no gradient wanted."""
    return token.shape[1] == 1 and not torch.is_grad_enabled()


def _extent(size: sp.Expr, sizes: Mapping[str, int]) -> int:
    given = {symbol: sizes[symbol.name] for symbol in size.free_symbols}  # type: ignore[attr-defined]
    return int(size.subs(given))  # type: ignore[arg-type]


def _leaf(feed: MemoryInput, inputs: Mapping[str, Tensor]) -> Tensor:
    value = inputs[feed.of if feed.weight is None else f"{feed.of}.{feed.weight}"]
    return log_gate(value) if feed.log else value


def _places(have: tuple[str, ...], want: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(have.index(axis) for axis in want)


def _turn(value: Tensor, places: tuple[int, ...] | None) -> Tensor:
    if places is None or places == tuple(range(len(places))):
        return value
    return value.permute(0, 1, *(2 + place for place in places))
