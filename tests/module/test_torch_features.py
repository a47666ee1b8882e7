"""Features of PyTorch on a layer: other types, compilation, second derivatives, wrong shapes."""

from __future__ import annotations

import pytest
import torch

import miras_dsl as miras
from tests.shipped_specs import by_layer


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(("file", "name"), by_layer())
def test_a_layer_in_another_type(file: str, name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = miras.load(file)[name](width=16, heads=2).to(dtype)
    y, state = layer(torch.randn(1, 5, 16, dtype=dtype))
    y.sum().backward()
    after, _ = layer.step(torch.randn(1, 16, dtype=dtype), state)
    assert y.dtype == after.dtype == dtype
    assert all(p.grad is None or p.grad.isfinite().all() for p in layer.parameters())


def test_a_second_derivative_is_an_error_not_a_wrong_number() -> None:
    layer = miras.load("gated_deltanet").GatedDeltaNet(width=8, heads=1).double()
    x = torch.randn(1, 5, 8, dtype=torch.float64, requires_grad=True)
    y, _ = layer(x)
    (first,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="call the layer's `step`"):
        torch.autograd.grad((first * x.detach()).sum(), x)
    (again,) = torch.autograd.grad(layer(x)[0].sin().sum(), x)
    torch.testing.assert_close(first, again, rtol=0, atol=0)


def test_second_derivatives_of_steps() -> None:
    layer = miras.load("gated_deltanet").GatedDeltaNet(width=4, heads=1).double()
    x = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)

    def answer(x: torch.Tensor) -> torch.Tensor:
        state, found = None, []
        for t in range(x.shape[1]):
            y, state = layer.step(x[:, t], state)
            found.append(y)
        return torch.stack(found, 1)

    assert torch.autograd.gradgradcheck(answer, (x,))


def test_a_layer_inside_torch_compile() -> None:
    torch.manual_seed(0)
    layer = miras.load("deltanet").DeltaNetLayer(width=8, heads=1)
    compiled = torch.compile(layer, backend="eager")
    x = torch.randn(1, 5, 8)
    y, _ = compiled(x)
    y.sum().backward()
    torch.testing.assert_close(y, layer(x)[0])


@pytest.mark.parametrize(
    ("shape", "wanted"), [((2, 5, 16), r"\[B, 16\]; `step` takes one token"), ((16,), r"\[B, 16\]")]
)
def test_a_step_of_the_wrong_shape(shape: tuple[int, ...], wanted: str) -> None:
    layer = miras.load("deltanet").DeltaNetLayer(width=16, heads=2)
    with pytest.raises(ValueError, match=wanted):
        layer.step(torch.randn(shape))


@pytest.mark.parametrize("shape", [(5, 16), (2, 5, 12)])
def test_a_sequence_of_the_wrong_shape(shape: tuple[int, ...]) -> None:
    for name in ("DeltaNetLayer", "DeltaNet"):
        layer = miras.load("deltanet")[name](width=16, heads=2)
        with pytest.raises(ValueError, match=r"\[B, T, 16\]"):
            layer(torch.randn(shape))


def test_no_heads() -> None:
    with pytest.raises(ValueError, match="heads"):
        miras.load("deltanet").DeltaNet(width=16, heads=0)


def test_a_library_and_a_layer_print_short() -> None:
    """Names and sizes, not the whole tree of the spec."""
    library = miras.load("gated_deltanet")
    expected = "Library(memories GatedDeltaNet; layers GatedDeltaNetLayer; digest "
    assert repr(library) == f"{expected}{library.digest[:12]})"
    shown = repr(library.GatedDeltaNetLayer(width=64, heads=2)).replace("  ", "")
    for line in (
        "width=64, heads=2, dk=32, dv=32",
        "(query_linear): Linear(64 -> 2 x 32)",
        "query, silu, unit length, 2 x 32",
        "(conv): CausalConv(query, width=4, 2 x 32)",
        "(norm): RMSNorm(32)",
        "(project): Linear(64 -> 64)",
    ):
        assert line in shown
    assert "Linear(32 -> 4 x 32, rank=32)" in repr(miras.load("yaad").Yaad(width=32, heads=4, d=8))
    assert "Shift(x_shift, 16)" in repr(miras.load("rwkv7").RWKV7(width=16, heads=2))
