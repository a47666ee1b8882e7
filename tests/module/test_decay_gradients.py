"""The gradient of a gate's own projection, where decays are 0, tiny or near 1.

A gate's formula may multiply the gradient of a decay's logarithm by any number: it must be right
relative to itself.  The reference is `step` in float64, which autograd differentiates.
"""

from __future__ import annotations

import functools
import sys

import pytest
import torch
from torch import Tensor, nn

import miras_dsl as miras

TEXT = """memory M(d) {{
  architecture W: matrix[value, key]
  bias {bias}   retention l2(alpha)   algorithm {algorithm}
  order {order}
  gates {{ alpha{axes} = {form}
          eta = 0.5 * sigmoid(linear(x)) }}
}}"""
RULES = {
    "hebb": ("dot", "gd(eta), exact", "decay, write, read"),
    "read first": ("dot", "gd(eta), exact", "read, decay, write"),
    "delta": ("l2", "gd(eta), exact", "decay, predict, write, read"),
    "predict first": ("l2", "gd(eta), exact", "predict, decay, write, read"),
    "momentum": ("dot", "momentum(eta, 0.9), exact", "decay, write, read"),
    "rows": ("sum(log(cosh(W @ key - value)))", "gd(eta), exact", "decay, predict, write, read"),
}
FORMS = [
    "exp(-exp(linear(x)))",
    "clip(linear(x), 0, 1)",
    "exp(-linear(x)^2)",
    "exp(-8 * softplus(linear(x)))",
    "1e-8 * sigmoid(linear(x))",
    "1 - sigmoid(linear(x))",
]
CASES = [
    *[("hebb", axes, form) for axes in ("", "[key]", "[value]") for form in FORMS],
    *[(rule, "", form) for rule in list(RULES)[1:] for form in FORMS[:2]],
    *[(rule, "[key]", FORMS[0]) for rule in ("read first", "delta", "predict first")],
    *[(rule, "[value]", FORMS[0]) for rule in ("read first", "delta", "predict first", "rows")],
]
T, WIDTH, HEADS = 90, 16, 2


@functools.cache
def layer(rule: str, axes: str, form: str) -> nn.Module:
    bias, algorithm, order = RULES[rule]
    text = TEXT.format(bias=bias, algorithm=algorithm, order=order, axes=axes, form=form)
    return miras.load(text).M(width=WIDTH, heads=HEADS)


def drawn(module: nn.Module, strength: float) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Weights and x that bfloat16 holds, with preactivations of the decay of that strength."""
    torch.manual_seed(3)
    x = torch.randn(1, T, WIDTH).bfloat16().double()
    state = {n: 0.3 * torch.randn(v.shape).double() for n, v in module.state_dict().items()}
    weight = torch.randn(state["alpha_linear.weight"].shape).double()
    state["alpha_linear.weight"] = weight * strength / (x @ weight.T).std()
    return (
        {n: v.bfloat16().double() for n, v in state.items()},
        x,
        torch.randn(1, T, WIDTH).double(),
    )


def gradient(module: nn.Module, drawn: tuple, kind: torch.dtype, step: bool) -> Tensor:
    """d answers / d the projection of the decay, in a type."""
    state, x, weight = drawn
    module = module.double()
    module.load_state_dict(state)
    module = module.to(kind)
    module.zero_grad()
    if step:
        carried, answers = None, []
        for t in range(T):
            answer, carried = module.step(x[:, t].to(kind), carried)
            answers.append(answer)
        y = torch.stack(answers, 1)
    else:
        y, _ = module(x.to(kind))
    assert y.isfinite().all()
    (y.double() * weight).sum().backward()
    found = module.alpha_linear.weight.grad
    assert found is not None and found.isfinite().all()
    return found.double().clone()


def relative(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}{c[1]}: {c[2]}")
def test_the_gradient_of_a_projection(case: tuple[str, str, str]) -> None:
    module = layer(*case)
    for strength in (2.0, 20.0):
        given = drawn(module, strength)
        exact = gradient(module, given, torch.float64, step=True)
        assert exact.norm() > 0
        assert relative(gradient(module, given, torch.float64, step=False), exact) < 1e-9
        assert relative(gradient(module, given, torch.float32, step=False), exact) < 1e-4
        assert relative(gradient(module, given, torch.float32, step=True), exact) < 1e-4


@pytest.mark.parametrize("case", CASES[:4] + CASES[6:10], ids=lambda c: f"{c[0]}{c[1]}: {c[2]}")
def test_in_half_precision_with_the_same_preactivations(case: tuple[str, str, str]) -> None:
    """Against float64 whose learned maps give what bfloat16 gives; its own gradients are exact."""
    module = layer(*case)
    given = drawn(module, 20.0)
    found = gradient(module, given, torch.bfloat16, step=False)

    def rounded(_: nn.Module, __: object, y: Tensor) -> Tensor:
        return y + (y.bfloat16().double() - y).detach()

    maps = [m for m in module.children() if type(m).__name__ == "Linear"]
    hooks = [m.register_forward_hook(rounded) for m in maps]
    exact = gradient(module, given, torch.float64, step=True)
    for hook in hooks:
        hook.remove()
    assert relative(found, exact) < 5e-2


HUGE = {
    "large": [-1e12, -1e15],
    "infinite": [-float("inf")] * 2,
    "both": [-float("inf"), -1e300],
}


@pytest.mark.parametrize("huge", HUGE.values(), ids=list(HUGE))
@pytest.mark.parametrize("axes", ["", "[key]", "[value]"])
def test_logarithms_without_a_bound(axes: str, huge: list[float]) -> None:
    """A decay whose logarithm is huge or infinite is 0; what it forgets comes back nowhere."""
    module = layer("hebb", axes, FORMS[0])
    functions = sys.modules[type(module).__module__]
    torch.manual_seed(0)
    size = WIDTH // HEADS
    shapes = {"query": [size], "key": [size], "value": [size], "eta": []}
    shapes["log_alpha"] = [size] if axes else []
    given = {n: torch.rand(1, 9, HEADS, *shape).double() for n, shape in shapes.items()}
    given["log_alpha"] *= -1
    given["log_alpha"][:, 3], given["log_alpha"][:, 4] = huge
    state = {"W": torch.zeros(1, HEADS, size, size).double()}
    found = []
    for step in (False, True):
        leaves = {n: x.clone().requires_grad_() for n, x in given.items()}
        if step:
            carried, rows = state, []
            for t in range(9):
                row, carried = functions.m_step(
                    **{n: x[:, t] for n, x in leaves.items()}, state=carried
                )
                rows.append(row)
            y = torch.stack(rows, 1)
        else:
            y, _ = functions.m_memory(**leaves, state=state)
        y.sum().backward()
        found.append({"y": y, **{n: x.grad for n, x in leaves.items()}})
    for name, exact in found[1].items():
        assert exact.isfinite().all() and found[0][name].isfinite().all()
        torch.testing.assert_close(found[0][name], exact, rtol=1e-10, atol=1e-12)
