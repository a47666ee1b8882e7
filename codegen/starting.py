"""The state before the first token: what every carried tensor of a memory starts as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from miras_dsl.ir import ordered
from miras_dsl.model import Feed, Weight
from miras_dsl.spec import Apply, MemorySpec, Number, walk

from .feature_text import Text, align, number_text
from .feeding import Feeding
from .names import cite


@dataclass(frozen=True, slots=True)
class Starting:
    """parts: declarations of learned first values; items: (name in the state, expression)."""

    parts: list[str]
    items: list[tuple[str, str]]


def state_items(
    spec: MemorySpec,
    feeds: Sequence[Feed],
    weights: Sequence[Weight],
    tails: Sequence[str],
    feeding: Feeding,
) -> Starting:
    """First values of weights, of the position in a block and of a window's last tokens."""
    parts = []
    for state in spec.states:
        if state.init != "zero":
            sizes = ", ".join(["heads", *(feeding.size_text(a, False) for a in state.axes)])
            made = "positive_weight" if state.init == "positive" else "learned_weight"
            parts += [f"# {state.name}: {cite(state.span)}"]
            parts += [f"self.{state.name}_start = {made}({sizes})"]
    items = [(weight.name, _first_value(spec, weight, feeding)) for weight in weights]
    if spec.algorithm.anchored is not None or spec.algorithm.reset:
        items.append(("position", "empty.new_zeros(batch, dtype=torch.int64)"))
    for feed in (f for f in feeds if f.name in tails):
        assert spec.algorithm.window is not None
        sizes = ", ".join(feeding.size_text(a, True) for a in ordered(feed.axes))
        length = spec.algorithm.window[0] - 1
        shape = f"batch, {length}, self.heads" + (f", {sizes}" if sizes else "")
        items.append((f"window.{feed.name}", f"empty.new_zeros({shape})"))
    return Starting(parts, items)


def _first_value(spec: MemorySpec, weight: Weight, feeding: Feeding) -> str:
    state = feeding.state(weight.of)
    init = state.init if weight.init == "weight" else weight.init
    if init == "zero":
        sizes = ", ".join(feeding.size_text(a, True) for a in ordered(weight.axes))
        return f"empty.new_zeros(batch, self.heads, {sizes})"
    first = f"self.{state.name}_start"
    if init == "positive":
        total = spec.retention.simplex
        assert total is None or isinstance(total, Number), "the total of a row is a number"
        mass = "1" if total is None else number_text(total.value).text
        first = f"rows_on_simplex({first}, {mass})"
        first = f"torch.log({first})" if _is_logarithm(spec, weight) else first
    turned = align(Text(first, "heads", state.axes, headed=True), ordered(weight.axes))
    return f"start({turned.text}, batch)"


def _is_logarithm(spec: MemorySpec, weight: Weight) -> bool:
    """Whether a tensor carries the dual of a weight that lives on the positive numbers.

    With a link at chunk ends the dual is a tensor of its own, with one at tokens it is what the
    weight's name stands for.
    """
    potential = spec.retention.bregman
    if potential is None:
        return False
    positive = any(isinstance(node, Apply) and node.op == "log" for node in walk(potential))
    dual = weight.name.endswith(".dual") or spec.retention.at == "token"
    return dual and (positive or spec.retention.simplex is not None)
