"""Chunk forms of matrix memories, written by hand as programs.

The compiler derives such programs; here they stand as on paper, to prove the operations themselves.
Axes: value and key of the state S[value, key]; tokens #i (now) and #j (before).
"""

from __future__ import annotations

from collections.abc import Callable

import sympy as sp

from miras_dsl.ir import (
    KEY,
    ONE,
    VALUE,
    Axis,
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
    M,
    Map,
    Mask,
    Node,
    Program,
    Role,
    Shift,
    TakeLast,
    Triangle,
    contract,
    elementwise,
    reduce_sum,
    rename,
)
from miras_dsl.scalar.functions import (
    OPERANDS,
    abs_pow,
    absolute,
    ge0,
    minimum,
    sign,
    signed_pow,
    sqrt,
    where,
)

X, Y, Z = OPERANDS[:3]

Bias = tuple[Node, Input, tuple[Input, ...]]
"""The body g = φ(r), its hole r, and the holes of its parameters."""


def token(name: str, *axes: Axis) -> Input:
    return Input(name, (I, *axes), Role.TOKEN)


def state(name: str, *axes: Axis) -> Input:
    return Input(name, axes, Role.STATE)


def j(x: Node) -> Node:
    """The same rows, counted as the tokens before."""
    return rename(x, {I: J})


def exp(x: Node) -> Node:
    return elementwise(sp.exp(X), x)


def log(x: Node) -> Node:
    return elementwise(sp.log(X), x)


def last(x: Node) -> Node:
    return TakeLast(x, I)


def over(axis: Axis, a: Node, b: Node) -> Node:
    return contract(a, b, (axis,))


def program(results: dict[str, Node], *inputs: Input) -> Program:
    """A program whose carried states are its state inputs; their next values have their names."""
    carried = tuple((x, x.name) for x in inputs if x.role is Role.STATE)
    return Program(inputs, tuple(results.items()), carried)


Q, K, V = token("q", KEY), token("k", KEY), token("v", VALUE)
S = state("S", VALUE, KEY)
ALPHA, ETA = token("alpha"), token("eta")
QK, KK = over(KEY, Q, j(K)), over(KEY, K, j(K))


def hebbian() -> Program:
    """2.1, one gate per token."""
    lb = Cumsum(log(ALPHA), I)
    scores = Decay(lb, j(lb), Triangle(I, J, False)) * QK
    y = exp(lb) * over(KEY, Q, S) + over(J, scores, j(V))
    after = exp(last(lb)) * S + over(I, V * exp(last(lb) - lb), K)
    return program({"y": y, "S": after}, Q, K, V, ALPHA, S)


def hebbian_channel() -> Program:
    """2.1, one gate per key channel."""
    alpha = token("alpha", KEY)
    lb = Cumsum(log(alpha), I)
    scores = GatedContract(Q, j(K), lb, j(lb), KEY, Triangle(I, J, False))
    y = over(KEY, Q * exp(lb), S) + over(J, scores, j(V))
    after = S * exp(last(lb)) + over(I, V, K * exp(last(lb) - lb))
    return program({"y": y, "S": after}, Q, K, V, alpha, S)


def delta(decay_first: bool, split: bool, keep: Callable[[Node], Node] = lambda w: w) -> Program:
    """2.2; `split` writes E = T V - (T (c K)) S^T.  `keep` acts on the state at the chunk's end."""
    lb = Cumsum(log(ALPHA), I)
    lc = lb if decay_first else Shift(lb, I, 1)
    inverse = Inverse(Decay(lc, j(lb), Triangle(I, J, True)) * KK * j(ETA), I, J)
    if split:
        e = over(J, inverse, j(V)) - over(KEY, over(J, inverse, j(exp(lc) * K)), S)
    else:
        e = over(J, inverse, j(V - exp(lc) * over(KEY, K, S)))
    y = exp(lb) * over(KEY, Q, S) + over(
        J, Decay(lb, j(lb), Triangle(I, J, False)) * QK * j(ETA), j(e)
    )
    after = exp(last(lb)) * S + over(I, e * (ETA * exp(last(lb) - lb)), K)
    return program({"y": y, "S": keep(after)}, Q, K, V, ALPHA, ETA, S)


def diagonal_plus_rank_one() -> Program:
    """2.3: S = S (Diag(w) + x z^T) + v k^T."""
    w, x, z = token("w", KEY), token("x", KEY), token("z", KEY)
    lw = log(w)
    lb = Cumsum(lw, I)
    before = lb - lw

    def scores(a: Node, b: Node, gate: Node, strict: bool) -> Node:
        return GatedContract(a, j(b), gate, j(lb), KEY, Triangle(I, J, strict))

    seen = over(KEY, x * exp(before), S) + over(J, scores(x, K, before, True), j(V))
    u = over(J, Inverse(-scores(x, z, before, True), I, J), j(seen))
    y = over(KEY, Q * exp(lb), S)
    y = y + over(J, scores(Q, z, lb, False), j(u)) + over(J, scores(Q, K, lb, False), j(V))
    rest = exp(last(lb) - lb)
    after = S * exp(last(lb)) + over(I, u, z * rest) + over(I, V, K * rest)
    return program({"y": y, "S": after}, Q, K, V, w, x, z, S)


R = Input("r", (VALUE,), Role.HOLE)
DELTA = Input("delta_row", (), Role.HOLE)
_SQUARE = reduce_sum(elementwise(X**2, R), (VALUE,))
_SHIFTED = elementwise(sp.exp(X - Y), R, over(VALUE, R, ONE) * 0.5)

BIASES: dict[str, Bias] = {
    "l2": (R, R, ()),
    "l3": (elementwise(3 * signed_pow(X, 2), R), R, ()),
    "l1.5": (elementwise(abs_pow(X, sp.Rational(3, 2)).diff(X), R), R, ()),
    "logcosh": (elementwise(sp.tanh(X), R), R, ()),
    "huber": (elementwise(minimum(absolute(X), Y) * sign(X), R, DELTA), R, (DELTA,)),
    "norm_huber": (
        elementwise(X * where(ge0(Z - Y), 1, Z / Y), R, elementwise(sqrt(X), _SQUARE), DELTA),
        R,
        (DELTA,),
    ),
    "mixture": (
        elementwise(
            where(ge0(Z - Y), X, Z * sp.tanh(10 * X)), R, elementwise(sqrt(X), _SQUARE), DELTA
        ),
        R,
        (DELTA,),
    ),
    "softmax": (elementwise(X / Y, _SHIFTED, reduce_sum(_SHIFTED, (VALUE,))), R, ()),
}
"""Slopes φ of biases: elementwise, with a parameter per token, and coupled across a row."""


def solve(coupling: Node, p: Node, bias: str, gates: tuple[Node, Node] | None = None) -> Node:
    """Rows g_i = φ(p_i - sum_{j<i} coupling_ij g_j)."""
    body, hole, holes = BIASES[bias]
    rows = tuple((h, token("delta")) for h in holes)
    return ForwardSubstitution(-coupling, p, body, hole, rows, gates)


def extras(bias: str) -> tuple[Input, ...]:
    return (token("delta"),) if BIASES[bias][2] else ()


def any_bias(bias: str, decay_first: bool) -> Program:
    """2.4, one gate per token."""
    lb = Cumsum(log(ALPHA), I)
    lc = lb if decay_first else Shift(lb, I, 1)
    coupling = Decay(lc, j(lb), Triangle(I, J, True)) * KK * j(ETA)
    g = solve(coupling, exp(lc) * over(KEY, K, S) - V, bias)
    y = exp(lb) * over(KEY, Q, S) - over(
        J, Decay(lb, j(lb), Triangle(I, J, False)) * QK * j(ETA), j(g)
    )
    after = exp(last(lb)) * S - over(I, g * (ETA * exp(last(lb) - lb)), K)
    return program({"y": y, "S": after}, Q, K, V, ALPHA, ETA, *extras(bias), S)


def any_bias_channel(bias: str, decay_first: bool) -> Program:
    """2.4, one gate per key channel."""
    alpha = token("alpha", KEY)
    lb = Cumsum(log(alpha), I)
    lc = lb if decay_first else Shift(lb, I, 1)
    coupling = GatedContract(K, j(K), lc, j(lb), KEY, Triangle(I, J, True)) * j(ETA)
    g = solve(coupling, over(KEY, K * exp(lc), S) - V, bias)
    scores = GatedContract(Q, j(K), lb, j(lb), KEY, Triangle(I, J, False))
    y = over(KEY, Q * exp(lb), S) - over(J, scores * j(ETA), j(g))
    after = S * exp(last(lb)) - over(I, g * ETA, K * exp(last(lb) - lb))
    return program({"y": y, "S": after}, Q, K, V, alpha, ETA, *extras(bias), S)


def row_gates() -> Program:
    """2.6: decay and rate per value channel, log-cosh bias, predict first."""
    alpha, eta = token("alpha", VALUE), token("eta", VALUE)
    lb = Cumsum(log(alpha), I)
    lc = Shift(lb, I, 1)
    rate = Input("eta_row", (VALUE,), Role.HOLE)
    body = elementwise(Y * sp.tanh(X), R, rate)
    p = exp(lc) * over(KEY, K, S) - V
    g = ForwardSubstitution(-Mask(KK, Triangle(I, J, True)), p, body, R, ((rate, eta),), (lc, lb))
    y = exp(lb) * over(KEY, Q, S) - GatedApply(QK, j(g), lb, j(lb), VALUE, Triangle(I, J, False), J)
    after = exp(last(lb)) * S - over(I, g * exp(last(lb) - lb), K)
    return program({"y": y, "S": after}, Q, K, V, alpha, eta, S)


def momentum(bias: str, anchored: bool) -> Program:
    """2.7: N = mu N - eta g, S = alpha S + N."""
    mu, carried = token("mu"), state("N", VALUE, KEY)
    lb, lm = Cumsum(log(ALPHA), I), Cumsum(log(mu), I)
    decay, slow = Decay(lb, j(lb), Triangle(I, J, False)), Decay(lm, j(lm), Triangle(I, J, False))
    both = over(L, rename(decay, {J: L}), rename(slow, {I: L}))
    b, f = exp(lb), over(J, decay, j(exp(lm)))
    if anchored:
        body, _, _ = BIASES[bias]
        g = (
            elementwise(body.formula, over(KEY, K, S) - V)
            if isinstance(body, Map)
            else over(KEY, K, S) - V
        )
    else:
        p = exp(Shift(lb, I, 1)) * over(KEY, K, S) + Shift(f, I, 1) * over(KEY, K, carried) - V
        g = solve(Shift(both, I, 1) * KK * j(ETA), p, bias)
    y = b * over(KEY, Q, S) + f * over(KEY, Q, carried) - over(J, QK * both * j(ETA), j(g))

    def written(weights: Node) -> Node:
        return over(I, g * (rename(last(weights), {J: I}) * ETA), K)

    after = last(b) * S + last(f) * carried - written(both)
    after_n = exp(last(lm)) * carried - written(slow)
    return program({"y": y, "S": after, "N": after_n}, Q, K, V, ALPHA, mu, ETA, S, carried)


def window(width: int, chunk: int) -> Program:
    """2.8, anchored: each step descends on the last `width` <= `chunk` tokens, at the chunk's first
    state.  The chunk before is carried as a whole; its tokens are #m."""
    past = state("kp", M, KEY), state("vp", M, VALUE), state("ep", M)
    kp, vp, ep = past
    lb = Cumsum(log(ALPHA), I)
    decay = rename(Decay(lb, j(lb), Triangle(I, J, False)), {J: L})
    lower = Mask(ONE, Triangle(L, J, False))
    late: Node = lower
    for _ in range(width):
        late = Shift(late, L, 1)
    reach: Node = Mask(ONE, Triangle(M, L, True))
    for _ in range(chunk - width):
        reach = Shift(reach, M, 1)
    here = over(L, decay, (lower - late) * j(ETA))
    there = over(L, decay, reach * ep)
    u = elementwise(sp.tanh(X), over(KEY, K, S) - V)
    up = elementwise(sp.tanh(X), over(KEY, kp, S) - vp)
    y = exp(lb) * over(KEY, Q, S) - over(J, QK * here, j(u))
    y = y - over(M, over(KEY, Q, kp) * there, up)
    after = exp(last(lb)) * S - over(I, u * rename(last(here), {J: I}), K)
    after = after - over(M, up * last(there), kp)
    moved = {x.name: rename(now, {I: M}) for x, now in zip(past, (K, V, ETA), strict=True)}
    return program({"y": y, "S": after, **moved}, Q, K, V, ALPHA, ETA, S, *past)


def soft_threshold() -> Program:
    """2.10: the delta rule inside a chunk, a soft threshold on the state at its end."""
    gamma = Input("gamma", (), Role.CONSTANT)
    shrink = sign(X) * (absolute(X) - Y) * ge0(absolute(X) - Y)
    base = delta(False, True, lambda w: elementwise(shrink, w, gamma))
    return program(dict(base.results), *base.inputs, gamma)
