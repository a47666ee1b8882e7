"""From rules to the programs of the papers: what is derived equals what was written by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import sympy as sp

from miras_dsl.codegen.passes.simplify import simplify
from miras_dsl.codegen.pipeline import CompiledMemory
from miras_dsl.ir import Broadcast, Input, Number, Program, Rename
from tests.meaning import deep_forms as deep
from tests.meaning import forms
from tests.meaning.derived import Arrays, of_text, run_rule, values_of
from tests.meaning.run_program import run_program as run_written

CHUNK, LENGTH = 5, 13


def matrix(
    bias: str, order: str, algorithm: str = "gd(eta)", more: str = "", axes: str = ""
) -> str:
    """A matrix memory as text; gates are fed by the test, their formulas do not matter."""
    return f"""
memory Rule(dk, dv) {{
  architecture W: matrix[value, key]
  bias {bias}
  retention l2(alpha)
  algorithm {algorithm}, exact
  order {order}
  gates {{ alpha{axes} = sigmoid(linear(x))  eta = sigmoid(linear(x))  {more} }}
}}"""


def network(architecture: str, bias: str, algorithm: str, more: str = "") -> str:
    """A memory that is a network, anchored in blocks of one chunk."""
    return f"""
memory Rule(d) {{
  architecture {architecture}
  bias {bias}
  retention l2(alpha)
  algorithm {algorithm}
  order predict, decay, write, read
  gates {{ alpha = sigmoid(linear(x))  eta = sigmoid(linear(x))  {more} }}
}}"""


HEBBIAN, PREDICT_FIRST = "decay, write, read", "predict, decay, write, read"
DECAY_FIRST = "decay, predict, write, read"
DELTA = "delta = softplus(linear(x))"
MU = "mu = sigmoid(linear(x))"
ROWS = """
memory Rule(dk, dv) {
  architecture W: matrix[value, key]
  bias logcosh
  retention l2(alpha)
  algorithm gd(eta), exact
  order predict, decay, write, read
  gates { alpha[value] = sigmoid(linear(x))  eta[value] = sigmoid(linear(x)) }
}"""
REMOVAL = """
memory Rule(dk, dv) {
  tokens { query, key = linear(x)  removal[key] = linear(x) }
  architecture W: matrix[value, key]
  bias erase: sum((W @ removal)^2) / 2, store: -dot(W @ key, value)
  retention decay w
  algorithm gd(erase = a, store = 1), exact
  order predict, decay, write, read
  gates { w[key] = sigmoid(linear(x))  a = sigmoid(linear(x)) }
}"""
LIBRARY = {
    "l2": "l2",
    "l3": "lp(3)",
    "l1.5": "lp(3 / 2)",
    "logcosh": "logcosh",
    "huber": "huber(delta)",
    "norm_huber": "huber_norm(delta)",
    "mixture": "huber_mixture(delta)",
    "softmax": "log(sum(exp(W @ key - value)))",
}
"""Each bias of the hand-written forms in the language."""


@dataclass(frozen=True)
class Pair:
    """A rule as text and the same by hand; ``equal`` gives the rule's own names."""

    name: str
    text: str
    by_hand: Callable[[], Program]
    equal: tuple[tuple[str, str], ...] = (("S", "W"), ("N", "S.W"))
    anchored: bool = False


def normalised_alike() -> Program:
    """The network by hand with the layer norm's constant of the language."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deep, "EPS", sp.Rational(1, 10**6))
        return deep.mlp()


def matrices() -> Iterator[Pair]:
    yield Pair("2.1 scalar gate", matrix("dot", HEBBIAN, "gd(1)"), forms.hebbian)
    text = matrix("dot", HEBBIAN, "gd(1)", axes="[key]")
    yield Pair("2.1 key gate", text, forms.hebbian_channel)
    yield Pair(
        "2.3 removal key", REMOVAL, forms.diagonal_plus_rank_one, (("S", "W"), ("x", "removal"))
    )
    yield Pair("2.6 row gates", ROWS, forms.row_gates)
    for first, order in ((True, DECAY_FIRST), (False, PREDICT_FIRST)):
        yield Pair(f"2.2 {order}", matrix("l2", order), partial(forms.delta, first, True))
        for bias, written in LIBRARY.items():
            text = matrix(written, order, more=DELTA if "delta" in written else "")
            yield Pair(f"2.4 {bias}, {order}", text, partial(forms.any_bias, bias, first))
        for bias in ("l3", "mixture"):
            text = matrix(
                LIBRARY[bias], order, more=DELTA if bias == "mixture" else "", axes="[key]"
            )
            yield Pair(f"2.5 {bias}, {order}", text, partial(forms.any_bias_channel, bias, first))
    for bias in ("l2", "logcosh"):
        text = matrix(bias, PREDICT_FIRST, "momentum(eta, mu)", MU)
        yield Pair(f"2.7 {bias}, exact", text, partial(forms.momentum, bias, False))
        text = text.replace("exact", f"anchored({CHUNK})")
        by_hand = partial(forms.momentum, bias, True)
        yield Pair(f"2.7 {bias}, anchored", text, by_hand, anchored=True)


def networks() -> Iterator[Pair]:
    mlp = "mlp(hidden = 6, activation = gelu, residual)"
    once = f"gd(eta), anchored({CHUNK})"
    swapped = (("W1", "W2"), ("W2", "W1"), ("N1", "S.W2"), ("N2", "S.W1"))
    constants = (("gain", "norm_weight"), ("shift", "norm_shift"))
    text = network(mlp.replace(")", ", layernorm)"), "logcosh", once)
    yield Pair("2.9 network", text, normalised_alike, (*swapped, *constants), True)
    units = (("W1", "A"), ("W2", "B"), ("W3", "C"))
    yield Pair("2.9 gated units", network("glu(6)", "l2", once), deep.glu, units, True)
    for count in (1, 2, 3):
        algorithm = f"momentum(eta, mu), anchored({CHUNK}, sweeps = {count})"
        text = network(mlp, "huber(7 / 10)", algorithm, MU)
        yield Pair(f"2.14 {count} sweeps", text, partial(deep.sweeps, count), swapped, True)


def drawn(pair: Pair, memory: CompiledMemory, by_hand: Program) -> tuple[Arrays, Arrays]:
    """The same values under the derived names and under those of the form written by hand."""
    values = values_of(memory.rule, LENGTH, seed=5)
    names = dict(pair.equal) | {"q": "query", "k": "key", "v": "value"}
    mine: Arrays = {}
    for x in by_hand.inputs:
        name = names.get(x.name, x.name)
        if f"log_{name}" in values:
            mine[x.name] = np.exp(values[f"log_{name}"])
        elif pair.text is REMOVAL and x.name == "z":
            mine[x.name] = -values["a"][:, None] * values["removal"]
        else:
            mine[x.name] = values[name]
    return values, mine


@pytest.mark.parametrize("pair", [*matrices(), *networks()], ids=lambda pair: pair.name)
def test_the_derivation_makes_the_form_written_by_hand(pair: Pair) -> None:
    memory, by_hand = of_text(pair.text), pair.by_hand()
    assert memory.form is not None, memory.obstacle
    values, mine = drawn(pair, memory, by_hand)
    block = CHUNK if pair.anchored else 0
    y, states, _ = run_rule(memory.rule, memory.form.program, values, CHUNK, block)
    wanted = run_written(by_hand, mine, CHUNK).results
    np.testing.assert_allclose(y, wanted.pop("y"), rtol=1e-11, atol=1e-11)
    assert np.abs(y).max() > 1e-2
    names = dict(pair.equal)
    for name, x in wanted.items():
        np.testing.assert_allclose(states[names[name]], x, rtol=1e-11, atol=1e-11, err_msg=name)


def operations(program: Program) -> dict[str, Counter[str]]:
    """How many operations of each kind run before, in and after the loop."""
    found = {part: Counter[str]() for part in ("before", "loop", "after")}
    for node, part in program.parts().items():
        if not isinstance(node, Input | Number | Rename | Broadcast):
            found[part][type(node).__name__] += 1
    return found


@pytest.mark.parametrize(
    ("text", "by_hand"),
    [
        (matrix("dot", HEBBIAN, "gd(1)"), forms.hebbian()),
        (matrix("dot", HEBBIAN, "gd(1)", axes="[key]"), forms.hebbian_channel()),
        (matrix("l2", DECAY_FIRST), forms.delta(True, True)),
    ],
    ids=["2.1", "2.1 key gate", "2.2"],
)
def test_simple_forms_cost_what_they_cost_by_hand(text: str, by_hand: Program) -> None:
    """The loop has the same operations, and all parts have the same matrix products.

    Counted in the simplified program, which is what is printed: before, a sign may be a node.
    """
    form = of_text(text).form
    assert form is not None
    derived, wanted = operations(simplify(form.program)), operations(by_hand)
    assert derived["loop"] == wanted["loop"]
    for part in ("before", "after"):
        for kind in ("Contract", "GatedContract", "Inverse", "Decay"):
            assert derived[part][kind] == wanted[part][kind], (part, kind)
