"""A memory as a torch operator: schema, states every n tokens, masks, compiled graphs, meta tensors."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import miras_dsl as miras
from miras_dsl.runtime import run as runner
from miras_dsl.runtime.load.kernel_modules import tables
from miras_dsl.runtime.load.loader import compiled
from miras_dsl.runtime.run import MemoryOp

SPEC = """
memory M(d) {{
  architecture W: matrix[value, key]
  bias         l2
  retention    {retention}
  algorithm    {algorithm}
  order        decay, predict, write, read
  gates        {{ alpha = sigmoid(linear(x) + 2)   eta = sigmoid(linear(x) - 2)
                 gam = sigmoid(param)   beta[position] = sigmoid(linear(x)) }}
}}
"""
RULES = {
    "inverse": ("l2(alpha)", "gd(eta), exact"),
    "anchors and windows": ("l2(alpha)", "gd(eta), window(3, gam), anchored(4)"),
    "link at chunks": ("soft(alpha, 0.02) at chunk", "gd(eta), anchored(4)"),
    "token by token": ("soft(alpha, 0.02) at token", "gd(eta), exact"),
    "token by token, anchors": ("soft(alpha, 0.02) at token", "gd(eta), anchored(4)"),
}
pytestmark = pytest.mark.filterwarnings("ignore::miras_dsl.exceptions.SpecWarning")


def text(name: str) -> str:
    retention, algorithm = RULES[name]
    return SPEC.format(retention=retention, algorithm=algorithm).replace(
        "   beta[position] = sigmoid(linear(x))", ""
    )


def layer_of(name: str, width: int = 8) -> torch.nn.Module:
    torch.manual_seed(0)
    return miras.load(text(name)).M(width=width, heads=2)


def operator(name: str) -> tuple[MemoryOp, dict[str, Tensor], dict[str, Tensor]]:
    """The operator of a rule, and inputs in float64 for 2 rows of 11 tokens; the state is not zero."""
    _, module = compiled(miras.parse(text(name)).memories["M"], kernels=False)
    op = next(x for x in vars(module).values() if isinstance(x, MemoryOp))
    random = torch.Generator().manual_seed(0)
    inputs = {}
    for f in op.table.inputs:
        lead = (2,) if f.kind == "constant" else (2, 11, 2)
        x = torch.rand(*lead, *[3] * len(f.axes), generator=random, dtype=torch.float64) - 0.5
        inputs[f.name] = -x.abs() if f.log else x
    state: dict[str, Tensor] = {}
    for s in op.table.states:
        state[s.name] = torch.randn(2, 2, 3, 3, generator=random, dtype=torch.float64)
    for n in op.table.window_inputs:
        tail = inputs[n][:, : op.table.window - 1]
        state[f"window.{n}"] = torch.randn(tail.shape, generator=random, dtype=torch.float64)
    if op.table.block:
        state["position"] = torch.tensor([1, 3])
    return op, inputs, state


@pytest.mark.parametrize("name", RULES)
def test_torch_checks_the_operator(name: str) -> None:
    """Its schema, shapes of fake tensors, and its derivative under AOT autograd, static and dynamic."""
    op, inputs, state = operator(name)
    for x in (*inputs.values(), *state.values()):
        x.requires_grad_(x.is_floating_point())
    given, carried = [inputs[n] for n in op.inputs], [state[n] for n in op.carried]
    form = op.form_on(torch.device("cpu"), wide=True)
    torch.library.opcheck(op.operator, (given, carried, None, None, form, True, 0))
    timed = [f.kind in ("token", "gate") for f in op.table.inputs]
    row = [x[:1] if t else x for t, x in zip(timed, given, strict=True)]
    bounds = torch.tensor([0, 4, 11])
    torch.library.opcheck(
        op.operator,
        (row, carried, bounds, None, form, True, 0),
        test_utils=("test_schema", "test_faketensor"),
    )


def same(found: Any, wanted: Any) -> None:
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", RULES)
def test_states_every_few_tokens(name: str) -> None:
    """The states after tokens 3, 6 and 9 are those after calls that end there; packed and masked too."""
    op, inputs, state = operator(name)
    timed = {f.name for f in op.table.inputs if f.kind in ("token", "gate")}

    def cut(start: int, end: int, row: int | None = None) -> dict[str, Tensor]:
        rows = slice(None) if row is None else slice(row, row + 1)
        return {n: x[rows, start:end] if n in timed else x for n, x in inputs.items()}

    y, after, every = runner.run_and_keep(op, inputs, state, states_every=3)
    whole, last = runner.run(op, inputs, state)
    torch.testing.assert_close(y, whole, rtol=1e-9, atol=1e-11)
    same(after, last)
    for n in range(3):
        _, wanted = runner.run(op, cut(0, 3 * n + 3), state)
        same({name: x[:, n] for name, x in every.items()}, wanted)

    one = cut(0, 11, row=0)
    _, _, packed = runner.run_and_keep(op, one, state, torch.tensor([0, 5, 11]), states_every=3)
    mask = torch.zeros(2, 11, dtype=torch.bool)
    mask[0, :5] = mask[1, [0, 2, 5, 6, 8, 10]] = True
    _, _, masked = runner.run_and_keep(op, inputs, state, attention_mask=mask, states_every=3)
    first = {n: x[:1] for n, x in state.items()}
    second = {n: x[1:] for n, x in state.items()}
    _, wanted = runner.run(op, cut(0, 3, row=0), first)
    same({name: x[:, 0] for name, x in packed.items()}, wanted)
    same({name: x[:1, 0] for name, x in masked.items()}, wanted)
    for n in range(2):
        _, wanted = runner.run(op, cut(5, 8 + 3 * n, row=0), second)
        same({name: x[:, 1 + n] for name, x in packed.items()}, wanted)
        kept = {k: x[1:, mask[1]][:, : 3 * n + 3] if k in timed else x for k, x in inputs.items()}
        _, wanted = runner.run(op, kept, second)
        same({name: x[1:, n] for name, x in masked.items()}, wanted)
    assert all(not x[0, 2].any() for x in masked.values())

    needs = {n: x.requires_grad_() for n, x in inputs.items()}
    y, _, _ = runner.run_and_keep(op, needs, state, states_every=3)
    with pytest.raises(RuntimeError, match="states every n tokens have no gradients"):
        y.sum().backward()


@pytest.mark.parametrize("name", RULES)
def test_a_mask_of_the_operator(name: str) -> None:
    """Answers, states and gradients are those of the tokens that are there."""
    op, inputs, state = operator(name)
    timed = {f.name for f in op.table.inputs if f.kind in ("token", "gate")}
    leaves = [x.requires_grad_() for x in inputs.values()]
    mask = torch.rand(2, 11, generator=torch.Generator().manual_seed(1)) > 0.4
    y, after = runner.run(op, inputs, state, attention_mask=mask)
    found = torch.autograd.grad(y.sin().sum() + after["W"].sin().sum(), leaves)
    rows, loss = [], 0.0
    for row in range(2):
        kept = {n: x[row : row + 1, mask[row]] if n in timed else x for n, x in inputs.items()}
        alone, last = runner.run(op, kept, {n: x[row : row + 1] for n, x in state.items()})
        torch.testing.assert_close(y[row, mask[row]], alone[0], rtol=1e-9, atol=1e-11)
        rows.append(last)
        loss = loss + alone.sin().sum() + last["W"].sin().sum()
    assert not y[~mask].any()
    same(after, {n: torch.cat([last[n] for last in rows]) for n in after})
    for a, b in zip(found, torch.autograd.grad(loss, leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", RULES)
def test_one_graph_for_every_length(name: str) -> None:
    """A layer in `torch.compile`: no break, one graph for many lengths, the numbers of the layer itself."""
    torch._dynamo.reset()
    layer = layer_of(name)
    counter = CompileCounterWithBackend("aot_eager")
    fast = torch.compile(layer, fullgraph=True, dynamic=True, backend=counter)
    for length in (9, 12, 33, 5):
        x = torch.randn(3, length, 8, requires_grad=True)
        y, after = fast(x)
        wanted, last = layer(x)
        torch.testing.assert_close(y, wanted)
        torch.testing.assert_close(after["memory"], last["memory"])
        (found,) = torch.autograd.grad(y.sin().sum(), x)
        torch.testing.assert_close(found, torch.autograd.grad(wanted.sin().sum(), x)[0])
    assert counter.frame_count == 1


def test_packed_and_masked_calls_are_one_graph_each() -> None:
    torch._dynamo.reset()
    plain = layer_of("anchors and windows")
    convolved = miras.load("gated_deltanet").GatedDeltaNetLayer(width=8, heads=2)
    for layer, masked in ((plain, False), (convolved, True)):
        counter = CompileCounterWithBackend("aot_eager")
        fast = torch.compile(layer, fullgraph=True, dynamic=True, backend=counter)
        for length in (9, 14):
            x = torch.randn(3, length, 8, requires_grad=True)
            given = {"attention_mask": torch.rand(3, length) > 0.3}
            here = x
            if not masked:
                given = {"cu_seqlens": torch.tensor([0, length, length, 3 * length])}
                here = x.flatten(0, 1)[None]
            y, after = fast(here, None, **given)
            wanted, last = layer(here, None, **given)
            torch.testing.assert_close(y, wanted)
            torch.testing.assert_close(after, last)
            (found,) = torch.autograd.grad(y.sin().sum(), x)
            torch.testing.assert_close(found, torch.autograd.grad(wanted.sin().sum(), x)[0])
        assert counter.frame_count == 1


@pytest.mark.parametrize("name", ["anchors and windows", "token by token"])
def test_a_step_is_one_graph(name: str) -> None:
    torch._dynamo.reset()
    layer = layer_of(name)
    fast = torch.compile(layer.step, fullgraph=True, backend="aot_eager")
    state = other = layer.initial_state(2)
    for _ in range(6):
        x = torch.randn(2, 8)
        (y, state), (wanted, other) = fast(x, state), layer.step(x, other)
        torch.testing.assert_close(y, wanted)
    torch.testing.assert_close(state, other)


MANY = """
memory M(d) {
  architecture mlp(hidden = d, activation = tanh, depth = 5)
  bias         l2
  retention    decay alpha
  algorithm    momentum(eta, mu), anchored(2, sweeps = 3)
  order        predict, decay, write, read
  gates        { alpha[row], mu[row] = sigmoid(linear(x))   eta[row] = sigmoid(linear(x)) / 8 }
}
"""


def test_a_memory_of_more_tensors_than_an_operator_has_arguments() -> None:
    layer = miras.load(MANY).M(width=4, heads=2).double()
    held = vars(sys.modules[type(layer).__module__]).values()
    op = next(x for x in held if isinstance(x, MemoryOp))
    assert 2 * len(op.inputs) + 2 * len(op.carried) > 64
    x = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)
    y, _ = layer(x)
    state, answers = None, []
    for t in range(3):
        answer, state = layer.step(x[:, t], state)
        answers.append(answer)
    torch.testing.assert_close(y, torch.stack(answers, 1))
    wanted = torch.autograd.grad(torch.stack(answers, 1).sin().sum(), x)[0]
    torch.testing.assert_close(torch.autograd.grad(y.sin().sum(), x)[0], wanted)


def test_which_form_computes_is_known_while_a_graph_is_made() -> None:
    """On a GPU kernels would compute; the choice is no break in the graph."""
    _, table, kernels = tables(miras.parse("gated_deltanet").memories["GatedDeltaNet"])
    op = MemoryOp(table, kernels)

    def chosen(x: Tensor) -> Tensor:
        return x + (op.form_on(torch.device("cuda"), wide=False) == "kernel")

    fast = torch.compile(chosen, fullgraph=True, backend="eager")
    torch.testing.assert_close(fast(torch.zeros(1)), torch.ones(1))


@pytest.mark.parametrize("name", RULES)
def test_meta_tensors_have_the_shapes_of_real_ones(name: str) -> None:
    layer = layer_of(name)
    real = layer(torch.randn(2, 7, 8))
    ghost = layer.to("meta")
    y, after = ghost(torch.empty(2, 7, 8, device="meta"))
    y.sum().backward()
    assert all(p.grad is not None and p.grad.is_meta for p in ghost.parameters())
    for a, b in zip(
        (y, *after["memory"].values()), (real[0], *real[1]["memory"].values()), strict=True
    ):
        assert a.is_meta and (a.shape, a.dtype) == (b.shape, b.dtype)
    assert ghost.step(torch.empty(2, 8, device="meta"), after)[0].shape == (2, 8)
