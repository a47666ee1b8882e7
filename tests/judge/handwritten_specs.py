"""Stage-2 specs written by hand, so that the judge is tested without the parser."""

from __future__ import annotations

import sympy as sp

from miras_dsl.spec import (
    Algorithm,
    Apply,
    Decay,
    Expr,
    Gate,
    Interval,
    Loss,
    MemorySpec,
    Network,
    Number,
    Ref,
    Retention,
    State,
    Token,
    Write,
)

K, V, H = ("key",), ("value",), ("h1",)
KEY, VALUE, QUERY = Ref("key", "token", K), Ref("value", "token", V), Ref("query", "token", K)
W = Ref("W", "state", ("value", "key"))
INPUT = Ref("x", "input", K)
KEEP, GRAD, WEIGHT = Ref("W", "keep"), Ref("grad", "grad"), Ref("W", "weight")


def num(value: float | str) -> Number:
    """A number as it would be written."""
    return Number(sp.nsimplify(value, rational=True))


def op(name: str, *args: Expr | float, axes: tuple[str, ...] = (), **options: object) -> Apply:
    """An operation; plain numbers are allowed as operands."""
    operands = tuple(num(a) if isinstance(a, int | float) else a for a in args)
    return Apply(name, operands, axes, tuple(options.items()))


def at(weight: Expr, vector: Expr, over: str = "key", axes: tuple[str, ...] = V) -> Apply:
    """``weight @ vector``."""
    return op("contract", weight, vector, axes=axes, over=(over,))


def gate(name: str, axes: tuple[str, ...] = (), low: float = 0.0, high: float = 1.0) -> Gate:
    """A gate with a stated range; the formula plays no part in the judge."""
    return Gate(name, axes, op("sigmoid", op("linear", Ref("x", "x"))), Interval(low, high))


def g(name: str, axes: tuple[str, ...] = ()) -> Ref:
    """A reference to a gate."""
    return Ref(name, "gate", axes)


def squared(residual: Expr) -> Apply:
    """Half the squared norm."""
    return op("div", op("sum", op("pow", residual, 2), over=V), 2)


RESIDUAL = op("sub", at(W, KEY), VALUE, axes=V)
GD = (("W", op("sub", KEEP, op("mul", g("eta"), GRAD))),)
MOMENTUM = (
    (
        "S",
        op("sub", op("mul", g("mu"), Ref("S", "carry")), op("mul", g("eta"), GRAD)),
    ),
    ("W", op("add", KEEP, Ref("S", "carry"))),
)
DECAY_FIRST = ("decay", "predict", "write", "read")
PREDICT_FIRST = ("predict", "decay", "write", "read")


def matrix(
    *,
    loss: Expr | None = None,
    terms: tuple[Loss | Write, ...] | None = None,
    gates: tuple[Gate, ...] = (gate("alpha"), gate("eta")),
    retention: Retention | None = None,
    algorithm: Algorithm | None = None,
    order: tuple[str, ...] = DECAY_FIRST,
    tokens: tuple[Token, ...] = (
        Token("query", K, None),
        Token("key", K, None),
        Token("value", V, None),
    ),
    read: Expr | None = None,
) -> MemorySpec:
    """A matrix memory; the gated delta rule unless told otherwise."""
    return MemorySpec(
        name="Form",
        params=(("dk", None), ("dv", None)),
        sizes=(("key", sp.Symbol("dk")), ("value", sp.Symbol("dv"))),
        tokens=tokens,
        gates=gates,
        states=(State("W", ("value", "key"), "zero"),),
        network=Network(INPUT, at(W, INPUT)),
        terms=terms or (Loss("", loss or squared(RESIDUAL), num(1)),),
        retention=retention or Retention((Decay(g("alpha")),)),
        algorithm=algorithm or Algorithm(GD),
        order=order,
        read=read or at(W, QUERY),
    )


def network(x: Expr, *, residual: bool = True) -> Expr:
    """W1 gelu(W2 x), plus x."""
    hidden = op("gelu", at(Ref("W2", "state", ("h1", "key")), x, axes=H), axes=H)
    out = at(Ref("W1", "state", ("value", "h1")), hidden, "h1")
    same = Apply("retag", (x,), V, (("axes", (("key", "value"),)),))
    return op("add", same, out, axes=V) if residual else out


def mlp(
    *,
    loss: Expr | None = None,
    gates: tuple[Gate, ...] = (gate("alpha"), gate("eta")),
    retention: Retention | None = None,
    algorithm: Algorithm,
    order: tuple[str, ...] = PREDICT_FIRST,
    body: Expr | None = None,
) -> MemorySpec:
    """A memory with one hidden layer, both weights learned."""
    miss = op("sub", network(KEY), VALUE, axes=V)
    return MemorySpec(
        name="Deep",
        params=(("d", None),),
        sizes=(("key", sp.Symbol("d")), ("value", sp.Symbol("d")), ("h1", 2 * sp.Symbol("d"))),
        tokens=(Token("query", K, None), Token("key", K, None), Token("value", V, None)),
        gates=gates,
        states=(State("W1", ("value", "h1"), "learned"), State("W2", ("h1", "key"), "learned")),
        network=Network(INPUT, body or network(INPUT)),
        terms=(Loss("", loss or squared(miss), num(1)),),
        retention=retention or Retention((Decay(g("alpha")),)),
        algorithm=algorithm,
        order=order,
        read=network(QUERY),
    )
