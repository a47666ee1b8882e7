"""The type of a plan says what hand-written kernels do, and such plans compute the rule."""

from __future__ import annotations

import numpy as np
import pytest

from miras_dsl.codegen.plan.check.interpret import run_plan
from miras_dsl.codegen.plan.check.legality import legal
from miras_dsl.codegen.plan.kernel_plan import KernelPlan, Phase
from miras_dsl.ir import Inverse, hidden
from tests.meaning import prototype_plans
from tests.meaning.derived import Arrays, compiled, extents, of_text, run_rule, values_of

CHUNK, LENGTH = 5, 13
DECAY = """
memory Decayed(dk, dv) {
  architecture W: matrix[value, key]
  bias         -dot(W @ key, value)
  retention    decay alpha
  algorithm    gd(eta), exact
  order        decay, predict, write, read
  gates        { alpha = sigmoid(linear(x))   eta = sigmoid(linear(x)) }
}
"""
DEEP = """
memory Deep(d) {
  architecture mlp(hidden = 4 * d, activation = gelu)
  bias         l2
  retention    l2(alpha)
  algorithm    gd(eta), anchored(5)
  order        predict, decay, write, read
  gates        { alpha = sigmoid(linear(x))   eta = sigmoid(linear(x)) / 8 }
}
"""


def checked(memory, plan: KernelPlan, phases: tuple[Phase, ...], block: int = 0) -> Arrays:
    """Run a plan and the rule token by token; outputs and states must agree."""
    rule = memory.rule
    values = values_of(rule, LENGTH)
    y, states, _ = run_rule(rule, rule.program, values, 0, block)
    rng = np.random.default_rng(5)
    values["d_y"] = rng.standard_normal(y.shape)
    values |= {f"d_{name}": rng.standard_normal(x.shape) for name, x in states.items()}
    assert legal(plan) == ()
    found = run_plan(plan, values, extents(rule), phases)
    np.testing.assert_allclose(found["y"], y, rtol=1e-9, atol=1e-11)
    for name, x in states.items():
        np.testing.assert_allclose(found[name], x, rtol=1e-9, atol=1e-11, err_msg=name)
    reference = run_plan(memory.plan, values, extents(rule), phases)
    return {name: x - reference[name] for name, x in found.items()}


def test_scalar_decay_in_one_walk_forwards_and_three_backwards() -> None:
    memory = of_text(DECAY)
    plan = prototype_plans.scalar_decay(memory, CHUNK)
    off = checked(memory, plan, (Phase.FORWARD, Phase.BACKWARD))
    assert {"d_query", "d_key", "d_value", "d_log_alpha", "d_eta", "d_W"} <= set(off)
    for name, difference in off.items():
        np.testing.assert_allclose(difference, 0.0, atol=1e-10, err_msg=name)


def test_the_delta_rule_inverts_in_one_kernel_and_walks_in_another() -> None:
    memory = compiled("GatedDeltaNet")
    plan = prototype_plans.delta(memory, CHUNK, Inverse)
    checked(memory, plan, (Phase.FORWARD,))


@pytest.mark.parametrize("programs", [1, 2, 4])
def test_a_deep_memory_is_shared_by_several_programs(programs: int) -> None:
    """With one exchange a chunk, and the sum of the answers a turn late."""
    memory = of_text(DEEP)
    axis = next(a for s in memory.rule.states for a in s.axes if a.name.startswith("h"))
    assert axis == hidden(axis.name)
    plan = prototype_plans.deep(memory, CHUNK, axis, programs)
    checked(memory, plan, (Phase.FORWARD,), CHUNK)
