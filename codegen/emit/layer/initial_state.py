"""The state before the first token: what every carried tensor of a memory starts as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from miras_dsl.codegen.emit.identifiers import source_ref
from miras_dsl.codegen.emit.line_wrap import under_comment
from miras_dsl.codegen.emit.scalar_printer import TORCH, print_number, print_scalar
from miras_dsl.codegen.model.module_types import ModuleModel
from miras_dsl.codegen.model.types import MemoryInput, StateTensor
from miras_dsl.ir import ordered
from miras_dsl.scalar.monotone_inverse import UNKNOWN

from .expressions import Expression, Layout, broadcast_to
from .memory_inputs import InputStatements


@dataclass(frozen=True, slots=True)
class InitialState:
    """parts: declarations of learned first values; items: (name in the state, expression)."""

    parts: list[str]
    items: list[tuple[str, str]]


def initial_state(
    module: ModuleModel,
    feeds: Sequence[MemoryInput],
    weights: Sequence[StateTensor],
    tails: Sequence[str],
    feeding: InputStatements,
) -> InitialState:
    """First values of weights, of the position in a block and of a window's last tokens."""
    parts = []
    for first in module.weights:
        if first.init != "zero":
            sizes = ", ".join(["heads", *(feeding.size_text(a, False) for a in first.axes)])
            made = "positive_weight" if first.init == "positive" else "learned_weight"
            declared = f"self.{first.name}_start = {made}({sizes})"
            parts += under_comment([declared], first.name, source_ref(first.span))
    items = [(weight.name, _first_value(weight, feeding)) for weight in weights]
    if module.positions:
        items.append(("position", "empty.new_zeros(batch, dtype=torch.int64)"))
    for feed in (f for f in feeds if f.name in tails):
        sizes = ", ".join(feeding.size_text(a, True) for a in ordered(feed.axes))
        shape = f"batch, {module.window - 1}, self.heads" + (f", {sizes}" if sizes else "")
        items.append((f"window.{feed.name}", f"empty.new_zeros({shape})"))
    return InitialState(parts, items)


def _first_value(weight: StateTensor, feeding: InputStatements) -> str:
    begun = feeding.module.weight(weight.of)
    init = begun.init if weight.init == "weight" else weight.init
    if init == "zero":
        sizes = ", ".join(feeding.size_text(a, True) for a in ordered(weight.axes))
        return f"empty.new_zeros(batch, self.heads, {sizes})"
    first = f"self.{begun.name}_start"
    if init == "positive":
        assert weight.start is not None, "the derivation says where positive rows start"
        start = weight.start
        first = f"rows_on_simplex({first}, {print_number(start.mass)})"
        first = print_scalar(start.slope, {UNKNOWN: first}, TORCH) if start.slope else first
    turned = broadcast_to(
        Expression(first, Layout.HEADS, begun.axes, headed=True), ordered(weight.axes)
    )
    return f"expand_initial({turned.text}, batch)"
