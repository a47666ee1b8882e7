"""The inputs of the oracle that have a value for every token, and those that a window keeps."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from miras_dsl.spec import Axes, MemorySpec, Ref, iter_nodes


def leaf_axes(spec: MemorySpec) -> dict[tuple[str, str], Axes]:
    """(kind, name) -> axes of every per-token input; a per-row gate is one input for each weight."""
    leaves: dict[tuple[str, str], Axes] = {("token", t.name): t.axes for t in spec.tokens}
    for gate in spec.gates:
        if "row" in gate.axes:
            for weight in spec.states:
                leaves["gate", f"{gate.name}.{weight.name}"] = weight.with_rows(gate.axes)
        elif "position" not in gate.axes:
            leaves["gate", gate.name] = gate.axes
    return leaves


def window_leaves(spec: MemorySpec, inputs: Mapping[str, Tensor]) -> list[str]:
    """The inputs that the loss of an earlier token reads."""
    formulas = []
    for term in spec.terms:
        own = [getattr(term, part, None) for part in ("loss", "error", "place", "answer", "rate")]
        formulas += [formula for formula in own if formula is not None]
    used = {(n.kind, n.name) for f in formulas for n in iter_nodes(f) if isinstance(n, Ref)}
    return [
        name
        for kind, name in leaf_axes(spec)
        if name in inputs and ((kind, name) in used or (kind, name.split(".")[0]) in used)
    ]
