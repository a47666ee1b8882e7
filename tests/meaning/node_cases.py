"""Small formulas that together use every operation, in both orientations where there are two."""

from __future__ import annotations

import numpy as np
import sympy as sp

from miras_dsl.ir import (
    Contract,
    Cumsum,
    Decay,
    Extent,
    GatedApply,
    GatedContract,
    I,
    Input,
    Inverse,
    J,
    L,
    Last,
    Map,
    Mask,
    Node,
    Number,
    Put,
    Reduce,
    Rename,
    Shift,
    Spread,
    Substitute,
    contract,
    mean,
    pointwise,
    rename,
    total,
)
from miras_dsl.ir.interpreter import Array
from miras_dsl.scalar.functions import SLOTS, sigmoid, signum

X, Y, Z = SLOTS[:3]
SIZES = {I: 6, J: 6, L: 6, "value": 3, "key": 4, "hidden": 5, "other": 3}


def leaf(name: str, *axes: str) -> Input:
    return Input(name, axes, "constant")


def draw(leaves: list[Input], rng: np.random.Generator, *batch: int) -> dict[Input, Array]:
    return {x: 0.5 * rng.standard_normal((*batch, *(SIZES[a] for a in x.axes))) for x in leaves}


def shape(node: Node) -> tuple[int, ...]:
    return tuple(SIZES[axis] for axis in node.axes)


A, B = leaf("A", I, "key"), leaf("B", J, "key")
T = leaf("T", I, J)
LOWER = Mask(T, I, J, True)
P = leaf("p", I, "value")
R = Input("r", ("value",), "hole")
RATE, SCALE = Input("rate", (), "hole"), Input("scale", ("value",), "hole")
RATES, SCALES = (RATE, leaf("rates", I)), (SCALE, leaf("scales", I, "value"))
GATES = leaf("ga", I, "value"), leaf("gb", I, "value")


def triangle(strict: bool) -> dict[str, Node]:
    """The operations on the triangle, at row >= col and with the roles of #i and #j changed."""
    a, b = leaf("a", I, "key"), leaf("b", J, "key")
    x, y, m = leaf("x", I, "key"), leaf("y", J, "key"), leaf("m", I, J)
    word = "strict" if strict else "with diagonal"
    return {
        f"mask {word}": Mask(T, I, J, strict),
        f"mask {word}, transposed": Mask(T, J, I, strict),
        f"mask {word}, a row": Mask(leaf("z", I), I, J, strict),
        f"mask {word}, channels": Mask(leaf("z", I, J, "value"), I, J, strict),
        f"decay {word}": Decay(leaf("a", I), leaf("b", J), I, J, strict),
        f"decay {word}, transposed": Decay(leaf("a", J), leaf("b", I), J, I, strict),
        f"decay {word}, channels": Decay(a, b, I, J, strict),
        f"gated contract {word}": GatedContract(x, y, a, b, "key", I, J, strict),
        f"gated contract {word}, transposed": GatedContract(y, x, b, a, "key", J, I, strict),
        f"gated apply {word} over col": GatedApply(m, y, a, b, "key", I, J, strict, J),
        f"gated apply {word} over row": GatedApply(m, x, a, b, "key", I, J, strict, I),
    }


def substitutions() -> dict[str, Node]:
    """Bodies that are elementwise, gated, row-coupled, with parameters per token, and constant."""
    tanh = pointwise(sp.tanh(X) * Y, R, RATE)
    square = total(pointwise(X**2, R), ("value",))
    coupled = pointwise(X * Z / (1 + Y), R, square, SCALE)
    softmax = pointwise(sp.exp(X), R)
    softmax = pointwise(X / Y, softmax, total(softmax, ("value",)))
    mix = Input("mix", ("value", "other"), "hole")
    mixed = contract(mix, rename(R, {"value": "other"}), ("other",))
    return {
        "substitute": Substitute(LOWER, P, tanh, R, (RATES,)),
        "substitute, identity": Substitute(LOWER, P, R, R, ()),
        "substitute, coupled": Substitute(LOWER, P, coupled, R, (SCALES,)),
        "substitute, softmax": Substitute(LOWER, P, softmax, R, ()),
        "substitute, no slope": Substitute(
            LOWER, P, pointwise(signum(X) * Y, R, RATE), R, (RATES,)
        ),
        "substitute, no slope, gated": Substitute(
            LOWER, P, pointwise(signum(X) * Y, R, SCALE), R, (SCALES,), GATES
        ),
        "substitute, reads no row": Substitute(LOWER, P, SCALE, R, (SCALES,)),
        "substitute, one axis more of parameters": Substitute(
            LOWER, P, mixed, R, ((mix, leaf("mixes", I, "value", "other")),)
        ),
        "substitute, gated": Substitute(LOWER, P, tanh, R, (RATES,), GATES),
        "substitute, gated and coupled": Substitute(LOWER, P, coupled, R, (SCALES,), GATES),
        "substitute, same gate twice": Substitute(
            LOWER, P, tanh, R, (RATES,), (GATES[0], GATES[0])
        ),
        "substitute, two parameters": Substitute(
            LOWER, P, pointwise(sp.sin(X * Y) + Z, R, RATE, SCALE), R, (RATES, SCALES)
        ),
    }


NODES: dict[str, Node] = {
    "input": A,
    "number": Contract(A, Spread(Number(sp.Rational(1, 3)), ("key",)), ("key",)),
    "extent": pointwise(X / Y, A, Extent("key")),
    "mean": mean(A, ("key",)),
    "map": Map(sp.tanh(X) * Y + Z**2, (A, leaf("row", I), leaf("scalar"))),
    "map, broadcast both ways": Map(sigmoid(X * Y), (leaf("row", I), leaf("u", "value"))),
    "contract": Contract(A, B, ("key",)),
    "contract, two axes": Contract(
        leaf("E", I, "key", "value"), leaf("F", "hidden", "value", "key"), ("key", "value")
    ),
    "contract, shared axis kept": Contract(A, leaf("F", I, "key", "hidden"), ("key",)),
    "contract with itself": Contract(A, A, ("key",)),
    "sum": Reduce("sum", A, ("key",)),
    "sum over tokens": Reduce("sum", A, (I, "key")),
    "max shifts a softmax": pointwise(
        X / Y,
        pointwise(sp.exp(X - Y), A, Reduce("max", A, ("key",))),
        total(pointwise(sp.exp(X - Y), A, Reduce("max", A, ("key",))), ("key",)),
    ),
    "spread": Spread(leaf("row", I), ("hidden", "key")),
    "spread, used": Spread(leaf("row", I), ("key",)) * A,
    "rename": Rename(A, ((I, J),)),
    "rename, swapped": Rename(T, ((I, J), (J, I))),
    "cumsum": Cumsum(A, I),
    "cumsum, reverse": Cumsum(A, I, True),
    "cumsum along the second": Cumsum(T, J),
    "shift later": Shift(A, I, 1),
    "shift earlier": Shift(A, I, -1),
    "shift the second": Shift(T, J, 1),
    "last": Last(A, I),
    "last of the second": Last(T, J),
    "put": Put(leaf("u", "value"), I),
    "put the second": Put(leaf("row", I), J),
    "inverse": Inverse(LOWER, I, J),
    "inverse, transposed": Inverse(Mask(T, J, I, True), J, I),
    "inverse applied twice": Contract(
        Inverse(LOWER, I, J), Rename(Inverse(LOWER, I, J), ((I, J), (J, L))), (J,)
    ),
    **triangle(True),
    **triangle(False),
    **substitutions(),
}
