"""A delta rule written out, and the spec of a memory that uses it."""

from __future__ import annotations

import sympy as sp

from miras_dsl import spec
from miras_dsl.codegen.model.types import MemoryInput, StateTensor
from miras_dsl.ir import KEY, VALUE
from miras_dsl.source import Source, Span

TEXT = '''
def {name}_step(*, query, key, value, log_alpha, eta, skip, state, cu_seqlens=None):
    """One token: predict, decay, write, read."""
    W = state["W"]
    query, key, value = (u.to(W.dtype) for u in (query, key, value))
    error = torch.einsum("bhvk,bhk->bhv", W, key) - value
    write = eta[..., None, None] * error[..., :, None] * key[..., None, :]
    W = log_alpha.exp()[..., None, None] * W - write
    y = torch.einsum("bhvk,bhk->bhv", W, query) + skip * value
    return y, {{"W": W}}


def {name}_memory(*, query, key, value, log_alpha, eta, skip, state, cu_seqlens=None):
    """Every token of every sequence, one after the other."""
    if cu_seqlens is not None:
        ends = cu_seqlens.ends
        answers, kept = [], []
        for n, (first, end) in enumerate(zip(ends, ends[1:])):
            row = {{name: S[n : n + 1] for name, S in state.items()}}
            some = [u[:, first:end] for u in (query, key, value, log_alpha, eta)]
            names = ("query", "key", "value", "log_alpha", "eta")
            y, row = {name}_memory(**dict(zip(names, some)), skip=skip, state=row)
            answers.append(y)
            kept.append(row["W"])
        return torch.cat(answers, 1), {{"W": torch.cat(kept)}}
    answers = [value[:, :0]]
    for t in range(query.shape[1]):
        y, state = {name}_step(
            query=query[:, t], key=key[:, t], value=value[:, t], log_alpha=log_alpha[:, t],
            eta=eta[:, t], skip=skip, state=state,
        )
        answers.append(y[:, None])
    return torch.cat(answers, 1), state
'''

dk, dv, d = sp.symbols("dk dv d", positive=True, integer=True)
X = spec.Ref("x", "x", ("x",))


def span(line: int) -> Span:
    return Span(Source("dir/delta.mem", ""), 0, 0, line, 1)


def number(value: float) -> spec.Number:
    return spec.Number(sp.nsimplify(value))


def op(name: str, *args: spec.Expr, axes: spec.Axes = (), **options: object) -> spec.Apply:
    return spec.Apply(name, args, axes, tuple(options.items()))


def linear(axes: spec.Axes = (), of: spec.Expr = X, **options: object) -> spec.Apply:
    return op("linear", of, axes=axes, **options)


def param(axes: spec.Axes = (), init: float = 0) -> spec.Apply:
    return op("param", axes=axes, init=init)


def decay() -> spec.Apply:
    """exp(-exp(param) * softplus(linear(x) + param))"""
    rate = op("exp", param())
    step = op("softplus", op("add", linear(), param()))
    return op("exp", op("mul", op("neg", rate), step))


def gate(name: str, expr: spec.Expr, axes: spec.Axes = (), line: int = 7) -> spec.Gate:
    return spec.Gate(name, axes, expr, spec.Interval(0, 1), span(line))


def memory(
    name: str = "Delta",
    *,
    tokens: tuple[spec.Token, ...] | None = None,
    gates: tuple[spec.Gate, ...] | None = None,
    init: str = "learned",
) -> spec.MemorySpec:
    """A matrix memory; every field that the module does not look at is the simplest there is."""
    plain = (
        spec.Token("query", ("key",), None, span(3)),
        spec.Token("key", ("key",), None, span(3)),
        spec.Token("value", ("value",), None, span(3)),
    )
    usual = (
        gate("alpha", decay()),
        gate("eta", op("sigmoid", linear()), line=8),
        gate("skip", param(("value",), 0.5), ("value",), line=9),
    )
    W = spec.Ref("W", "state", ("value", "key"))
    key = spec.Ref("key", "token", ("key",))
    answer = op("contract", W, key, axes=("value",), over=("key",))
    return spec.MemorySpec(
        name=name,
        params=(("dk", None), ("dv", None)),
        sizes=(("key", dk), ("value", dv)),
        tokens=plain if tokens is None else tokens,
        gates=usual if gates is None else gates,
        states=(spec.State("W", ("value", "key"), init, span(4)),),
        network=spec.Network(spec.Ref("x", "input", ("key",)), answer),
        terms=(),
        retention=spec.Retention(),
        algorithm=spec.Algorithm((("W", W),)),
        order=("predict", "decay", "write", "read"),
        read=answer,
        span=span(1),
    )


FEEDS = (
    MemoryInput("query", "query", "token", (KEY,)),
    MemoryInput("key", "key", "token", (KEY,)),
    MemoryInput("value", "value", "token", (VALUE,)),
    MemoryInput("log_alpha", "alpha", "gate", (), log=True),
    MemoryInput("eta", "eta", "gate", ()),
    MemoryInput("skip", "skip", "constant", (VALUE,)),
)
WEIGHTS = (StateTensor("W", "W", (VALUE, KEY), "learned"),)
