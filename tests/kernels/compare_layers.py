"""Whole generated modules in Triton's interpreter: kernels and chunk form, and what differs.

Run as a module with TRITON_INTERPRET=1 and the names of shipped layers; prints JSON lines.  `load`
then gives them kernels, as it does where there is a GPU, and calls go to these.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import miras_dsl as miras
from miras_dsl.runtime.finite_checks import NotFinite, debugging
from miras_dsl.runtime.kernels import launch_config, recurrent
from miras_dsl.runtime.kernels.triton_interpreter import interpreting
from miras_dsl.runtime.layers import state_tree as states

WIDTH, HEADS, TOKENS = 12, 2, 21
BOUNDS = (0, 1, 1, 18, 21)
STARTED: list[Any] = []
"""The kernels that were launched."""


def watched(start: Callable[..., None]) -> Callable[..., None]:
    """A launcher that is counted."""

    def counted(kernel: Any, *rest: Any) -> None:
        STARTED.append(kernel)
        start(kernel, *rest)

    return counted


def outcome(layer: Any, x: Tensor, bounds: Tensor | None) -> dict[str, Tensor]:
    """Answers, the state after, and the gradient of everything, from a state that is not zero."""
    torch.manual_seed(1)
    count = len(x) if bounds is None else len(bounds) - 1
    warm = layer.initial_state(count)
    warm = states.map(warm, lambda t: (0.1 * torch.randn_like(t)).requires_grad_())
    x = x.clone().requires_grad_()
    layer.zero_grad()
    y, after = layer(x, warm, bounds)
    loss = (y * torch.randn_like(y)).sum()
    for t in states.flatten(after).values():
        loss = loss + (t * torch.randn_like(t)).sum()
    loss.backward()
    found = {"y": y, "d x": x.grad}
    found |= {f"state {name}": t for name, t in states.leaves(after)}
    found |= {f"d state {name}": t.grad for name, t in states.leaves(warm)}
    found |= {f"d {name}": p.grad for name, p in layer.named_parameters()}
    return {name: t.detach() for name, t in found.items() if t is not None}


def compared(name: str, layer: Any, case: str, x: Tensor, bounds: Tensor | None) -> None:
    """Print the error of every quantity, relative to its largest value, and what was launched."""
    STARTED.clear()
    os.environ["MIRAS_KERNELS"] = "on"
    kernels, launched = outcome(layer, x, bounds), len(STARTED)
    os.environ["MIRAS_KERNELS"] = "off"
    chunks = outcome(layer, x, bounds)
    os.environ["MIRAS_KERNELS"] = "on"
    assert kernels.keys() == chunks.keys()
    assert len(STARTED) == launched
    errors = {
        n: float((kernels[n] - t).abs().max() / t.abs().max().clamp(min=1e-3))
        for n, t in chunks.items()
    }
    print(json.dumps({"layer": name, "case": case, "launched": launched, "errors": errors}))


def bad(layer: Any, x: Tensor) -> str:
    """What debug mode says of a call to the kernels with an input that is not a number."""
    x = x.clone()
    x[1, 7, 3] = torch.nan
    STARTED.clear()
    try:
        with debugging():
            layer(x)
    except NotFinite as reason:
        return f"{len(STARTED)} launched; {reason}"
    return "nothing"


def main(names: list[str]) -> None:
    assert interpreting(), "set TRITON_INTERPRET=1"
    # What torch.empty gives is NaN, so that what a kernel fails to write is seen.
    torch.use_deterministic_algorithms(True)
    recurrent._launch = watched(recurrent._launch)
    for name in names:
        torch.manual_seed(0)
        spec, _, kind = name.partition(".")
        layer = miras.load(spec)[kind](WIDTH, HEADS)
        x = torch.randn(2, TOKENS, WIDTH)
        packed, bounds = torch.randn(1, BOUNDS[-1], WIDTH), torch.tensor(BOUNDS, dtype=torch.int32)
        launch_config.RECOMPUTE_BYTES = 1 << 30
        compared(name, layer, "a batch", x, None)
        compared(name, layer, "packed", packed, bounds)
        launch_config.RECOMPUTE_BYTES = 1
        compared(name, layer, "a batch, one after the other", x, None)
        compared(name, layer, "packed, one after the other", packed, bounds)
        print(json.dumps({"layer": name, "case": "debug", "said": bad(layer, x)}))


if __name__ == "__main__":
    main(sys.argv[1:])
