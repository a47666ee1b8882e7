"""Small formulas that together use every operation, in both orientations where there are two."""

from __future__ import annotations

import numpy as np
import sympy as sp

from miras_dsl.ir import (
    KEY,
    VALUE,
    Axis,
    AxisRole,
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
    Join,
    L,
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
    Triangle,
    contract,
    elementwise,
    hidden,
    reduce_mean,
    reduce_sum,
    rename,
)
from miras_dsl.ir.interpreter import Array
from miras_dsl.scalar.functions import OPERANDS, sigmoid, sign

X, Y, Z = OPERANDS[:3]
BLOCK, ROW = (Axis(name, AxisRole.TOKEN) for name in ("k_block", "k_row"))
SIZES = {
    I: 6,
    J: 6,
    L: 6,
    BLOCK: 3,
    ROW: 2,
    VALUE: 3,
    KEY: 4,
    hidden("hidden"): 5,
    hidden("other"): 3,
}


def leaf(name: str, *axes: Axis) -> Input:
    return Input(name, axes, Role.CONSTANT)


def draw(leaves: list[Input], rng: np.random.Generator, *batch: int) -> dict[Input, Array]:
    return {x: 0.5 * rng.standard_normal((*batch, *(SIZES[a] for a in x.axes))) for x in leaves}


def shape(node: Node) -> tuple[int, ...]:
    return tuple(SIZES[axis] for axis in node.axes)


A, B = leaf("A", I, KEY), leaf("B", J, KEY)
T = leaf("T", I, J)
LOWER = Mask(T, Triangle(I, J, True))
P = leaf("p", I, VALUE)
R = Input("r", (VALUE,), Role.HOLE)
RATE, SCALE = Input("rate", (), Role.HOLE), Input("scale", (VALUE,), Role.HOLE)
RATES, SCALES = (RATE, leaf("rates", I)), (SCALE, leaf("scales", I, VALUE))
GATES = leaf("ga", I, VALUE), leaf("gb", I, VALUE)


def triangle(strict: bool) -> dict[str, Node]:
    """The operations on the triangle, at row >= col and with the roles of #i and #j changed."""
    a, b = leaf("a", I, KEY), leaf("b", J, KEY)
    x, y, m = leaf("x", I, KEY), leaf("y", J, KEY), leaf("m", I, J)
    word = "strict" if strict else "with diagonal"
    return {
        f"mask {word}": Mask(T, Triangle(I, J, strict)),
        f"mask {word}, transposed": Mask(T, Triangle(J, I, strict)),
        f"mask {word}, a row": Mask(leaf("z", I), Triangle(I, J, strict)),
        f"mask {word}, channels": Mask(leaf("z", I, J, VALUE), Triangle(I, J, strict)),
        f"decay {word}": Decay(leaf("a", I), leaf("b", J), Triangle(I, J, strict)),
        f"decay {word}, transposed": Decay(leaf("a", J), leaf("b", I), Triangle(J, I, strict)),
        f"decay {word}, channels": Decay(a, b, Triangle(I, J, strict)),
        f"gated contract {word}": GatedContract(x, y, a, b, KEY, Triangle(I, J, strict)),
        f"gated contract {word}, transposed": GatedContract(
            y, x, b, a, KEY, Triangle(J, I, strict)
        ),
        f"gated apply {word} over col": GatedApply(m, y, a, b, KEY, Triangle(I, J, strict), J),
        f"gated apply {word} over row": GatedApply(m, x, a, b, KEY, Triangle(I, J, strict), I),
    }


LOG = leaf("log", I, KEY)
SINCE = Cumsum(LOG, I)


def decays() -> dict[str, Node]:
    """Decays whose exponents are running sums of one logarithm: up to a token, and before it."""
    found: dict[str, Node] = {}
    x, y, m = leaf("x", I, KEY), leaf("y", J, KEY), leaf("m", I, J)
    scalar = Cumsum(leaf("log_scalar", I), I)
    for word, a, s, strict in (
        ("to a token", SINCE, scalar, False),
        ("to a token, strict", SINCE, scalar, True),
        ("before a token", Shift(SINCE, I, 1), Shift(scalar, I, 1), True),
    ):
        b, where = Rename(SINCE, ((I, J),)), Triangle(I, J, strict)
        found |= {
            f"decay {word}": Decay(s, Rename(scalar, ((I, J),)), where),
            f"decay of channels {word}": Decay(a, b, where),
            f"gated contract {word}": GatedContract(x, y, a, b, KEY, where),
            f"gated apply {word} over col": GatedApply(m, y, a, b, KEY, where, J),
            f"gated apply {word} over row": GatedApply(m, x, a, b, KEY, where, I),
        }
    return found


def substitutions() -> dict[str, Node]:
    """Bodies that are elementwise, gated, row-coupled, with parameters per token, and constant."""
    tanh = elementwise(sp.tanh(X) * Y, R, RATE)
    square = reduce_sum(elementwise(X**2, R), (VALUE,))
    coupled = elementwise(X * Z / (1 + Y), R, square, SCALE)
    softmax = elementwise(sp.exp(X), R)
    softmax = elementwise(X / Y, softmax, reduce_sum(softmax, (VALUE,)))
    mix = Input("mix", (VALUE, hidden("other")), Role.HOLE)
    mixed = contract(mix, rename(R, {VALUE: hidden("other")}), (hidden("other"),))
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
            LOWER, P, mixed, R, ((mix, leaf("mixes", I, VALUE, hidden("other"))),)
        ),
        "substitute, gated": ForwardSubstitution(LOWER, P, tanh, R, (RATES,), GATES),
        "substitute, gated and coupled": ForwardSubstitution(
            LOWER, P, coupled, R, (SCALES,), GATES
        ),
        "substitute, same gate twice": ForwardSubstitution(
            LOWER, P, tanh, R, (RATES,), (GATES[0], GATES[0])
        ),
        "substitute, gated by a decay": ForwardSubstitution(
            LOWER, P, tanh, R, (RATES,), (Cumsum(GATES[0], I), Cumsum(GATES[0], I))
        ),
        "substitute, gated by the decays before": ForwardSubstitution(
            LOWER, P, tanh, R, (RATES,), (Shift(Cumsum(GATES[0], I), I, 1), Cumsum(GATES[0], I))
        ),
        "substitute, two parameters": ForwardSubstitution(
            LOWER, P, elementwise(sp.sin(X * Y) + Z, R, RATE, SCALE), R, (RATES, SCALES)
        ),
    }


NODES: dict[str, Node] = {
    "input": A,
    "number": Contract(A, Broadcast(Number(sp.Rational(1, 3)), (KEY,)), (KEY,)),
    "extent": elementwise(X / Y, A, AxisSize(KEY)),
    "mean": reduce_mean(A, (KEY,)),
    "map": Map(sp.tanh(X) * Y + Z**2, (A, leaf("row", I), leaf("scalar"))),
    "map, broadcast both ways": Map(sigmoid(X * Y), (leaf("row", I), leaf("u", VALUE))),
    "contract": Contract(A, B, (KEY,)),
    "contract, two axes": Contract(
        leaf("E", I, KEY, VALUE), leaf("F", hidden("hidden"), VALUE, KEY), (KEY, VALUE)
    ),
    "contract, shared axis kept": Contract(A, leaf("F", I, KEY, hidden("hidden")), (KEY,)),
    "contract with itself": Contract(A, A, (KEY,)),
    "sum": Reduce("sum", A, (KEY,)),
    "sum over tokens": Reduce("sum", A, (I, KEY)),
    "max shifts a softmax": elementwise(
        X / Y,
        elementwise(sp.exp(X - Y), A, Reduce("max", A, (KEY,))),
        reduce_sum(elementwise(sp.exp(X - Y), A, Reduce("max", A, (KEY,))), (KEY,)),
    ),
    "spread": Broadcast(leaf("row", I), (hidden("hidden"), KEY)),
    "spread, used": Broadcast(leaf("row", I), (KEY,)) * A,
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
    "put": PlaceLast(leaf("u", VALUE), I),
    "put the second": PlaceLast(leaf("row", I), J),
    "split": Split(A, I, BLOCK, ROW, 2),
    "split the second": Split(T, J, BLOCK, ROW, 2),
    "join": Join(leaf("parts", BLOCK, ROW, KEY), I, BLOCK, ROW, 2),
    "join the second": Join(leaf("pieces", I, ROW, BLOCK), J, BLOCK, ROW, 2),
    "inverse of blocks": Inverse(Mask(leaf("boxes", I, J, BLOCK), Triangle(J, I, True)), J, I),
    "inverse": Inverse(LOWER, I, J),
    "inverse, transposed": Inverse(Mask(T, Triangle(J, I, True)), J, I),
    "inverse applied twice": Contract(
        Inverse(LOWER, I, J), Rename(Inverse(LOWER, I, J), ((I, J), (J, L))), (J,)
    ),
    **triangle(True),
    **triangle(False),
    **decays(),
    **substitutions(),
}
