"""Rules with several weights: running maxima, turning pairs, statistics, decays of rows and columns."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from miras_dsl.codegen.model.inputs import VALID
from miras_dsl.codegen.passes.autodiff import adjoint
from miras_dsl.codegen.pipeline import CompiledMemory
from tests.meaning.derived import (
    Arrays,
    assert_adjoint,
    assert_chunks,
    of_text,
    run_rule,
    run_rule_adjoint,
    values_of,
)

LARGEST = """
memory Largest(dk, dv) {
  architecture { C: matrix[value, key] = zero   m: number   M(z) = C @ z * exp(m) }
  bias         -dot(C @ key, value)
  retention    none
  algorithm    { m = max(OPERANDS)   C = exp(keep(m) - m) * keep(C) - exp(new - m) * grad }, exact
  order        write, read
  gates        { fade = -softplus(linear(x))   new = linear(x) }
}
"""
OLDEST, NEWEST = "fade + keep(m), new", "new, fade + keep(m)"
TURNING = """
memory Turning(dk, dv) {
  tokens       { query  key  value  key_im[key] }
  architecture S: matrix[value, key, complex]
  bias         -real(dot(S @ complex(key, key_im), value))
  retention    decay polar(alpha, angle)
  algorithm    gd(eta), exact
  order        decay, write, read
  read         real(S @ complex(query, key_im))
  gates        { alphaDECAY = sigmoid(linear(x))   angleAXIS = linear(x)   eta = sigmoid(linear(x)) }
}
"""
STATISTIC = """
memory Statistic(dk, dv) {
  architecture { S: matrix[value, key] = zero   A: vector[key]   M(z) = S @ z }
  bias         l2
  retention    S: decay alpha, A: decay fade
  algorithm    { A = keep(A) + rate * key^2   S = keep(S) - eta * grad / (1 + A) }, exact
  order        decay, predict, write, read
  gates        { alpha, fade, eta, rate = sigmoid(linear(x)) }
}
"""
ENTRIES = """
memory Entries(dk, dv) {
  architecture W: matrix[value, key]
  bias         BIAS
  retention    decay outer(beta, alpha)
  algorithm    gd(eta), exact
  order        decay, PREDICTwrite, read
  gates        { alpha[key] = sigmoid(linear(x))   beta[value] = sigmoid(linear(x))
                 eta = sigmoid(linear(x)) }
}
"""
CIRCLE = """
memory Circle(dk, dv) {
  architecture { A: matrix[value, key] = zero   B: matrix[value, key] = zero   M(z) = A @ z }
  bias         l2
  retention    none
  algorithm    { A = keep(A) - eta * grad + keep(B)   B = keep(B) + eta * keep(A) }, exact
  order        predict, write, read
  gates        { eta = sigmoid(linear(x)) / 4 }
}
"""
TEXTS = {
    "largest, oldest first": LARGEST.replace("OPERANDS", OLDEST),
    "largest, newest first": LARGEST.replace("OPERANDS", NEWEST),
    "turning along keys": TURNING.replace("AXIS", "[key]").replace("DECAY", ""),
    "turning along values": TURNING.replace("AXIS", "[value]").replace("DECAY", "[key]"),
    "one angle": TURNING.replace("AXIS", "").replace("DECAY", "[value]"),
    "scaled by a statistic": STATISTIC,
    "rows and columns": ENTRIES.replace("BIAS", "dot").replace("PREDICT", ""),
    "rows and columns, squared error": ENTRIES.replace("BIAS", "l2").replace(
        "PREDICT", "predict, "
    ),
}


@cache
def memory_of(name: str) -> CompiledMemory:
    return of_text(TEXTS[name])


@pytest.mark.parametrize("chunk", [1, 7])
@pytest.mark.parametrize("name", TEXTS)
def test_chunks_equal_the_rule(name: str, chunk: int) -> None:
    assert_chunks(memory_of(name), chunk)


@pytest.mark.parametrize("name", TEXTS)
def test_adjoint_equals_differences(name: str) -> None:
    assert_adjoint(memory_of(name))


# ------------------------------------------------------------ ties of a running maximum


def tied(memory: CompiledMemory, new: list[float], first: float) -> Arrays:
    """Tokens that bring these numbers, and a first state; nothing fades."""
    values = values_of(memory.rule, len(new))
    return values | {"new": np.array(new, float), "fade": np.zeros(len(new)), "m": np.array(first)}


def shares(memory: CompiledMemory, values: Arrays, chunk: int) -> tuple[float, Arrays]:
    """The last maximum, and its derivative by every input."""
    assert memory.form is not None, memory.obstacle
    program, rule = memory.form.program, memory.rule
    y, states, entries = run_rule(rule, program, values, chunk, 0)
    d_states = {name: np.zeros_like(x) for name, x in states.items()} | {"m": np.ones(())}
    back = adjoint(program)
    found = run_rule_adjoint(rule, back, values, entries, np.zeros_like(y), d_states, chunk)
    return float(states["m"]), found


@pytest.mark.parametrize("chunk", [1, 2, 3, 6])
@pytest.mark.parametrize(
    ("operands", "first", "state", "token"),
    [
        ("oldest", 0.0, 0.0, 1),
        ("newest", 0.0, 0.0, 4),
        ("oldest", 2.0, 1.0, None),
        ("newest", 2.0, 0.0, 4),
        ("oldest", 3.0, 1.0, None),
        ("newest", 3.0, 1.0, None),
    ],
)
def test_of_equal_values_the_first_operand_has_the_derivative(
    operands: str, first: float, state: float, token: int | None, chunk: int
) -> None:
    """Of tokens, and of the state before them, in one chunk and over several."""
    memory = memory_of(f"largest, {operands} first")
    values = tied(memory, [1, 2, 2, 0, 2, 1], first)
    largest, found = shares(memory, values, chunk)
    assert largest == max(first, 2.0)
    assert float(found["m"]) == state
    assert found["new"].tolist() == [float(t == token) for t in range(6)]


@pytest.mark.parametrize("operands", ["oldest", "newest"])
def test_a_token_that_is_not_there_is_no_maximum(operands: str) -> None:
    """Padding in front, between and behind, with larger numbers than any token has."""
    memory = memory_of(f"largest, {operands} first")
    values = tied(memory, [9, 1, 9, 1, 0, 9], 0.5)
    there = np.array([0.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    values[VALID.name] = there
    for token in ("key", "value"):
        values[token] = values[token] * there[:, None]
    largest, found = shares(memory, values, 6)
    assert largest == 1.0
    assert found["new"].tolist() == [
        float(t == {"oldest": 1, "newest": 3}[operands]) for t in range(6)
    ]


# ------------------------------------------------------------ what is refused


def test_states_that_feed_each_other_are_refused() -> None:
    """They have a meaning, token by token; the reason is named."""
    memory = of_text(CIRCLE)
    assert memory.form is None and memory.family == "token by token"
    assert memory.obstacle == "A feeds itself through another state"


def test_angles_larger_than_a_turn_keep_their_digits() -> None:
    """Angles of a thousand turns and less a thousand turns give the same, in sums too."""
    memory = memory_of("turning along keys")
    assert memory.form is not None
    values = values_of(memory.rule, 14)
    far = values | {"angle": values["angle"] + 2000 * np.pi}
    y, _, _ = run_rule(memory.rule, memory.form.program, values, 14, 0)
    found, _, _ = run_rule(memory.rule, memory.form.program, far, 14, 0)
    np.testing.assert_allclose(found, y, rtol=0, atol=1e-11)
