"""What every part of the printer of tensors writes with: a style, names of nodes, and a few forms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from miras_dsl.ir import Axes, Node

from .norms import token_axes
from .scalar_printer import ScalarPrinter
from .style import Level, Piece, Style


@dataclass(frozen=True, slots=True)
class Call:
    """A node that is a function of the language, written out: its name and operands.

    along  the axes that it runs over, where these are not the last ones
    """

    function: str
    args: tuple[Node, ...]
    along: Axes = ()


@dataclass(slots=True)
class Writer(ABC):
    """What writes nodes as formulas; a node in ``names`` is written as its name.

    names   texts of nodes that have a line of their own
    calls   nodes that are functions of the language, written out
    scalar  prints elementwise formulas, and knows which functions it has met
    pieces  of nodes that get no other name any more: each is written once, however often it is used
    final   says of a node that it gets none; None: of no node is it known
    """

    style: Style
    names: Mapping[Node, str] = field(default_factory=dict)
    calls: Mapping[Node, Call] = field(default_factory=dict)
    scalar: ScalarPrinter = field(init=False)
    pieces: dict[Node, Piece] = field(init=False, default_factory=dict)
    final: Callable[[Node], bool] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.scalar = ScalarPrinter(self.style)

    def text(self, node: Node) -> str:
        """The formula of a node, written out even if the node has a name."""
        return self.piece(node, top=True).text

    def operands(self, node: Node) -> tuple[Node, ...]:
        """What the printed formula of a node is made of."""
        found = self.calls.get(node)
        return node.operands if found is None else found.args

    @abstractmethod
    def piece(self, node: Node, top: bool = False) -> Piece:
        """A node as part of a formula; ``top`` writes it out even if it has a name."""

    def indexed(self, part: Node, tokens: Axes) -> Piece:
        """A part of a formula of ``tokens``; in one of pairs of tokens it says whose value it is."""
        made = self.piece(part)
        own = token_axes(part.axes)
        if len(tokens) > 1 and len(own) == 1:
            inner = self.style.bracketed(made, Level.ATOM)
            return Piece(self.style.indexed(inner, own[0]), Level.ATOM, part.axes)
        return made

    def over(self, word: str, x: Node, over: Axes, *more: str) -> Piece:
        """A function over axes; which they are is said where ``x`` has others too."""
        along = () if set(x.axes) == set(over) else over
        made = self.style.call(word, self.piece(x).text, *more, along=along)
        return Piece(made.text, made.level, tuple(a for a in x.axes if a not in over))
