"""Specs that an earlier version compiled to wrong numbers, or not at all.

Every one is judged in float64 over more than one chunk, packed, warm and split.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch

from miras_dsl.check import read
from miras_dsl.codegen.pipeline import compile_memory
from miras_dsl.runtime.judge.cases import Case
from miras_dsl.runtime.judge.certificate import certify
from miras_dsl.runtime.load.loader import implementation
from miras_dsl.source import Source
from miras_dsl.spec import MemorySpec

CASES = (
    Case("more than a chunk", (70,), (5, 3), keys=0.5),
    Case("two tokens, warm", (2, 2), (3, 6), warm=True, keys=0.0),
    Case("packed", (0, 1, 9, 3), (4, 4), packed=True, warm=True),
    Case("ends of every gate", (12,), (3, 4), keys=1.0, gates=1.0),
)
ETA = "eta = sigmoid(linear(x)) / 4"
ALPHA = "alpha = sigmoid(linear(x) + 2)"


def memory(
    *,
    bias: str = "l2",
    retention: str = "none",
    algorithm: str = "gd(eta), exact",
    order: str = "predict, write, read",
    gates: str = ETA,
    architecture: str = "W: matrix[value, key]",
    head: str = "Found(dk, dv)",
    read: str = "",
    tokens: str = "",
) -> str:
    asked = f"  read {read}\n" if read else ""
    asked += f"  tokens {{ {tokens} }}\n" if tokens else ""
    return (
        f"memory {head} {{\n  architecture {architecture}\n  bias {bias}\n"
        f"  retention {retention}\n  algorithm {algorithm}\n  order {order}\n{asked}"
        f"  gates {{ {gates} }}\n}}\n"
    )


def spec_of(text: str) -> MemorySpec:
    (spec,) = read(Source("found.mem", text)).memories.values()
    return spec


DECAY_FIRST = "decay, predict, write, read"
C = f"{ETA}   c = 1 + sigmoid(linear(x))"
DEEP = {"head": "Found(d)", "architecture": "mlp(hidden = 2 * d)"}
SPECS: dict[str, str] = {
    # A padded row must be as harmless as a real one: formulas divide by gates and tokens.
    "divided by a gate": memory(bias="sum(r^2) / c", gates=C),
    "a rate divided by a gate": memory(algorithm="{ W = keep(W) - eta / c * grad }, exact", gates=C),
    "a gate as a scale": memory(bias="c * sum(log(cosh(r / c)))", gates=C),
    "the logarithm of a gate": memory(bias="sum(r^2) * log(c)", gates=C),
    "divided by the size of a token": memory(bias="sum(r^2) / norm(value)"),
    "read divided by a gate": memory(read="(W @ query) / c", gates=C),
    "anchored and divided": memory(
        bias="sum(r^2) / c", algorithm="gd(eta), anchored(8)", gates=C.replace("/ 4", "/ 32")
    ),
    # A factor may be negative, or 0.
    "a negative momentum": memory(
        algorithm="momentum(eta, mu), exact", gates=f"{ETA}   mu = 0.9 * tanh(linear(x))"
    ),
    "a negative decay in a rule": memory(
        algorithm="{ W = alpha * keep(W) - eta * grad }, exact",
        gates=f"{ETA}   alpha = tanh(linear(x))",
    ),
    "a decay that may change the sign": memory(
        retention="decay alpha", order=DECAY_FIRST, gates=f"{ETA}   alpha = tanh(linear(x))"
    ),
    "a decay that may change the sign, among steps": memory(
        retention="decay alpha",
        order=DECAY_FIRST,
        algorithm="gd(eta), steps(2), exact",
        gates=f"{ETA}   alpha = tanh(linear(x))",
    ),
    "a constant decay below zero": memory(
        retention="decay -0.5", order=DECAY_FIRST
    ),
    "a decay per row that may change the sign": memory(
        retention="decay alpha",
        order="predict, decay, write, read",
        gates="eta = sigmoid(linear(x)) / 16   alpha[row] = tanh(linear(x))",
        algorithm="gd(eta), anchored(8)",
        **DEEP,
    ),
    "a negative coupling": memory(
        algorithm="{ carry S   S = 0.9 * S - grad   W = keep(W) + eta * S }, exact",
        gates="eta = 0.3 * tanh(linear(x))",
    ),
    "a decay that is a number times a gate": memory(
        algorithm="{ W = 0.9 * alpha * keep(W) - eta * grad }, exact", gates=f"{ETA}   {ALPHA}"
    ),
    "a decay that is an exponential": memory(
        algorithm="{ W = exp(-c) * keep(W) - eta * grad }, exact", gates=C
    ),
    # Sizes are numbers.
    "a mean": memory(bias="mean(r^2)"),
    "a mean of a network": memory(
        bias="mean(log(cosh(r)))",
        algorithm="gd(eta), anchored(8)",
        gates="eta = sigmoid(linear(x)) / 8",
        **DEEP,
    ),
    "divided by a size": memory(bias="sum(r^2) / dk"),
    "scaled by the root of a size": memory(bias="sum(log(cosh(r / sqrt(dk))))"),
    # Powers of powers.
    "a power of a square": memory(bias="sum((r^2)^1.5) / 3"),
    "a fractional power of a token": memory(read="W @ (query^2)^0.75"),
    # `W` in a rule is the weight as the rules before it have left it.
    "W in a rule": memory(
        retention="decay alpha",
        algorithm="{ W = W - eta * grad }, exact",
        order=DECAY_FIRST,
        gates=f"{ETA}   {ALPHA}",
    ),
    "a carry that follows W": memory(
        algorithm="{ carry S   W = keep(W) - eta * grad - 0.1 * S   S = 0.9 * S + 0.1 * W }, exact"
    ),
    # Resets count tokens, whatever a token does.
    "a reset among pairs": memory(
        head="Found(d)",
        tokens="key[2, d]   value[2, d]",
        algorithm="gd(eta), pairs(2), exact, reset(4)",
    ),
    "a reset among steps": memory(algorithm="gd(eta), steps(2), exact, reset(4)"),
    "a reset of a window": memory(algorithm="gd(eta), window(3, 0.5), exact, reset(4)"),
    # What reads see of a block.
    "a scale by position, two sweeps": memory(
        algorithm="gd(eta), anchored(4, sweeps = 2, scale = 1 / position)"
    ),
    "a scale by position, read first": memory(
        algorithm="gd(eta), anchored(4, scale = 1 / position)", order="read, predict, write"
    ),
    # Gates of other shapes than the weights of their terms.
    "a rate per row for each term": memory(
        bias="a: sum(r^2) / 2, b: sum(log(cosh(r)))",
        algorithm="gd(a = eta, b = c), anchored(8)",
        gates="eta = sigmoid(linear(x)) / 16   c[row] = sigmoid(linear(x)) / 16",
        **DEEP,
    ),
    "a decay by row and a factor by column": memory(
        retention="decay a",
        algorithm="{ W = b * keep(W) - eta * grad }, exact",
        order=DECAY_FIRST,
        gates=f"{ETA}   a[value] = sigmoid(linear(x) + 2)   b[key] = sigmoid(linear(x) + 2)",
    ),
    # A decay of 0 and a threshold of 0 meet on the kink of a link.
    "a threshold at its end": memory(
        bias="l1",
        retention="soft(alpha, gamma) at token",
        order=DECAY_FIRST,
        gates=f"{ETA}   {ALPHA}   gamma = 0.01 * sigmoid(linear(x))",
    ),
    "a kink at zero": memory(
        retention="decay alpha  link max(a, 0) - 0.5 * max(-a, 0) at token",
        order=DECAY_FIRST,
        gates=f"{ETA}   {ALPHA}",
    ),
    # What a formula for every weight calls rows and columns are each weight's own.
    "a norm in the link of a network": memory(
        retention="decay alpha  link a * max(1 - 0.1 / max(norm(a), 0.001), 0) at token",
        order=DECAY_FIRST,
        gates=f"{ETA}   {ALPHA}",
        **DEEP,
    ),
    "a norm in the rule of a network": memory(
        algorithm="{ W = keep(W) - eta * grad / max(norm(grad), 1) + mean(grad) / 64 }, anchored(8)",
        gates="eta = sigmoid(linear(x)) / 32",
        head="Found(d)",
        architecture="mlp(hidden = 2 * d, bias)",
    ),
    # A hidden axis may be as large as a key.
    "hidden axes of the size of a key": memory(
        head="Found(d)",
        architecture="{ A: matrix[value, d]  H: matrix[d, 1 * d]  B: matrix[d, key]  b: vector[d]"
        "  M(z) = A @ tanh(H @ tanh(B @ z + b)) }",
        algorithm="gd(eta), anchored(8)",
        gates="eta = sigmoid(linear(x)) / 32",
    ),
    "two hidden axes of one size": memory(
        architecture="{ A: matrix[value, 3]  H: matrix[3, 3]  B: matrix[3, key]"
        "  M(z) = A @ tanh(H @ tanh(B @ z)) }",
        algorithm="gd(eta), anchored(8)",
        gates="eta = sigmoid(linear(x)) / 32",
    ),
    "a long window": memory(
        algorithm="gd(eta), window(70, 0.9), exact", gates="eta = sigmoid(linear(x)) / 64"
    ),
}  # fmt: skip
FAMILIES = {
    "divided by a gate": "affine",
    "a mean": "affine",
    "divided by a size": "affine",
    "a negative momentum": "token by token",
    "a negative decay in a rule": "token by token",
    "a decay that may change the sign": "token by token",
    "a decay that is a number times a gate": "affine",
}


@pytest.mark.parametrize("name", SPECS)
def test_a_spec_that_was_once_wrong(name: str) -> None:
    spec = spec_of(SPECS[name])
    certificate = certify(spec, partial(implementation, spec), dtype=torch.float64, cases=CASES)
    assert certificate.green, str(certificate)
    if name in FAMILIES:
        assert compile_memory(spec).family == FAMILIES[name]
