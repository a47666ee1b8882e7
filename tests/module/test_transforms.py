"""`torch.func` on layers: grad, vmap, jvp and what they make together; what cannot be is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, hessian, jvp, vmap

import miras_dsl as miras
from tests.module.test_operator import RULES, layer_of

pytestmark = pytest.mark.filterwarnings("ignore::miras_dsl.exceptions.SpecWarning")
Parameters = dict[str, Tensor]


def setting(name: str) -> tuple[torch.nn.Module, Parameters, Tensor]:
    """A layer in float64, its parameters, and an input [2, 9, 8]."""
    layer = layer_of(name).double()
    parameters = {n: p.detach() for n, p in layer.named_parameters()}
    return layer, parameters, torch.randn(2, 9, 8, dtype=torch.float64)


def same(found: Parameters, wanted: tuple[Tensor, ...]) -> None:
    for a, b in zip(found.values(), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", RULES)
def test_gradients_for_all_and_for_each(name: str) -> None:
    """`grad`, and `vmap` of it: the gradient that each sequence has alone."""
    layer, parameters, x = setting(name)

    def loss(parameters: Parameters, x: Tensor) -> Tensor:
        return functional_call(layer, parameters, (x,))[0].sin().sum()

    def plain(x: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(layer(x)[0].sin().sum(), list(layer.parameters()))

    same(grad(loss)(parameters, x), plain(x))
    each = vmap(grad(loss), (None, 0))(parameters, x[:, None])
    for row in range(2):
        same({n: g[row] for n, g in each.items()}, plain(x[row : row + 1]))


@pytest.mark.parametrize("name", RULES)
def test_several_models_at_once(name: str) -> None:
    """`vmap` over parameters, and `grad` through it."""
    layer, parameters, x = setting(name)
    models = {n: torch.stack([p, 0.9 * p]) for n, p in parameters.items()}

    def answers(models: Parameters) -> Tensor:
        return vmap(lambda one: functional_call(layer, one, (x,))[0])(models)

    found = grad(lambda models: answers(models).sin().sum())(models)
    for row in range(2):
        one = {n: p[row].requires_grad_() for n, p in models.items()}
        y, _ = functional_call(layer, one, (x,))
        torch.testing.assert_close(answers(models)[row], y, rtol=1e-8, atol=1e-10)
        wanted = torch.autograd.grad(y.sin().sum(), list(one.values()))
        same({n: g[row] for n, g in found.items()}, wanted)


@pytest.mark.parametrize("name", RULES)
def test_forward_mode(name: str) -> None:
    """A derivative in forward mode, against the gradient; with dual numbers as well."""
    layer, _, x = setting(name)
    direction = torch.randn_like(x)
    y, found = jvp(lambda x: layer(x)[0], (x,), (direction,))
    torch.testing.assert_close(y, layer(x)[0])
    with torch.autograd.forward_ad.dual_level():
        dual = layer(torch.autograd.forward_ad.make_dual(x, direction))[0]
        tangent = torch.autograd.forward_ad.unpack_dual(dual).tangent
    torch.testing.assert_close(tangent, found)
    leaf = x.clone().requires_grad_()
    weights = torch.randn_like(y)
    (gradient,) = torch.autograd.grad((layer(leaf)[0] * weights).sum(), leaf)
    torch.testing.assert_close((gradient * direction).sum(), (found * weights).sum())


def test_second_derivatives() -> None:
    """Refused where they are not derived, right where a memory goes token by token, and of `step`."""
    layer, _, x = setting("inverse")

    def twice(x: Tensor) -> Tensor:
        return grad(lambda x: layer(x)[0].sin().sum())(x).square().sum()

    with pytest.raises(RuntimeError, match="call the layer's `step`"):
        grad(twice)(x)
    layer, _, x = setting("token by token")
    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(layer(leaf)[0].sin().sum(), leaf, create_graph=True)
    (wanted,) = torch.autograd.grad(first.square().sum(), leaf)
    torch.testing.assert_close(grad(twice)(x), wanted)
    step = miras.load("gated_deltanet").GatedDeltaNetLayer(width=4, heads=1).double().step
    x = torch.randn(2, 4, dtype=torch.float64)
    found = vmap(hessian(lambda x: step(x[None])[0].sin().sum()))(x)
    assert found.abs().max() > 1e-3
    torch.testing.assert_close(found, found.mT)
