"""The text of the kernels and the plan behind it."""

from __future__ import annotations

import ast
import re
from importlib.resources import files

import pytest

from miras_dsl.check import read
from miras_dsl.codegen.analysis.padding import TAME_LANES, WILD_LANES, ZERO_LANES, padding_values
from miras_dsl.codegen.derive.update import UpdateRule, update_rule
from miras_dsl.codegen.emit.triton.module import kernel_module
from miras_dsl.codegen.emit.triton.printer import TritonPrinter
from miras_dsl.codegen.explain import explain
from miras_dsl.codegen.model.build import build_model
from miras_dsl.codegen.plan.kernel_plan import Along, Carry
from miras_dsl.codegen.plan.token.legality import unsupported_reason
from miras_dsl.codegen.plan.token_kernels import token_plan
from miras_dsl.ir import KEY, VALUE, Input, Number, Program, Role, contract, elementwise
from miras_dsl.scalar.functions import OPERANDS
from miras_dsl.source import Source
from tests.kernels.kernel_cases import SHIPPED
from tests.kernels.more_rules import EXTRA


def shipped(name: str) -> str:
    """The text of a shipped spec."""
    return (files("miras_dsl.specs") / f"{name}.mem").read_text()


def rule_of(name: str, text: str | None = None) -> UpdateRule:
    """The update rule of a shipped memory, one of `extra`, or the first of a text."""
    text = text or EXTRA.get(name) or shipped(name)
    return update_rule(build_model(next(iter(read(Source(f"{name}.mem", text)).memories.values()))))


def text_of(rule: UpdateRule) -> str:
    """The module of a rule's kernels."""
    return kernel_module(token_plan(rule, "memory"), "memory")


@pytest.mark.parametrize("name", [*SHIPPED, *EXTRA])
def test_the_text_is_python_that_cites_the_spec(name: str) -> None:
    rule = rule_of(name)
    text = text_of(rule)
    functions = [n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)]
    assert [f.name.rsplit("_", 1)[1] for f in functions] == ["forward", "backward"]
    assert [line for line in text.split("\n") if len(line) > 100 or line != line.rstrip()] == []
    spans = rule.model.spans
    for span in (spans.memory, spans.retention, spans.algorithm):
        # A clause that is not written (`retention none`) has no place; a written one is cited.
        assert span.source.name != f"{name}.mem" or re.search(rf":{span.line}\b", text)


@pytest.mark.parametrize("name", [*SHIPPED, *EXTRA])
def test_nothing_is_worked_out_for_nothing_or_twice(name: str) -> None:
    for function in ast.parse(text_of(rule_of(name))).body:
        if not isinstance(function, ast.FunctionDef):
            continue
        names = [n for n in ast.walk(function) if isinstance(n, ast.Name)]
        read = {n.id for n in names if isinstance(n.ctx, ast.Load)}
        assert {n.id for n in names if isinstance(n.ctx, ast.Store)} <= read
        given = {a.arg for a in function.args.args if not a.arg.endswith("_ptr")}
        assert given - read <= {"T"}
        # What a branch computes is not seen outside of it.
        loops = [n for n in ast.walk(function) if isinstance(n, ast.For)]
        branches = [part for loop in loops for part in loop.body if isinstance(part, ast.If)]
        straight = [[p for p in n.body if not isinstance(p, ast.If | ast.For)] for n in loops]
        for body in (*straight, *(branch.body for branch in branches)):
            text = "\n".join(map(ast.unparse, body))
            calls = re.findall(r"(?:tl\.(?:exp|sigmoid)|tl_math\.\w+)\([^()]*\)", text)
            assert len(calls) == len(set(calls))


@pytest.mark.parametrize("name", [*SHIPPED, *EXTRA])
def test_no_branch_overwrites_a_value(name: str) -> None:
    """What happens at the edge of a block has names of its own; only inputs have one name anywhere."""
    computed = {
        (value.name, value.scope)
        for value in token_plan(rule_of(name), name).values
        if not isinstance(value.node, Input | Number)
    }
    assert len({name for name, _ in computed}) == len(computed)


def test_states_that_become_each_other_are_assigned_together() -> None:
    plan = token_plan(rule_of("sweeps"), "sweeps")
    weight, momentum = (v.id for v in plan.values if v.name in ("W", "S_W") and v.scope == "token")
    printer = TritonPrinter(plan)
    both = Carry(weight, momentum), Carry(momentum, weight)
    assert printer.carried(both) == ["W, S_W = S_W, W"]
    assert printer.carried(both[:1]) == ["W = S_W"]
    assert printer.carried([Carry(weight, weight)]) == []


def test_the_plan_of_kernels_is_shown_after_that_of_torch() -> None:
    text = explain(read(Source("gla.mem", shipped("gla"))), stage="plan")
    torch_plan, kernel_plan = text.split("for triton")
    assert "for torch" in torch_plan
    assert "token by token, from the last to the first, carrying d_W <- d_W_next" in kernel_plan
    assert "W [value, key] for every segment, kept for the backward pass" in kernel_plan
    network = explain(read(Source("ttt_mlp.mem", shipped("ttt_mlp"))), stage="plan")
    assert "for triton" not in network


def test_rows_of_shares_are_counted_in_64_bits() -> None:
    # blocks of values * tokens * heads * keys may be more than 2^31
    text = text_of(rule_of("deltanet"))
    assert "share = (i_v.to(tl.int64) * T + start + t) * H + i_h" in text


def test_the_same_rule_gives_the_same_text() -> None:
    assert text_of(rule_of("rwkv7")) == text_of(rule_of("rwkv7"))


def test_names_of_the_kernels_own_are_not_taken_from_it() -> None:
    text = """
memory Taken(dk, dv) {
  tokens       { query[dk]  key[dk]  value[dv]  row[dk]  tl[dk]  s1[dk]  W_ptr[dk]  d_key[dk] }
  architecture W: matrix[value, key]
  bias         -dot(W @ (key * row * tl * s1 * W_ptr * d_key), value)
  retention    decay share
  algorithm    gd(1), exact
  order        decay, write, read
  gates        { share = sigmoid(linear(x)) }
}
"""
    forward, backward = (
        node
        for node in ast.parse(text_of(rule_of("taken", text))).body
        if isinstance(node, ast.FunctionDef)
    )
    for function in (forward, backward):
        parameters = [a.arg for a in function.args.args]
        assert len(parameters) == len(set(parameters))
        # No variable of the user's hides the module, a pointer or a size.
        names = [n for n in ast.walk(function) if isinstance(n, ast.Name)]
        assigned = {n.id for n in names if isinstance(n.ctx, ast.Store)}
        assert not assigned & {"tl", *parameters}
        assert {"row_", "tl_"} <= assigned


SPLIT = {
    "linear_attention": True, "gla": True, "deltanet": True, "rwkv7": True, "hgrn": True,
    "logcosh_momentum": True, "bounded": True, "sweeps": True, "huber": False,
}  # fmt: skip


@pytest.mark.parametrize(("name", "split"), SPLIT.items())
def test_values_are_shared_out_unless_the_rule_sums_over_them(name: str, split: bool) -> None:
    plan = token_plan(rule_of(name), name)
    assert {kernel.grid for kernel in plan.kernels} == {(VALUE,) if split else ()}
    assert bool(plan.why) == (not split)
    given = [plan.values[id] for id in plan.kernels[0].reads]
    keyed = {f"d_{x.name}" for x in given if VALUE not in x.node.axes}
    shares = {plan.values[b.value].name for b in plan.buffers if b.per is Along.SHARE}
    assert shares == (keyed if split else set())


WIDE = """
memory Wide(d) {
  architecture mlp(hidden = 2 * d, activation = silu)
  bias         l2
  retention    none
  algorithm    gd(eta), exact
  order        predict, write, read
  gates        { eta = sigmoid(linear(x)) }
}
"""


def test_a_network_has_no_such_kernel_and_says_why() -> None:
    assert unsupported_reason(rule_of("deltanet")) == ""
    assert "it has the axis h1" in unsupported_reason(rule_of("ttt_mlp"))
    with pytest.raises(ValueError, match="Wide has no token-by-token kernel: it has the axis h1"):
        token_plan(rule_of("wide", WIDE), "wide")


X, Y = Input("x", (KEY,), "token"), Input("y", (KEY,), Role.TOKEN)


@pytest.mark.parametrize(
    ("node", "lane"),
    [
        (X * Y, ZERO_LANES),
        (X + Y, ZERO_LANES),
        (X + 1.0, TAME_LANES),
        (X * (Y + 1.0), ZERO_LANES),
        (elementwise(OPERANDS[0] / OPERANDS[1], X, Y), WILD_LANES),
        (X * elementwise(1 / OPERANDS[0], Y), WILD_LANES),
        (X * contract(X, elementwise(1 / OPERANDS[0], Y), (KEY,)), ZERO_LANES),
    ],
)  # fmt: skip
def test_what_padded_lanes_hold(node, lane) -> None:
    assert padding_values([Program((X, Y), (("z", node),), ())])[node, KEY] == lane


def test_a_state_that_fills_its_lanes_is_not_taken_for_zero() -> None:
    state = Input("S", (KEY,), Role.STATE)
    filled = Program((X, state), (("y", state), ("S", state + X + 1.0)), ((state, "S"),))
    empty = Program((X, state), (("y", state), ("S", state * 2.0 + X)), ((state, "S"),))
    assert padding_values([filled])[state, KEY] == TAME_LANES
    assert padding_values([empty])[state, KEY] == ZERO_LANES
