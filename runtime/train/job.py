"""From a `.mem` file to a training run: the model around its memory, its settings, its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from miras_dsl.check import read
from miras_dsl.exceptions import UsageError
from miras_dsl.runtime.load import loader
from miras_dsl.runtime.train.run_folder.fit import other_settings
from miras_dsl.runtime.train.run_folder.place import require_folder, require_free, require_unused
from miras_dsl.source import Source, escaped
from miras_dsl.spec import FileSpec, MemorySpec, ModelSpec

from . import checkpoint, dataset
from .config import TrainConfig, TrainError, settings_of
from .device import device_here
from .loop import Outcome, train
from .time_budget import steps_for_budget

WIDTH, LAYERS, HEAD = 128, 2, 32
BYTES = 256


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options of `miras train`; None for one that was not given."""

    text: Path | None = None
    steps: int | None = None
    minutes: float | None = None
    width: int | None = None
    layers: int | None = None
    batch: int | None = None
    length: int | None = None
    rate: float | None = None
    seed: int | None = None
    keep: int | None = None
    device: str = "auto"


def run(
    source: Source, wishes: RunOptions, folder: Path, *, resume: bool, console: Console
) -> Outcome:
    """Train the model of a `.mem` file; log, checkpoint and picture go to ``folder``.

    A resumed run takes its text and every setting that is not given from its checkpoint.  ``minutes``
    has no effect then: the number of steps was fixed when the run began.  Raises SpecErrors and what
    `train` raises.
    """
    device = device_here(wishes.device)
    require_folder(folder)
    require_free(folder)
    kept = checkpoint.facts(folder / checkpoint.NAME) if resume else None
    before: Mapping[str, object] = {} if kept is None else kept.origin.config
    width, layers = wishes.width, wishes.layers
    whole = wrap_in_model(source, width=width, layers=layers)
    if kept is None:
        require_unused(folder)
    else:
        _same_model(folder / checkpoint.NAME, source, wishes, before)
        width, layers = _number(before.get("width")), _number(before.get("layers"))
        whole = wrap_in_model(source, width=width, layers=layers)

    wished = {key: getattr(wishes, key, None) for key in TrainConfig.__dataclass_fields__}
    given = {key: value for key, value in wished.items() if value is not None}
    config = TrainConfig(**(settings_of(before) | given))  # type: ignore[arg-type]
    corpus = _corpus(wishes.text, kept)
    torch.manual_seed(config.seed)
    model, _ = language_model(whole)
    # Built on the CPU: the same seed gives the same weights on every device.
    model.to(device)
    if wishes.minutes is not None and kept is None:
        config = steps_for_budget(model, corpus, config, wishes.minutes)
    elif wishes.minutes is not None:
        console.print(
            f"this run has {config.steps} steps, counted when it began; --minutes changes none"
        )
    parameters = sum(p.numel() for p in model.parameters())
    size, apart = len(corpus.train), len(corpus.held_out)
    console.print(f"{escaped(corpus.text.name)}: {size:,} bytes, {apart:,} held out")
    console.print(
        f"{parameters:,} parameters, {config.steps} steps of {config.batch} x {config.length} "
        f"on {device}"
    )
    return train(
        model,
        corpus,
        config,
        folder,
        digest=loader.load(whole).digest,
        spec=whole.text,
        settings={"width": width, "layers": layers},
        resume=resume,
        console=console,
    )


def wrap_in_model(
    source: Source, *, width: int | None = None, layers: int | None = None, vocab: int = BYTES
) -> Source:
    """The same text with a language model around its first layer, or memory, if it has none.

    Raises TrainError when there is nothing to build on, UsageError when the file's own model is asked
    to be another.
    """
    spec = read(source)
    if spec.models:
        name, model = next(iter(spec.models.items()))
        if layers is not None:
            raise UsageError(f"{source.name} has its own model {name}; --layers would change it")
        if model.vocab < vocab:
            raise TrainError(f"{name} has a vocabulary of {model.vocab}; bytes need {vocab}")
        if width is not None and width != model.width:
            raise UsageError(f"{name} has its own width {model.width}; change it in {source.name}")
        return source
    width, layers = width or WIDTH, layers or LAYERS
    text = source.text.rstrip("\n") + "\n"
    if spec.layers:
        layer = next(iter(spec.layers))
    elif spec.memories:
        memory = next(iter(spec.memories.values()))
        layer = _free("Mixer", spec)
        text += layer_text(layer, memory, heads=max(1, width // HEAD))
    else:
        raise TrainError(f"{source.name} holds no memory, layer or model to train")
    name = _free("Trained", spec)
    blocks = f"repeat {layers} {{ {layer} ; swiglu }}"
    text += f"model {name}(width = {width}, vocab = {vocab}) = {blocks}\n"
    return Source(source.name, text)


def layer_text(name: str, memory: MemorySpec, heads: int) -> str:
    """A layer around a memory: convolution, silu, unit keys, a gate on the answer.

    Tokens that the memory makes by formulas of its own are left as they are.
    """
    plain = {t.name for t in memory.tokens if t.expr is None}
    parts = []
    if plain:
        parts += ["conv(4)", "silu"]
    if {"query", "key"} <= plain:
        parts.append("normalize(query, key)")
    parts.append("output_gate")
    return f"layer {name}(heads = {heads}) = {memory.name} with {', '.join(parts)}\n"


def language_model(source: Source) -> tuple[nn.Module, tuple[type[nn.Module], ...]]:
    """The first model of a file with fresh weights, and the classes of its layers and memories."""
    library = loader.load(source)
    spec = library.spec
    model: ModelSpec = next(iter(spec.models.values()))
    mixers = {block.kind for block in model.blocks} & {*spec.layers, *spec.memories}
    made = getattr(library, model.name)(width=model.width, vocab=model.vocab)
    return made, tuple(getattr(library, name) for name in sorted(mixers))


def _corpus(wished: Path | None, kept: checkpoint.Facts | None) -> dataset.Corpus:
    """The text that was given, else the one that the run began with, else the standard library."""
    began = None if kept is None else kept.origin.text.file
    if wished is None and began is None:
        return dataset.standard_library()
    return dataset.text_file(wished or Path(str(began)))


def _same_model(
    path: Path, source: Source, wishes: RunOptions, before: Mapping[str, object]
) -> None:
    """Raise CheckpointError where width or layers are wished to be others than a run began with.

    The model is written by `wrap_in_model`: its settings say more than a difference of its text.
    """
    model = next(iter(read(source).models.values()), None)
    usual = {"width": WIDTH if model is None else model.width, "layers": LAYERS}
    other: dict[str, tuple[object, object]] = {}
    for key, default in usual.items():
        then, now = _number(before.get(key)) or default, getattr(wishes, key)
        if now is not None and now != then:
            other[key] = (then, now)
    if other:
        raise other_settings(path, other)


def _number(kept: object) -> int | None:
    """A width or a number of layers from a checkpoint.  Raises TrainError for what is none."""
    if kept is None:
        return None
    if type(kept) is not int or not 1 <= kept <= 1 << 20:
        raise TrainError(
            f"the checkpoint is damaged: its model has a size of {kept!r:.40}; put back a copy of "
            "it, or train again in another folder (--out)"
        )
    return kept


def _free(name: str, spec: FileSpec) -> str:
    """A name that the file does not use."""
    while name in {*spec.memories, *spec.layers, *spec.models}:
        name += "X"
    return name
