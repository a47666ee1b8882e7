"""Under autocast a memory computes in single precision: training works, and answers stay close."""

import pytest
import torch

import miras_dsl as miras

LAYERS = {"gated_deltanet": "GatedDeltaNetLayer", "yaad": "YaadLayer", "rwkv7": "RWKV7Layer"}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_trains_under_autocast(name):
    torch.manual_seed(0)
    layer = getattr(miras.load(name), LAYERS[name])(width=32, heads=2)
    x = torch.randn(2, 70, 32)
    exact, _ = layer(x)

    with torch.autocast("cpu", torch.bfloat16):
        y, state = layer(x)
        step, _ = layer.step(x[:, 0], state)
    y.float().square().mean().backward()

    assert torch.isfinite(step).all()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters() if p.grad is not None)
    assert sum(p.grad is not None for p in layer.parameters()) > 3
    assert (y - exact).norm() < 0.1 * exact.norm()
    assert all(t.dtype == torch.float32 for t in state_tensors(state))


def state_tensors(state):
    """The floating-point tensors of a nested state that belong to the memory."""
    for name, value in state.items():
        if isinstance(value, dict):
            yield from state_tensors(value)
        elif value.is_floating_point() and "W" in name:
            yield value
