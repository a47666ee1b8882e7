"""Small formulas that together use every operation, in both orientations where there are two."""

from __future__ import annotations

import numpy as np
import sympy as sp

from miras_dsl.ir import (
    AxisSize,
    Broadcast,
    Contract,
    Cumsum,
    Decay,
    ForwardSubstitution,
    GatedApply,
    GatedContract,
    I,
    Input,
    Inverse,
    J,
    L,
    Map,
    Mask,
    Node,
    Number,
    PlaceLast,
    Reduce,
    Rename,
    Shift,
    TakeLast,
    contract,
    elementwise,
    reduce_mean,
    reduce_sum,
    rename,
)
from miras_dsl.ir.interpreter import Array
from miras_dsl.scalar.functions import OPERANDS, sigmoid, sign

X, Y, Z = OPERANDS[:3]
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
    tanh = elementwise(sp.tanh(X) * Y, R, RATE)
    square = reduce_sum(elementwise(X**2, R), ("value",))
    coupled = elementwise(X * Z / (1 + Y), R, square, SCALE)
    softmax = elementwise(sp.exp(X), R)
    softmax = elementwise(X / Y, softmax, reduce_sum(softmax, ("value",)))
    mix = Input("mix", ("value", "other"), "hole")
    mixed = contract(mix, rename(R, {"value": "other"}), ("other",))
    return {
        "substitute": ForwardSubstitution(LOWER, P, tanh, R, (RATES,)),
        "substitute, identity": ForwardSubstitution(LOWER, P, R, R, ()),
        "substitute, coupled": ForwardSubstitution(LOWER, P, coupled, R, (SCALES,)),
        "substitute, softmax": ForwardSubstitution(LOWER, P, softmax, R, ()),
        "substitute, no slope": ForwardSubstitution(
            LOWER, P, elementwise(sign(X) * Y, R, RATE), R, (RATES,)
        ),
        "substitute, no slope, gated": ForwardSubstitution(
            LOWER, P, elementwise(sign(X) * Y, R, SCALE), R, (SCALES,), GATES
        ),
        "substitute, reads no row": ForwardSubstitution(LOWER, P, SCALE, R, (SCALES,)),
        "substitute, one axis more of parameters": ForwardSubstitution(
            LOWER, P, mixed, R, ((mix, leaf("mixes", I, "value", "other")),)
        ),
        "substitute, gated": ForwardSubstitution(LOWER, P, tanh, R, (RATES,), GATES),
        "substitute, gated and coupled": ForwardSubstitution(
            LOWER, P, coupled, R, (SCALES,), GATES
        ),
        "substitute, same gate twice": ForwardSubstitution(
            LOWER, P, tanh, R, (RATES,), (GATES[0], GATES[0])
        ),
        "substitute, two parameters": ForwardSubstitution(
            LOWER, P, elementwise(sp.sin(X * Y) + Z, R, RATE, SCALE), R, (RATES, SCALES)
        ),
    }


NODES: dict[str, Node] = {
    "input": A,
    "number": Contract(A, Broadcast(Number(sp.Rational(1, 3)), ("key",)), ("key",)),
    "extent": elementwise(X / Y, A, AxisSize("key")),
    "mean": reduce_mean(A, ("key",)),
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
    "max shifts a softmax": elementwise(
        X / Y,
        elementwise(sp.exp(X - Y), A, Reduce("max", A, ("key",))),
        reduce_sum(elementwise(sp.exp(X - Y), A, Reduce("max", A, ("key",))), ("key",)),
    ),
    "spread": Broadcast(leaf("row", I), ("hidden", "key")),
    "spread, used": Broadcast(leaf("row", I), ("key",)) * A,
    "rename": Rename(A, ((I, J),)),
    "rename, swapped": Rename(T, ((I, J), (J, I))),
    "cumsum": Cumsum(A, I),
    "cumsum, reverse": Cumsum(A, I, True),
    "cumsum along the second": Cumsum(T, J),
    "shift later": Shift(A, I, 1),
    "shift earlier": Shift(A, I, -1),
    "shift the second": Shift(T, J, 1),
    "last": TakeLast(A, I),
    "last of the second": TakeLast(T, J),
    "put": PlaceLast(leaf("u", "value"), I),
    "put the second": PlaceLast(leaf("row", I), J),
    "inverse": Inverse(LOWER, I, J),
    "inverse, transposed": Inverse(Mask(T, J, I, True), J, I),
    "inverse applied twice": Contract(
        Inverse(LOWER, I, J), Rename(Inverse(LOWER, I, J), ((I, J), (J, L))), (J,)
    ),
    **triangle(True),
    **triangle(False),
    **substitutions(),
}
