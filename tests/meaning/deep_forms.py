"""Chunk forms of networks and links, written by hand as programs.

Axes: W2[hidden, key], W1[value, hidden]; a residual renames key to value, so there dk = dv.
"""

from __future__ import annotations

import sympy as sp

from miras_dsl.ir import (
    KEY,
    VALUE,
    Cumsum,
    Decay,
    I,
    Input,
    J,
    L,
    Node,
    Program,
    Reduce,
    Role,
    Shift,
    Triangle,
    broadcast,
    elementwise,
    hidden,
    reduce_mean,
    reduce_sum,
    rename,
)
from miras_dsl.scalar.functions import (
    OPERANDS,
    absolute,
    erf,
    minimum,
    rsqrt,
    sigmoid,
    sign,
    sqrt,
)
from tests.meaning.forms import (
    ALPHA,
    ETA,
    KK,
    QK,
    K,
    Q,
    S,
    V,
    exp,
    j,
    last,
    log,
    over,
    program,
    state,
    token,
)

X, Y = OPERANDS[:2]
GELU = X * (1 + erf(X / sp.sqrt(2))) / 2
SILU = X * sigmoid(X)
CLIP = sign(X) * minimum(absolute(X), sp.Rational(7, 10))
EPS = sp.Rational(1, 100)

W1, W2, W3 = (
    state("W1", VALUE, hidden("hidden")),
    state("W2", hidden("hidden"), KEY),
    state("W3", hidden("hidden"), KEY),
)


def act(x: Node) -> Node:
    return elementwise(GELU, x)


def slope(formula: sp.Expr, x: Node) -> Node:
    return elementwise(formula.diff(X), x)


def as_value(x: Node) -> Node:
    return rename(x, {KEY: VALUE})


def normalized(z: Node) -> tuple[Node, Node]:
    """A layer norm without its weights, and 1 / its standard deviation."""
    centred = z - reduce_mean(z, (VALUE,))
    scale = elementwise(rsqrt(X + EPS), reduce_mean(elementwise(X**2, centred), (VALUE,)))
    return centred * scale, scale


def mlp() -> Program:
    """2.9 with residual, layer norm, log-cosh bias; gradients at the chunk's first weights."""
    gain, shift = Input("gain", (VALUE,), Role.CONSTANT), Input("shift", (VALUE,), Role.CONSTANT)
    a = over(KEY, K, W2)
    h = act(a)
    zh, scale = normalized(over(hidden("hidden"), h, W1))
    u = elementwise(sp.tanh(X), as_value(K) + gain * zh + shift - V) * gain
    d1 = (u - reduce_mean(u, (VALUE,)) - zh * reduce_mean(u * zh, (VALUE,))) * scale
    d2 = over(VALUE, d1, W1) * slope(GELU, a)

    lb = Cumsum(log(ALPHA), I)
    weights = Decay(lb, j(lb), Triangle(I, J, False)) * j(ETA)
    hq = act(exp(lb) * over(KEY, Q, W2) - over(J, QK * weights, j(d2)))
    zq = exp(lb) * over(hidden("hidden"), hq, W1) - over(
        J, over(hidden("hidden"), hq, j(h)) * weights, j(d1)
    )
    y = as_value(Q) + gain * normalized(zq)[0] + shift
    w = ETA * exp(last(lb) - lb)
    after = {
        "W1": exp(last(lb)) * W1 - over(I, d1 * w, h),
        "W2": exp(last(lb)) * W2 - over(I, d2 * w, K),
    }
    return program({"y": y, **after}, Q, K, V, ALPHA, ETA, gain, shift, W1, W2)


def glu() -> Program:
    """2.9, W1 (silu(W2 x) * (W3 x)) under the squared error, anchored."""
    a, c = over(KEY, K, W2), over(KEY, K, W3)
    s = elementwise(SILU, a)
    h = s * c
    e = over(hidden("hidden"), h, W1) - V
    back = over(VALUE, e, W1)
    d2, d3 = back * c * slope(SILU, a), back * s

    lb = Cumsum(log(ALPHA), I)
    weights = Decay(lb, j(lb), Triangle(I, J, False)) * j(ETA)
    aq = exp(lb) * over(KEY, Q, W2) - over(J, QK * weights, j(d2))
    cq = exp(lb) * over(KEY, Q, W3) - over(J, QK * weights, j(d3))
    hq = elementwise(SILU, aq) * cq
    y = exp(lb) * over(hidden("hidden"), hq, W1) - over(
        J, over(hidden("hidden"), hq, j(h)) * weights, j(e)
    )
    w = ETA * exp(last(lb) - lb)
    after = {
        "W1": exp(last(lb)) * W1 - over(I, e * w, h),
        "W2": exp(last(lb)) * W2 - over(I, d2 * w, K),
        "W3": exp(last(lb)) * W3 - over(I, d3 * w, K),
    }
    return program({"y": y, **after}, Q, K, V, ALPHA, ETA, W1, W2, W3)


def softmax_link() -> Program:
    """2.10: S is the dual, W = softmax of its rows at the chunk's start; gradients at W, reads with
    W plus what the dual has moved since."""
    top = broadcast(Reduce("max", S, (KEY,)), (KEY,))
    lifted = elementwise(sp.exp(X - Y), S, top)
    w = elementwise(X / Y, lifted, reduce_sum(lifted, (KEY,)))
    g = elementwise(sp.tanh(X), over(KEY, K, w) - V)
    lb = Cumsum(log(ALPHA), I)
    moved = (exp(lb) - 1.0) * over(KEY, Q, S)
    moved = moved - over(J, Decay(lb, j(lb), Triangle(I, J, False)) * QK * j(ETA), j(g))
    after = exp(last(lb)) * S - over(I, g * (ETA * exp(last(lb) - lb)), K)
    return program({"y": over(KEY, Q, w) + moved, "S": after}, Q, K, V, ALPHA, ETA, S)


def norm_link() -> Program:
    """2.10 with a link that couples the whole state: W = S / |S|, anchored, read at W."""
    size = elementwise(sqrt(X), reduce_sum(elementwise(X**2, S), (VALUE, KEY)))
    w = elementwise(X / Y, S, size)
    g = over(KEY, K, w) - V
    lb = Cumsum(log(ALPHA), I)
    after = exp(last(lb)) * S - over(I, g * (ETA * exp(last(lb) - lb)), K)
    return program({"y": over(KEY, Q, w), "S": after}, Q, K, V, ALPHA, ETA, S)


def sweeps(count: int) -> Program:
    """2.14: residual GELU network with momentum, clipped error, `count` coupled trajectories."""
    mu = token("mu")
    n1, n2 = state("N1", VALUE, hidden("hidden")), state("N2", hidden("hidden"), KEY)
    lb, lm = Cumsum(log(ALPHA), I), Cumsum(log(mu), I)
    decay, slow = Decay(lb, j(lb), Triangle(I, J, False)), Decay(lm, j(lm), Triangle(I, J, False))
    both = over(L, rename(decay, {J: L}), rename(slow, {I: L}))
    weights, earlier = both * j(ETA), Shift(both, I, 1) * j(ETA)
    b, f = exp(lb), over(J, decay, j(exp(lm)))
    c, g = exp(Shift(lb, I, 1)), Shift(f, I, 1)

    a = over(KEY, K, W2)
    h = act(a)
    e = elementwise(CLIP, over(hidden("hidden"), h, W1) + as_value(K) - V)
    d2 = over(VALUE, e, W1) * slope(GELU, a)
    for _ in range(count - 1):
        a = c * over(KEY, K, W2) + g * over(KEY, K, n2) - over(J, KK * earlier, j(d2))
        new = act(a)
        seen = c * over(hidden("hidden"), new, W1) + g * over(hidden("hidden"), new, n1)
        seen = seen - over(J, over(hidden("hidden"), new, j(h)) * earlier, j(e))
        error = elementwise(CLIP, seen + as_value(K) - V)
        back = c * over(VALUE, error, W1) + g * over(VALUE, error, n1)
        back = back - over(J, over(VALUE, error, j(e)) * earlier, j(h))
        d2, e, h = back * slope(GELU, a), error, new

    hq = act(b * over(KEY, Q, W2) + f * over(KEY, Q, n2) - over(J, QK * weights, j(d2)))
    y = b * over(hidden("hidden"), hq, W1) + f * over(hidden("hidden"), hq, n1) + as_value(Q)
    y = y - over(J, over(hidden("hidden"), hq, j(h)) * weights, j(e))

    def written(triangle: Node, left: Node, right: Node) -> Node:
        return over(I, left * (rename(last(triangle), {J: I}) * ETA), right)

    after = {
        "W1": last(b) * W1 + last(f) * n1 - written(both, e, h),
        "W2": last(b) * W2 + last(f) * n2 - written(both, d2, K),
        "N1": exp(last(lm)) * n1 - written(slow, e, h),
        "N2": exp(last(lm)) * n2 - written(slow, d2, K),
    }
    return program({"y": y, **after}, Q, K, V, ALPHA, mu, ETA, W1, W2, n1, n2)
