"""Formulas of stage 2: trees of `Number`, `Ref` and `Apply` whose every node knows its axes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import sympy as sp

from .source import NOWHERE, Span

Axis = str
Axes = tuple[Axis, ...]

POINTWISE: Mapping[str, int] = {
    # operation: number of operands.  Operands broadcast: axes are united by name.
    "add": 2, "sub": 2, "mul": 2, "div": 2, "pow": 2, "neg": 1,
    "abs": 1, "sign": 1, "exact_sign": 1, "sqrt": 1, "exp": 1, "log": 1,
    "sin": 1, "cos": 1, "tanh": 1, "sinh": 1, "cosh": 1, "erf": 1,
    "sigmoid": 1, "softplus": 1, "relu": 1, "silu": 1, "gelu": 1, "gelu_tanh": 1,
    "max": 2, "min": 2,
    "where": 3, "lt": 2, "le": 2, "gt": 2, "ge": 2, "eq": 2, "and": 2, "or": 2, "not": 1,
}  # fmt: skip
"""Elementwise operations.  `sign` is `tanh(10 x)` as in the Miras paper; `exact_sign` is the step.
`gelu` is the exact one (erf), `gelu_tanh` the tanh approximation.  Comparisons give 0 or 1."""

TENSOR: Mapping[str, str] = {
    "contract": "a @ b: sum of products over the axes in options['over'] (matrix @ vector, or dot)",
    "outer": "all products of two vectors",
    "sum": "sum over options['over']",
    "mean": "mean over options['over']",
    "norm": "p-norm over options['over']; options['p'] is a number, 2 by default",
    "retag": "the same numbers on other axes of the same size; options['axes'] = ((old, new), ...)",
    "layernorm": "(x - mean) / sqrt(var + 1e-6) over options['over'], times weight plus shift if affine",
    "softmax": "softmax over options['over']",
    "orthogonal": "Newton-Schulz on a matrix; options['steps']",
}
"""Operations along an axis."""

FEATURE: Mapping[str, str] = {
    "linear": "learned linear map of a feature vector; options: rank (0 = full), size (0 = own axes)",
    "shift": "the previous token's value; zero before the first",
    "conv": "causal depthwise convolution; options['width']",
    "normalize": "x / max(|x|, 1e-6), the l2 norm over options['over']",
    "topk": "the options['count'] largest entries over options['over'], the first of equal ones; else 0",
    "param": "a learned constant per head; options['init'] is a number",
}
"""Operations of the layer that computes a memory's tokens and gates, trained by the outer loss.

They appear in the formulas of `Token` and `Gate` only: where a bias, a read, a retention or a rule
uses one (`param(1) * key`), the checker has made a token or gate of it (`_1`, `_2` …).  Those with
parameters (linear, conv, param) have an option `index`, which is different for each of them."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number as written, exact (a sympy Integer, Rational or Float of 17 digits)."""

    value: sp.Number
    span: Span = field(default=NOWHERE, compare=False, repr=False)
    axes: Axes = ()


@dataclass(frozen=True, slots=True)
class Ref:
    """A resolved name.

    kind is one of
    token   a per-token vector of the memory: query, key, value or one of its own
    gate    a per-token gate (`axes` may hold `row`, see `Gate`)
    state   a weight of the memory: its current value
    carry   a carried tensor of the algorithm (momentum), one per weight
    keep    `keep(W)`: the weight after its decay, inside an algorithm's rule; its name is `W` where
            the rule holds for every weight, else that of the weight
    weight  `W` inside an algorithm's rule: each weight in turn
    newest  a weight by its own name inside a rule: as the rules before have left it
    grad    the gradient of the bias for that weight, term rates applied
    size    a size parameter (d, dk, …) used as a number
    x       the layer's input
    head    `head`, the number of the head, from 1; or `heads`, how many there are
    input   the input of the network `M(x)` while it is declared
    constant  a learned constant of the network, one per head (`Network.params`)
    dual    `a` of a link, `w` of a potential, `w0` of a penalty (by that name)
    position  the token's position in its block, from 1 (anchored rules only)
    """

    name: str
    kind: str
    axes: Axes = ()
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Apply:
    """An operation of `POINTWISE`, `TENSOR` or `FEATURE` on its operands; `axes` is its shape."""

    op: str
    args: tuple[Expr, ...]
    axes: Axes = ()
    options: tuple[tuple[str, object], ...] = ()
    span: Span = field(default=NOWHERE, compare=False, repr=False)

    def option(self, name: str, default: object = None) -> object:
        """The option called ``name``, or ``default``."""
        return dict(self.options).get(name, default)


Expr = Number | Ref | Apply


def iter_nodes(expr: Expr) -> Iterator[Expr]:
    """Every node of a formula, operands before the operation that uses them; a shared one each time."""
    stack: list[tuple[Expr, bool]] = [(expr, False)]
    while stack:
        node, opened = stack.pop()
        if opened or not isinstance(node, Apply):
            yield node
        else:
            stack.append((node, True))
            stack.extend((arg, False) for arg in reversed(node.args))
