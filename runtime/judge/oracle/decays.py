"""Which gates of a memory are decays, by what they do to what is carried."""

from __future__ import annotations

from functools import lru_cache

import torch

from miras_dsl.spec import Apply, Expr, MemorySpec, Ref, iter_nodes

from .run import axis_sizes, initial, run
from .token_inputs import leaf_axes


@lru_cache(maxsize=64)
def decays(spec: MemorySpec) -> frozenset[str]:
    """The gates that multiply a carried tensor: the decay, a momentum's factor of itself, and any other
    gate at whose value 0 one token leaves nothing of what the memory held."""
    found = {d.factor.name for d in spec.retention.decays if isinstance(d.factor, Ref)}
    for target, formula in spec.algorithm.rules:
        for node in iter_nodes(formula):
            names = [part for part in _factors(node) if isinstance(part, Ref)]
            if any(n.kind == "keep" or (n.kind, n.name) == ("carry", target) for n in names):
                found |= {n.name for n in names if n.kind == "gate"}
    others = [g for g in spec.gates if g.name not in found and g.range.low <= 0 <= g.range.high]
    return frozenset(found | {gate.name for gate in others if _forgets_at_zero(spec, gate.name)})


def _factors(expr: Expr) -> list[Expr]:
    if isinstance(expr, Apply) and expr.op in ("mul", "neg"):
        return [factor for arg in expr.args for factor in _factors(arg)]
    if isinstance(expr, Apply) and expr.op == "div":
        return _factors(expr.args[0])
    return [expr]


def _forgets_at_zero(spec: MemorySpec, gate: str) -> bool:
    """Whether a token at which a gate is 0 leaves nothing of the state before it, and one at which it
    is 1/2 leaves something.  Rules that solve for their step, or learn at an anchor, are not asked."""
    retention, algorithm = spec.retention, spec.algorithm
    if algorithm.anchored or algorithm.implicit or retention.penalty or retention.bregman:
        return False
    sizes = {name: default or 3 for name, default in spec.params}
    extent, random = axis_sizes(spec, sizes), torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    inputs = {
        name: normal(1, 1, 1, *(extent[axis] for axis in axes)).abs() / 2
        for (_, name), axes in leaf_axes(spec).items()
    }
    inputs |= {n: normal(1, *(extent[a] for a in axes)) for n, axes, _ in spec.network.params}
    first = initial(spec, sizes, inputs, 1, 1)
    for weight in spec.states:
        first[weight.name] = normal(1, 1, *(extent[axis] for axis in weight.axes))
    left = []
    for value in (0.0, 0.5):
        own = {
            n: torch.full_like(x, value) if n.split(".")[0] == gate else x
            for n, x in inputs.items()
        }
        state = {n: x.requires_grad_() for n, x in first.items() if x.is_floating_point()}
        _, after = run(spec, sizes, own, {**first, **state})
        total = torch.stack([torch.sin(1 + after[w.name]).sum() for w in spec.states]).sum()
        if not total.requires_grad:
            left.append(0.0)
            continue
        slopes = torch.autograd.grad(total, list(state.values()), allow_unused=True)
        left.append(max((float(s.abs().max()) for s in slopes if s is not None), default=0.0))
    return left[0] < 1e-12 < left[1]
