"""A plan computes what its rule says: kernel after kernel in the float64 interpreter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from miras_dsl.codegen.plan.check.cost import cost
from miras_dsl.codegen.plan.check.interpret import run_plan
from miras_dsl.codegen.plan.check.legality import legal
from miras_dsl.codegen.plan.check.run_tokens import run_token_plan
from miras_dsl.codegen.plan.kernel_plan import Compute, KernelPlan, Phase, Walk, override
from miras_dsl.ir import KEY, VALUE
from tests.meaning.derived import (
    Arrays,
    compiled,
    extents,
    run_rule,
    shipped,
    shipped_names,
    values_of,
)

CHUNK, LENGTH = 7, 17
NAMES = shipped_names("form")


def plan_of(name: str) -> KernelPlan:
    """A shipped memory's plan with short chunks, which are the blocks of a rule with blocks."""
    plan = compiled(name).plan
    return replace(plan, chunk=CHUNK, block=CHUNK if plan.block else 0)


def loops(name: str, values: Arrays) -> tuple[np.ndarray, Arrays]:
    """The outputs and last states of the rule, token by token."""
    rule = compiled(name).rule
    y, states, _ = run_rule(rule, rule.program, values, 0, CHUNK if rule.block else 0)
    return y, states


def drawn(name: str) -> Arrays:
    rule = compiled(name).rule
    values = values_of(rule, LENGTH)
    values["position"] = 1.0 + np.arange(LENGTH) % CHUNK
    rng = np.random.default_rng(3)
    y, states = loops(name, values)
    values["d_y"] = rng.standard_normal(y.shape)
    return values | {f"d_{s}": rng.standard_normal(x.shape) for s, x in states.items()}


def loss(name: str, values: Arrays) -> float:
    y, states = loops(name, values)
    total = float((y * values["d_y"]).sum())
    return total + sum(float((x * values[f"d_{s}"]).sum()) for s, x in states.items())


def assert_gradients(name: str, values: Arrays, found: Arrays) -> None:
    """Every gradient equals a difference of the token loop in a random direction."""
    rng, step = np.random.default_rng(4), 1e-6
    for gradient in (key for key in found if key.startswith("d_")):
        of = gradient.removeprefix("d_")
        if of.startswith("written_past"):  # whether a token was there: nothing to differentiate
            assert not found[gradient].any()
            continue
        along = rng.standard_normal(values[of].shape)
        ends = [loss(name, values | {of: values[of] + s * step * along}) for s in (1, -1)]
        want = (ends[0] - ends[1]) / (2 * step)
        got = float((found[gradient] * along).sum())
        assert got == pytest.approx(want, rel=2e-5, abs=2e-6), gradient


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_runs_as_its_rule_says(name: str) -> None:
    """Outputs and states equal the token loop; gradients equal differences of it."""
    plan, values = plan_of(name), drawn(name)
    found = run_plan(plan, values, extents(compiled(name).rule))
    y, states = loops(name, values)
    np.testing.assert_allclose(found["y"], y, rtol=1e-9, atol=1e-11)
    for state, x in states.items():
        np.testing.assert_allclose(found[state], x, rtol=1e-9, atol=1e-11, err_msg=state)
    assert_gradients(name, values, found)


def test_a_plan_that_leaves_a_statement_out_is_noticed() -> None:
    """Without one statement of the loop a value is missing, or the numbers are wrong."""
    plan, values = plan_of("DeltaNet"), drawn("DeltaNet")
    forward = next(k for k in plan.kernels if any(isinstance(s, Walk) for s in k.body))
    (walk_,) = forward.body
    assert isinstance(walk_, Walk)
    broken = replace(walk_, carry=tuple(replace(c, next=c.state) for c in walk_.carry))
    kernels = tuple(replace(k, body=(broken,)) if k is forward else k for k in plan.kernels)
    found = run_plan(replace(plan, kernels=kernels), values, extents(compiled("DeltaNet").rule))
    y, _ = loops("DeltaNet", values)
    assert not np.allclose(found["y"], y)
    assert any(isinstance(s, Compute) for s in walk_.body)


@pytest.mark.parametrize("name", shipped())
def test_shipped_plans_are_legal(name: str) -> None:
    plan = compiled(name).plan
    assert legal(plan) == ()
    forward = cost(plan, extents(compiled(name).rule), 130, Phase.FORWARD)
    if compiled(name).form is not None:
        assert forward.flops > 0 and forward.bytes > 0
        assert forward.depth >= 3, "three chunks wait for one another"


def test_what_is_wrong_with_a_plan_is_said() -> None:
    plan = compiled("GatedDeltaNet").plan
    kernels = [k for k in plan.kernels if k.name != "before"]
    assert any("which it reads" in why for why in legal(replace(plan, kernels=tuple(kernels))))
    turned = override(plan, order={"W": (KEY,)})
    assert legal(turned) == ("the buffer of W does not store the axes of its value",)
    loop = next(k for k in plan.kernels if k.name == "loop")
    divided = replace(loop, grid=(KEY,))
    found = legal(replace(plan, kernels=tuple(divided if k is loop else k for k in plan.kernels)))
    assert any("which programs divide up" in why for why in found)
    with pytest.raises(ValueError, match="has no value nothing"):
        override(plan, dtype={"nothing": "float64"})


def test_a_loop_may_be_divided_along_values() -> None:
    """The state of the gated delta rule has rows that never meet: its loop may have them apart."""
    plan, values = plan_of("GatedDeltaNet"), drawn("GatedDeltaNet")
    kernels = tuple(
        replace(k, grid=(VALUE,)) if k.name == "loop" and k.phase is Phase.FORWARD else k
        for k in plan.kernels
    )
    divided = replace(plan, kernels=kernels)
    assert legal(divided) == ()
    found = run_plan(divided, values, extents(compiled("GatedDeltaNet").rule))
    np.testing.assert_allclose(found["y"], loops("GatedDeltaNet", values)[0], rtol=1e-9)


TOKENWISE = shipped_names("kernel_plan")


@pytest.mark.parametrize("name", TOKENWISE)
def test_a_plan_of_token_kernels_runs_as_its_rule_says(name: str) -> None:
    """Forward, checkpoints, states again, adjoint: equal to the token loop and to its differences."""
    plan, values = compiled(name).kernel_plan, drawn(name)
    assert plan is not None
    found = run_token_plan(plan, values, extents(compiled(name).rule), segment=5)
    y, states = loops(name, values)
    np.testing.assert_allclose(found["y"], y, rtol=1e-10, atol=1e-12)
    for state, x in states.items():
        np.testing.assert_allclose(found[state], x, rtol=1e-10, atol=1e-12, err_msg=state)
    gradients = [key for key in found if key.startswith("d_")]
    assert {"d_value", *(f"d_{s}" for s in states)} <= set(gradients)
    assert_gradients(name, values, found)


def test_a_token_plan_in_another_order_reads_what_is_not_there() -> None:
    plan, values = compiled("GatedDeltaNet").kernel_plan, drawn("GatedDeltaNet")
    assert plan is not None
    forward = plan.kernels_of(Phase.FORWARD)[0]
    (walk,) = forward.body
    assert isinstance(walk, Walk)
    (run,) = walk.body
    assert isinstance(run, Compute)
    turned = replace(walk, body=(Compute(run.values[::-1]),))
    kernels = tuple(replace(k, body=(turned,)) if k is forward else k for k in plan.kernels)
    with pytest.raises(KeyError, match="read before it is computed"):
        run_token_plan(
            replace(plan, kernels=kernels), values, extents(compiled("GatedDeltaNet").rule), 5
        )
