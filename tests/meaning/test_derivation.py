"""The derivation: classes, chunk forms equal to the token's rule, adjoints equal to differences."""

from __future__ import annotations

import numpy as np
import pytest

from miras_dsl.codegen.model.inputs import POSITION, VALID
from miras_dsl.ir import ForwardSubstitution, Inverse, Node, Program, Role, axis_names, postorder
from tests.meaning.derived import (
    BLOCK,
    assert_adjoint,
    assert_chunks,
    compiled,
    of_text,
    run_rule,
    shipped,
    shipped_names,
    values_of,
)

NAMES = {
    "additive": "LinearAttention GLA HGRN HGRN2 Mamba2 RWKV6 MinGRU SWLA DFW "
    "GSA Raven MLSTM LRU Mamba3 NormalisedAttention RetNet Lightning",
    "affine": "DeltaNet GatedDeltaNet DeltaProduct RWKV7 KDA Comba GatedDeltaNet2 MomentumDeltaNet "
    "QDelta TitansLinear PreconditionedGDN",
    "substitution": "LogCoshMomentum ValueShift AbsoluteError CubedError HuberChannels HuberLength "
    "HeavyTails EraseAndHold Longhorn",
    "anchored": "TTTLinear TTTMLP Titans Yaad Memora Moneta MonetaPrinted",
    "sweeps": "YaadSweeps",
    "token by token": "OmegaNet ChannelMomentum Atlas ElasticNet SoftThreshold BoundedMemory M2RNN",
}
FAMILIES = {name: family for family, names in NAMES.items() for name in names.split()}
EVERY = shipped_names("form")


def program_of(name: str) -> Program:
    form = compiled(name).form
    assert form is not None, compiled(name).obstacle
    return form.program


def has(program: Program, kind: type[Node]) -> bool:
    return any(isinstance(node, kind) for node in postorder(node for _, node in program))


def test_every_shipped_memory_is_in_the_table() -> None:
    assert set(FAMILIES) == set(shipped())


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_family(name: str) -> None:
    """The class, and that it is no mere word: only its own operation solves for the writes."""
    assert compiled(name).family == FAMILIES[name]
    assert (compiled(name).form is None) == (FAMILIES[name] == "token by token")
    if compiled(name).form is None:
        return
    assert has(program_of(name), Inverse) == (FAMILIES[name] == "affine")
    assert has(program_of(name), ForwardSubstitution) == (FAMILIES[name] == "substitution")


@pytest.mark.parametrize("chunk", [1, 3, 7])
@pytest.mark.parametrize("name", EVERY)
def test_chunks_equal_the_rule(name: str, chunk: int) -> None:
    assert_chunks(compiled(name), chunk)


@pytest.mark.parametrize("name", EVERY)
def test_padding_is_not_there(name: str) -> None:
    """Rows that are not valid, in front and behind, leave the state and other answers alone."""
    rule = compiled(name).rule
    values = values_of(rule, 7)
    y, states, _ = run_rule(rule, program_of(name), values, 7, 0)
    padded = dict(values)
    past = [feed for feed in values if "_past" in feed]
    given = [feed.name for feed in rule.inputs if feed.kind != "constant"]
    for feed in (VALID.name, POSITION.name, *given, *past):
        blank = np.full_like(values[feed], float(feed == POSITION.name))
        padded[feed] = np.concatenate([blank[:2], values[feed], blank[:3]])
    found, after, _ = run_rule(rule, program_of(name), padded, 12, 0)
    np.testing.assert_allclose(found[2:9], y, rtol=1e-12, atol=1e-12)
    for state, x in states.items():
        np.testing.assert_allclose(after[state], x, rtol=1e-12, atol=1e-12, err_msg=state)


@pytest.mark.parametrize("name", EVERY)
def test_adjoint_equals_differences(name: str) -> None:
    assert_adjoint(compiled(name))


SHIFTS = """
memory Shifts(d) {
  architecture mlp(hidden = 3, activation = tanh, bias, residual)
  bias         huber(1 / 2)
  retention    l2(alpha)
  algorithm    momentum(eta, mu), anchored(64, sweeps = 3)
  order        predict, decay, write, read
  gates        { alpha, eta, mu = sigmoid(linear(x)) }
}
"""


def test_vector_states_that_bend_their_own_update() -> None:
    """A shift enters the error and so its own step: that is a write, and no decay."""
    memory = of_text(SHIFTS)
    assert memory.form is not None and memory.family == "sweeps", memory.obstacle
    values = values_of(memory.rule, BLOCK + 4)
    y, states, _ = run_rule(memory.rule, memory.rule.program, values, 0, BLOCK)
    found, after, _ = run_rule(memory.rule, memory.form.program, values, 7, BLOCK)
    np.testing.assert_allclose(found, y, rtol=1e-11, atol=1e-11)
    for state, x in states.items():
        np.testing.assert_allclose(after[state], x, rtol=1e-11, atol=1e-11, err_msg=state)


def test_every_weight_of_a_deep_network_becomes_a_state() -> None:
    """Also one whose inputs and outputs stand in another order than the canonical one of its axes."""
    rule = of_text("""
        memory Deep(d) {
          architecture mlp(hidden = 2 * d, depth = 3)
          bias         l2
          retention    none
          algorithm    gd(0.1), exact
          order        predict, write, read
        }
        """).rule
    axes = {axis_names(state.axes) for state in rule.states}
    assert axes == {("h1", "key"), ("h1", "h2"), ("value", "h2")}
    assert not [x for x in rule.program.inputs if x.role is Role.WEIGHT]
