"""A memory as a layer: the class with its parameters, inputs, state, `forward` and `step`."""

from __future__ import annotations

from collections.abc import Sequence

from miras_dsl.codegen.emit.identifiers import identifier, source_ref
from miras_dsl.codegen.emit.line_wrap import wrap_names
from miras_dsl.codegen.emit.namespace import FileNames
from miras_dsl.codegen.emit.render import render
from miras_dsl.codegen.model.module_types import ModuleModel
from miras_dsl.codegen.model.types import MemoryInput, StateTensor
from miras_dsl.ir import VALUE

from .initial_state import initial_state
from .memory_inputs import InputStatements

HEADS = 4
"""Heads of a layer whose spec names no number."""
ALONE = FileNames()


def emit_module(
    module: ModuleModel,
    feeds: Sequence[MemoryInput],
    weights: Sequence[StateTensor],
    tails: Sequence[str] = (),
    names: FileNames = ALONE,
) -> str:
    """The class of a memory: parameters, what it is fed, state, `forward` and `step`.

    tails  names of feeds whose last tokens the memory carries as `window.<feed>`
    names  of the file that it stands in
    """
    feeding = InputStatements.of(module, feeds)
    state = initial_state(module, feeds, weights, tails, feeding)
    free = {str(symbol) for _, size in module.sizes for symbol in size.free_symbols}
    sizes = [
        (identifier(name), "width" if default is None else str(default))
        for name, default in module.params
        if default is None or name in free
    ]
    slots = {
        "name": names.class_of(module.name),
        "function": names.prefix_of(module.name),
        "place": source_ref(module.span),
        "heads": HEADS,
        "sizes": sizes,
        "stored": [name for name, _ in sizes if name in feeding.stored],
        "parts": feeding.part_lines() + state.parts,
        "answer": feeding.size_text(VALUE, False),
        "feed_lines": feeding.feed_lines,
        "feed_items": feeding.feed_items,
        "constant_lines": feeding.constant_lines,
        "constant_items": feeding.constant_items,
        "state_items": state.items,
        "wrap": wrap_names,
        "needs_dtype": any("to(dtype)" in line for line in feeding.feed_lines),
    }
    return render("torch/module.py.j2", slots)
