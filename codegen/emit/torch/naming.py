"""Names that a reader understands, for the nodes and axes of generated text."""

from __future__ import annotations

from dataclasses import dataclass, field
from keyword import iskeyword

from miras_dsl.ir import (
    Axes,
    Contract,
    Cumsum,
    Decay,
    ForwardSubstitution,
    GatedApply,
    GatedContract,
    Input,
    Inverse,
    Mask,
    Node,
    Reduce,
    Shift,
    TakeLast,
    is_token_axis,
)


def identifier_of(name: str) -> str:
    """A state or input name as an identifier: `S.W1` is `S_W1`."""
    word = name.replace(".", "_")
    return f"{word}_" if iskeyword(word) or word in ("torch", "ops", "runner", "size") else word


def shape_comment(axes: Axes) -> str:
    """`[i, value]`."""
    return "[" + ", ".join(map(str, axes)) + "]"


@dataclass(slots=True)
class NameTable:
    """An identifier for each node, unique in a file section."""

    given: dict[Node, str] = field(default_factory=dict)
    taken: set[str] = field(default_factory=lambda: {"torch", "ops", "runner", "size"})

    def name(self, node: Node, wish: str) -> str:
        """Give ``node`` a name close to the wish."""
        word, count = wish, 1
        while word in self.taken:
            count += 1
            word = f"{wish}{count}"
        self.taken.add(word)
        self.given[node] = word
        return word


def suggested_name(node: Node) -> str:
    """A telling name for what an operation makes."""
    match node:
        case Decay():
            return "decay"
        case Inverse():
            return "inverse"
        case ForwardSubstitution(reverse=reverse):
            return "cotangents" if reverse else "rows"
        case Cumsum(x):
            return f"sum_{identifier_of(x.name)}" if isinstance(x, Input) else "running"
        case Mask():
            return "lower"
        case GatedContract():
            return "score"
        case GatedApply():
            return "mixed"
        case Reduce():
            return "total"
        case Shift():
            return "shifted"
        case TakeLast():
            return "last"
        case Contract():
            tokens = [axis for axis in node.axes if is_token_axis(axis)]
            return "score" if len(tokens) > 1 else "read" if tokens else "written"
        case _:
            return "t"
