"""The state before the first token: what every carried tensor of a memory starts as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from miras_dsl.codegen.emit.identifiers import source_ref
from miras_dsl.codegen.emit.scalar_printer import TORCH, print_scalar
from miras_dsl.codegen.model.types import MemoryInput, StateTensor
from miras_dsl.ir import axis_names, ordered
from miras_dsl.scalar.monotone_inverse import UNKNOWN
from miras_dsl.spec import MemorySpec

from .expressions import Expression, broadcast_to, number_text
from .memory_inputs import InputStatements


@dataclass(frozen=True, slots=True)
class InitialState:
    """parts: declarations of learned first values; items: (name in the state, expression)."""

    parts: list[str]
    items: list[tuple[str, str]]


def initial_state(
    spec: MemorySpec,
    feeds: Sequence[MemoryInput],
    weights: Sequence[StateTensor],
    tails: Sequence[str],
    feeding: InputStatements,
) -> InitialState:
    """First values of weights, of the position in a block and of a window's last tokens."""
    parts = []
    for state in spec.states:
        if state.init != "zero":
            sizes = ", ".join(["heads", *(feeding.size_text(a, False) for a in state.axes)])
            made = "positive_weight" if state.init == "positive" else "learned_weight"
            parts += [f"# {state.name}: {source_ref(state.span)}"]
            parts += [f"self.{state.name}_start = {made}({sizes})"]
    items = [(weight.name, _first_value(weight, feeding)) for weight in weights]
    if spec.algorithm.anchored is not None or spec.algorithm.reset:
        items.append(("position", "empty.new_zeros(batch, dtype=torch.int64)"))
    for feed in (f for f in feeds if f.name in tails):
        assert spec.algorithm.window is not None
        sizes = ", ".join(feeding.size_text(a, True) for a in axis_names(ordered(feed.axes)))
        length = spec.algorithm.window[0] - 1
        shape = f"batch, {length}, self.heads" + (f", {sizes}" if sizes else "")
        items.append((f"window.{feed.name}", f"empty.new_zeros({shape})"))
    return InitialState(parts, items)


def _first_value(weight: StateTensor, feeding: InputStatements) -> str:
    state = feeding.state(weight.of)
    init = state.init if weight.init == "weight" else weight.init
    if init == "zero":
        sizes = ", ".join(feeding.size_text(a, True) for a in axis_names(ordered(weight.axes)))
        return f"empty.new_zeros(batch, self.heads, {sizes})"
    first = f"self.{state.name}_start"
    if init == "positive":
        assert weight.start is not None, "the derivation says where positive rows start"
        start = weight.start
        first = f"rows_on_simplex({first}, {number_text(start.mass).text})"
        first = print_scalar(start.slope, {UNKNOWN: first}, TORCH) if start.slope else first
    turned = broadcast_to(
        Expression(first, "heads", state.axes, headed=True), axis_names(ordered(weight.axes))
    )
    return f"expand_initial({turned.text}, batch)"
