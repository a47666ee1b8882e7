"""Names of values: those of the derivation, else read off the operation and what it works on.

`error` is the derivation's; `d_error` is its cotangent; `query_key` is a product of two named values;
`rate_decay` a formula of them.  A number at the end only tells two equal names apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from keyword import iskeyword

import sympy as sp

from miras_dsl.ir import (
    VALUE,
    Axes,
    Broadcast,
    Contract,
    Cumsum,
    Decay,
    ForwardSubstitution,
    GatedApply,
    GatedContract,
    GatedSpan,
    Input,
    Inverse,
    Join,
    Label,
    Map,
    Mask,
    Node,
    Number,
    PlaceLast,
    Reduce,
    Rename,
    Role,
    Shift,
    Split,
    TakeLast,
    is_token_axis,
    postorder,
)
from miras_dsl.scalar.functions import OPERANDS

from .partition import stored_as

LONGEST = 30
"""Characters of a name that the compiler makes."""
OWN_WORDS = frozenset({"torch", "ops", "runner", "size", "F"})
"""What the functions of a memory call their own."""

KERNEL_WORDS = frozenset({
    "T", "L", "H", "N", "K", "V", "BK", "BV", "SEGMENT", "PACKED", "KEEP", "tl", "tl_math",
    "triton", "range", "float", "t", "row", "start", "length", "segment", "segments", "share",
    "first", "last", "step", "checkpoint", "replayed", "replayed_share", "place", "position",
    "i_n", "i_h", "i_nh", "i_v", "i_s", "o_k", "o_v", "o_w", "m_k", "m_v", "m_w", "Recurrence",
})  # fmt: skip
"""What the frames of token-by-token kernels call their own."""
POINTER = "_ptr"
"""How the names of a kernel's pointers end; no other name of a kernel ends so."""


def identifier_of(name: str) -> str:
    """A state or input name as an identifier: `S.W1` is `S_W1`."""
    word = name.replace(".", "_")
    return f"{word}_" if iskeyword(word) or word in OWN_WORDS else word


def shape_comment(axes: Axes) -> str:
    """`[i, value]`."""
    return "[" + ", ".join(map(str, axes)) + "]"


@dataclass(slots=True)
class NameTable:
    """An identifier for each node, unique in its scope.

    labels  what the derivation calls some of the nodes
    """

    labels: Mapping[Node, Label] = field(default_factory=dict)
    given: dict[Node, str] = field(default_factory=dict)
    holders: dict[str, list[Node]] = field(default_factory=dict)
    sources: dict[Node, frozenset[Input]] = field(default_factory=dict)
    taken: set[str] = field(default_factory=lambda: set(OWN_WORDS))

    def name(self, node: Node, wish: str = "") -> str:
        """Give ``node`` a name: the wish, else the label, else one that says what it is."""
        if node not in self.given:
            words = [wish] if wish else self.suggested(node)
            self.given[node] = self._unique([w for w in words if w] or ["value"], node)
            self.holders.setdefault(words[0], []).append(node)
        return self.given[node]

    def inner(self) -> NameTable:
        """A table for other values of the same inputs, which shares no name with this one."""
        inputs: dict[Node, str] = {x: n for x, n in self.given.items() if isinstance(x, Input)}
        return NameTable(self.labels, inputs, taken=self.taken)

    def inputs_of(self, node: Node) -> frozenset[Input]:
        """All inputs that a value depends on."""
        for part in postorder([node]) if node not in self.sources else ():
            if part not in self.sources:
                own = frozenset({part}) if isinstance(part, Input) else frozenset()
                self.sources[part] = own.union(*(self.sources[o] for o in part.operands))
        return self.sources[node]

    def _unique(self, words: Sequence[str], node: Node) -> str:
        """The first word that is free; else one with an input after it that the others of its name do
        not depend on, or with its axes; else with a number."""
        word = words[0]
        options = list(words)
        if not any(self._is_free(word) for word in options):
            own = self.inputs_of(node)
            others = [self.inputs_of(other) for other in self.holders.get(word, ())]
            telling = [x for x in own if not any(x in other for other in others)]
            telling.sort(key=lambda x: (x.role is not Role.TOKEN, len(x.name), x.name))
            options += [f"{w}_{identifier_of(x.name)}" for w in words for x in telling]
            letters = "".join(axis.name[0] for axis in node.axes)
            options += [f"{w}_{letters}" for w in words] if letters else []
        for made in options:
            if self._is_free(made):
                break
        else:
            count = 2
            while f"{word}_{count}" in self.taken:
                count += 1
            made = f"{word}_{count}"
        self.taken.add(made)
        return made

    def _is_free(self, word: str) -> bool:
        return word not in self.taken and len(word) <= LONGEST

    def of(self, node: Node) -> str:
        """The name of an operand, as part of another name."""
        here = stored_as(node)
        if isinstance(here, Input):
            return self.given.get(here) or identifier_of(here.name)
        if isinstance(here, Rename | Broadcast):
            return self.of(here.x)
        if here in self.given:
            return self.given[here]
        label = self.labels.get(here)
        return identifier_of(label.name) if label and label.name else ""

    def suggested(self, node: Node) -> list[str]:
        """Telling names for what an operation makes, the best first."""
        label = self.labels.get(node)
        if label is not None and label.name:
            return [identifier_of(label.name), *self._by_operation(node)]
        if label is not None and label.of is not None:
            words = [self.of(label.of)] if self.of(label.of) else self._by_operation(label.of)
            return [*(_short("d", word) for word in words), *self._by_operation(node)]
        return self._by_operation(node)

    def _by_operation(self, node: Node) -> list[str]:
        def called(word: str, *operands: Node) -> list[str]:
            names = [self.of(x) for x in operands]
            return [*_joined(word, *names), word]

        match node:
            case Decay():
                return ["decay"]
            case Inverse(x):
                return called("inverse_of", x) if self.of(x) else ["inverse"]
            case ForwardSubstitution(reverse=reverse):
                return ["cotangent_rows" if reverse else "rows"]
            case Cumsum(x, _, reverse):
                return called("sum_from_here" if reverse else "sum_to_here", x)
            case Mask(x):
                return called("lower", x)
            case GatedContract(x, y):
                return [*_joined(self.of(x), self.of(y), "decayed"), "decayed_scores"]
            case GatedSpan():
                return ["spanning"]
            case GatedApply(m, y):
                return [*called("decayed_sum", y), *_joined("decayed", self.of(m), self.of(y))]
            case Reduce(kind, x):
                return called("sum" if kind == "sum" else "max", x)
            case Shift(x, _, by):
                return called("previous" if by > 0 else "following", x)
            case Split(x):
                return called("blocks_of", x)
            case Join(x):
                return called("joined", x)
            case TakeLast(x):
                return called("last", x)
            case PlaceLast(x):
                return called("at_last", x)
            case Broadcast(x):
                return called("each", x)
            case Rename(x):
                return called("turned", x)
            case Contract(left, right):
                tokens = [axis for axis in node.axes if is_token_axis(axis)]
                word = "scores" if len(tokens) > 1 else "read" if tokens else "written"
                return [*_joined(self.of(left), self.of(right)), word]
            case Map(formula, args):
                return self._of_map(formula, args)
            case Input() | Number():
                return [identifier_of(getattr(node, "name", "number"))]
            case _:
                return ["value"]

    def _of_map(self, formula: sp.Expr, args: tuple[Node, ...]) -> list[str]:
        names = [name for name in (self.of(arg) for arg in args) if name]
        if len(args) == 1:
            word = _function_word(formula)
            return [*_joined(word, *names), word]
        if isinstance(formula, sp.Add):
            # What is added up is mostly shares of one thing: the longest common beginning names it.
            parts = [name.split("_") for name in names]
            common = []
            for words in zip(*parts, strict=False):
                if len(set(words)) > 1:
                    break
                common.append(words[0])
            found = _joined("total", *common) if common and common != ["d"] else []
            first, *_, last = names if len(names) > 1 else ("", "")
            return [*found, *_joined(first, "and", last), *_joined("total", first, last), "total"]
        return [*_joined(*names), "product"]


def kernel_names(labels: Mapping[Node, Label], inputs: Iterable[Input]) -> NameTable:
    """The names of what token-by-token kernels are given; `y` stays free for the answer."""
    table = NameTable(labels, taken={*KERNEL_WORDS, "y"})
    table.given[Input("position", (), Role.POSITION)] = "position"
    table.name(Input("d_y", (VALUE,), Role.COTANGENT), "d_y")
    for x in inputs:
        word = identifier_of(x.name)
        while word in table.taken or word.endswith(POINTER):
            word += "_"
        table.name(x, word)
    table.taken.remove("y")
    return table


def _function_word(formula: sp.Expr) -> str:
    """A word for what a formula of one operand does."""
    x = OPERANDS[0]
    if formula == -x:
        return "minus"
    if formula.is_Function:
        return type(formula).__name__.lower()
    if isinstance(formula, sp.Pow) and formula.base == x:
        return "inverse" if formula.exp == -1 else "power_of"
    number, rest = formula.as_coeff_Mul()
    if rest == x:
        return "minus" if number.is_negative else "scaled"
    return "function_of"


def _joined(*words: str) -> list[str]:
    """Words joined, then with long ones cut to their beginnings: those that are short enough."""
    given = [word for word in words if word]
    cut = [[_beginning(word, length) for word in given] for length in (99, 2, 1)]
    cut.append([given[0], *(_beginning(word, 1) for word in given[1:])] if given else [])
    cut.append([*(_beginning(word, 1) for word in given[:-1]), given[-1]] if given else [])
    return list(dict.fromkeys(made for parts in cut if (made := _short(*parts))))


def _beginning(word: str, length: int) -> str:
    """The first so many words of a name, a leading `d` not counted."""
    parts = word.split("_")
    return "_".join(parts[: length + (parts[0] == "d")])


def _short(*words: str) -> str:
    """Words joined, or "" where that would be too long a name."""
    joined = "_".join(word for word in words if word)
    return joined if len(joined) <= LONGEST - 12 else ""
