"""The inputs on which a memory is judged: cases that cover the values below.

Each of these occurs in at least one case: lengths 0, 1, 2, odd ones and those around a chunk, five
chunks, 2,048 tokens; sizes from 1 to 128, key and value unequal where the memory allows; two heads and
three, each with a state and gates of its own; packed sequences; initial and later states; gates as a new
layer has them and at both ends of their range; keys at cosine 0, 0.5, 0.95 and 1 to one another, and zero
keys; a long run of equal keys with zero values; values of size 1e-14; heavy tails with a few channels 100
times larger; contiguous tensors and others.  `case_data` draws their tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal

from miras_dsl.spec import MemorySpec

EVERY_CALL = ("whole", "split", "masked", "reordered", "steps", "causal")
"""The checks of an ordinary case."""


@dataclass(frozen=True, slots=True)
class Case:
    """One case.

    lengths  of the sequences: a batch of equal ones, or ``packed`` ones in one row
    sizes    of keys and of values (a memory with one size takes the first)
    warm     start from the state after some tokens, not from the initial one
    keys     cosine between the keys of any two tokens; None: every third key is zero
    gates    share of the gate values that are put at an end of their range; half of the others lie
             anywhere in it.  The rest are default gates, those of a new layer; None: all are
    strided  inputs are not contiguous
    heads    number of heads
    values   "normal" numbers, at default gates as large as a new layer's, 1/2; "ending": zero from the
             first quarter on; "tiny": of size 1e-14;
             "activations": heavy tails, every eighth channel 100 times larger, keys in the same way
    checks   the checks that take this case, of `checks.CHECKS`
    """

    name: str
    lengths: tuple[int, ...]
    sizes: tuple[int, int]
    packed: bool = False
    warm: bool = False
    keys: float | None = 0.0
    gates: float | None = 0.2
    strided: bool = False
    heads: int = 2
    values: Literal["normal", "ending", "tiny", "activations"] = "normal"
    checks: tuple[str, ...] = EVERY_CALL

    @property
    def tokens(self) -> int:
        """The length of the time axis."""
        return sum(self.lengths) if self.packed else self.lengths[0]

    @property
    def default(self) -> bool:
        """Whether a new layer can meet this case: then it must be judged.  Values of other sizes than
        it has, strong gates and states far out are there to be tried."""
        usual = self.values in ("normal", "ending")
        return self.gates is None and usual and not {"links", "projections"} & {*self.checks}

    @property
    def unit(self) -> float:
        """The usual size of the values."""
        return TINY if self.values == "tiny" else 1.0


TINY = 1e-14
LONG = 2048


def covering(chunk: int = 64, longest: int = 260) -> tuple[Case, ...]:
    """The cases for a form that works in chunks of ``chunk`` tokens."""
    c = max(2, min(chunk, longest // 4 - 1))
    half = c // 2 + 1
    five = 4 * c + 2
    return (
        Case("five chunks, three heads", (five,), (16, 33), gates=None, heads=3,
             checks=(*EVERY_CALL, "carried")),
        Case("chunk and one, warm", (c + 1,), (33, 16), warm=True, keys=0.95, strided=True),
        Case("one chunk, equal keys", (c,), (60, 64), keys=1.0, gates=None, values="ending"),
        Case("packed", (0, 1, half, c - 1, 2), (16, 16), packed=True, warm=True, keys=0.5,
             gates=None),
        Case("size one", (min(63, c + 2),), (1, 1), warm=True, keys=0.0, strided=True),
        Case("two tokens, zero keys", (2,) * 2, (128, 100), warm=True, keys=None),
        Case("one token", (1,) * 4, (100, 128), keys=0.0, gates=1.0),
        Case("tiny residuals", (5,) * 2, (8, 6), keys=0.5, gates=None, values="tiny"),
        Case("activations", (min(40, c),) * 2, (24, 16), keys=0.95, gates=None,
             values="activations", checks=("whole", "steps")),
        Case("2048 tokens", (LONG,), (4, 3), gates=None, checks=("long",)),
        Case("strong gates", (min(40, c + 2),), (4, 4), gates=None, checks=("projections",)),
        Case("links", (1,) * (2 * len(DUALS)), (4, 3), gates=None, checks=("links",)),
    )  # fmt: skip


DUALS = (1e-14, 1e-6, 1e-2, 0.1, 0.5, 1.0, 3.0, 12.0, 20.0, 100.0, 1e4, 1e8)
"""Sizes of the carried states at which links are judged, with both signs."""


def full_product(chunk: int = 64) -> tuple[Case, ...]:
    """Every length with every size, going through keys, gates and states in turn: for a GPU."""
    lengths = sorted({0, 1, 2, chunk - 1, chunk, chunk + 1, 2 * chunk + 1, 63, 65, 1000})
    sizes = (1, 16, 33, 60, 64, 100, 128)
    keys = (0.0, 0.5, 0.95, 1.0, None)
    shares = (0.0, 0.2, 1.0)
    cases = []
    for number, (time, size) in enumerate(product(lengths, sizes)):
        other = sizes[(sizes.index(size) + number) % len(sizes)]
        cases.append(
            Case(
                f"T {time} D {size}",
                (time,) * 2,
                (size, other),
                warm=number % 2 == 1,
                keys=keys[number % 5],
                gates=shares[number % 3],
                strided=number % 4 == 3,
            )
        )
    packings = ((0, 1, chunk + 1, chunk - 1), (5, 0, 0, 2 * chunk), (1, 1, 1, 64, 300))
    cases += [
        Case(f"packed {packing} D {size}", packing, (size, size), packed=True, warm=True, keys=0.5)
        for packing, size in product(packings, (33, 64, 128))
    ]
    return tuple(cases)


def parameters(spec: MemorySpec, case: Case) -> dict[str, int]:
    """The size parameters of a memory in a case; a parameter with a default keeps it."""
    axes = dict(spec.sizes)
    values: dict[str, int] = {name: d for name, d in spec.params if d is not None}
    for axis, size in zip(("value", "key"), reversed(case.sizes), strict=True):
        symbol = axes.get(axis)
        if symbol is not None and symbol.is_Symbol and str(symbol) not in values:
            values[str(symbol)] = size
    for name, _ in spec.params:
        values.setdefault(name, case.sizes[0])
    return values
