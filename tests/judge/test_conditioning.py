"""No shipped spec is ill-conditioned in bf16 at its default gates: a certificate there means something.

Fed is what a layer makes of random numbers before it has learned anything.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import miras_dsl as miras
from miras_dsl.runtime.judge.case_data import Data, narrow
from miras_dsl.runtime.judge.cases import Case, parameters
from miras_dsl.runtime.judge.oracle import run as oracle
from miras_dsl.runtime.judge.oracle.token_inputs import leaf_axes
from miras_dsl.runtime.judge.reference import Outcome, outcome
from miras_dsl.runtime.judge.tolerance import ILL_CONDITIONED
from miras_dsl.runtime.layers.conv_state import ConvState
from miras_dsl.spec import MemorySpec
from tests.shipped_specs import by_layer, spanning_case

TOKENS, SIZE, HEADS = 128, 32, 2


def as_fed(layer: nn.Module, spec: MemorySpec) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The oracle's inputs and first state, as the layer makes them."""
    (memory,) = (m for m in layer.modules() if type(m).__name__ == spec.name)
    with torch.no_grad():
        state = memory.initial_state(1)
        made = memory.feeds(torch.randn(1, TOKENS, HEADS * SIZE), ConvState(state))
        made |= memory.constants() if spec.network.params else {}
    inputs: dict[str, Tensor] = {}
    names = [name for _, name in leaf_axes(spec)] + [name for name, _, _ in spec.network.params]
    for name in (*names, *(g.name for g in spec.gates if "position" in g.axes)):
        word = name.replace(".", "_")
        if word in made:
            inputs[name] = made[word]
        elif f"log_{word}" in made:
            inputs[name] = made[f"log_{word}"].exp()
    return inputs, {name: x.detach() for name, x in state["memory"].items()}


@pytest.mark.parametrize(("file", "name"), by_layer(spanning_case))
def test_bf16_means_something_at_default_gates(file: str, name: str) -> None:
    library = miras.load(file)
    torch.manual_seed(0)
    layer = library[name](width=HEADS * SIZE, heads=HEADS)
    kinds = {type(module).__name__ for module in layer.modules()}
    (spec,) = (m for m in library.spec.memories.values() if m.name in kinds)
    inputs, state = as_fed(layer, spec)
    exactly = {n: x.to(narrow(spec, n, torch.bfloat16)).double() for n, x in inputs.items()}
    first = {n: x.double() if x.is_floating_point() else x for n, x in state.items()}
    cotangent = torch.randn(1, TOKENS, HEADS, SIZE).bfloat16().double()
    drawn = Data(exactly, first, cotangent, None)
    sizes = parameters(spec, Case("", (TOKENS,), (SIZE, SIZE)))

    def under(rounding: torch.dtype | None, dtype: torch.dtype) -> Outcome:
        def call(x, s, offsets):
            return oracle.run(spec, sizes, x, s, rounding=rounding)

        return outcome(spec, call, drawn, lambda name: dtype)

    exact, low = under(None, torch.float64), under(torch.bfloat16, torch.float32)
    # What is 0 but for rounding, such as the gradient of a stabiliser, has no relative error.
    least = 1e-12 * max(float(x.norm()) for x in exact.values.values() if x.is_floating_point())
    off = {
        name: float((low.values[name].double() - x).norm() / x.norm())
        for name, x in exact.values.items()
        if x.is_floating_point() and float(x.norm()) > least
    }
    assert len(off) > 4
    assert max(off.values()) <= ILL_CONDITIONED, sorted(off.items(), key=lambda kv: -kv[1])[:3]
