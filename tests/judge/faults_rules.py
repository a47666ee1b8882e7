"""Faults of what algorithms and retentions say: windows, steps, pairs, resets, exact and proximal
steps, inverted potentials, orthogonal factors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import sympy as sp
import torch
from torch import Tensor

from miras_dsl.codegen import pipeline
from miras_dsl.codegen.derive import token_step
from miras_dsl.codegen.inner_step import closed_form_inverse, implicit_step, proximal_step
from miras_dsl.codegen.model import build as model_build
from miras_dsl.codegen.model import lower
from miras_dsl.codegen.passes import autodiff
from miras_dsl.codegen.plan import interface as plan_interface
from miras_dsl.ir import ONE, ZERO
from miras_dsl.runtime.execute import call as call_module
from miras_dsl.runtime.execute import chunk_scan, window
from miras_dsl.runtime.ops import tensor_ops
from miras_dsl.scalar import functions as scalars
from miras_dsl.scalar import monotone_inverse
from miras_dsl.spec import MemorySpec, Number
from tests.judge.faults import Patch, fault


def _model(patch: Patch, change: Callable[[Any], Any]) -> None:
    """Derive from another model than that of the text."""
    made = pipeline.update_rule
    patch.setattr(
        pipeline,
        "update_rule",
        lambda given: made(change(given)),
    )


def _rule(patch: Patch, **changed: Any) -> None:
    """Change a derived rule."""
    made = pipeline.update_rule
    patch.setattr(pipeline, "update_rule", lambda given: replace(made(given), **changed))


# ------------------------------------------------------------ windows


def _windowed(patch: Patch, change: Callable[[Any], Any]) -> None:
    made: Any = model_build._windowed

    def changed(spec: MemorySpec, *rest: Any) -> Any:
        assert spec.algorithm.window is not None
        other = replace(spec.algorithm, window=change(spec.algorithm.window))
        return made(replace(spec, algorithm=other), *rest)

    patch.setattr(model_build, "_windowed", changed)


@fault("window, anchored", "a window is one token short")
def _(patch: Patch) -> None:
    _windowed(patch, lambda own: (own[0] - 1, own[1]))


@fault("window", "older tokens of a window are not discounted")
def _(patch: Patch) -> None:
    _windowed(patch, lambda own: (own[0], Number(sp.Integer(1))))


@fault("window, anchored", "the older tokens of a window stand in each other's places")
def _(patch: Patch) -> None:
    made: Any = window._at_age

    def mixed(x: Tensor, tail: Tensor, row: Tensor, place: Tensor, age: int, width: int) -> Tensor:
        return made(x, tail, row, place, width - age, width)

    patch.setattr(window, "_at_age", mixed)


@fault("window, anchored", "a window forgets what the call before has seen")
def _(patch: Patch) -> None:
    made: Any = window._at_age
    patch.setattr(window, "_at_age", lambda x, tail, *rest: made(x, torch.zeros_like(tail), *rest))


@fault("window", "a window keeps its first tokens for the next call, not its last")
def _(patch: Patch) -> None:
    def first(x: Tensor, tail: Tensor, starts: Any, lengths: Any, width: int) -> Tensor:
        flat = x.flatten(0, 1)
        rows = (
            torch.cat([tail[n], flat[s : s + length]])[: width - 1]
            for n, (s, length) in enumerate(zip(starts, lengths, strict=True))
        )
        return torch.stack(list(rows))

    patch.setattr(window, "_last", first)


@fault("window, anchored", "a window reaches into the packed sequence before")
def _(patch: Patch) -> None:
    made: Any = window._at_age

    def over(x: Tensor, tail: Tensor, row: Tensor, place: Tensor, age: int, width: int) -> Tensor:
        packed = x.shape[0] == 1
        reached = torch.where(row > 0, place + width, place) if packed else place
        return made(x, tail, row, reached, age, width)

    patch.setattr(window, "_at_age", over)


# ------------------------------------------------------------ steps and pairs


@fault("steps", "a token takes one step where it should take two")
def _(patch: Patch) -> None:
    _rule(patch, steps_per_token=1)


@fault("steps", "the answer is taken before the last step")
def _(patch: Patch) -> None:
    patch.setattr(plan_interface, "_step_of", lambda rule, event: 0)


@fault("steps", "the decay waits for the last of a token's steps")
def _(patch: Patch) -> None:
    made = call_module.expand_steps
    patch.setattr(
        call_module, "expand_steps", lambda memory, *rest: made(replace(memory, decay_at=1), *rest)
    )


@fault("pairs", "the pairs of a token are learned from the last to the first")
def _(patch: Patch) -> None:
    made = call_module.expand_steps

    def turned(memory: Any, feed: Any, x: Tensor) -> Tensor:
        paired = x.dim() - 3 > len(feed.axes)
        return made(memory, feed, x.flip(3) if paired else x)

    patch.setattr(call_module, "expand_steps", turned)


@fault("pairs", "every step of a token learns the first pair")
def _(patch: Patch) -> None:
    made = call_module.expand_steps

    def same(memory: Any, feed: Any, x: Tensor) -> Tensor:
        paired = x.dim() - 3 > len(feed.axes)
        return made(memory, feed, x[:, :, :, :1].expand(x.shape) if paired else x)

    patch.setattr(call_module, "expand_steps", same)


# ------------------------------------------------------------ resets


@fault("reset", "a memory never begins anew")
def _(patch: Patch) -> None:
    _rule(patch, block_start=())


@fault("reset", "a memory begins anew one token early")
def _(patch: Patch) -> None:
    _model(patch, lambda own: replace(own, reset=own.reset - 1))


@fault("reset", "gradients flow through a reset")
def _(patch: Patch) -> None:
    patch.setattr(
        chunk_scan, "apply_block_edge_adjoint", lambda m, t, v, b, states, *rest: (states, {})
    )


# ------------------------------------------------------------ exact steps


@fault("implicit", "an implicit step is a plain one")
def _(patch: Patch) -> None:
    made = implicit_step.contract
    patch.setattr(implicit_step, "contract", lambda *given: made(*given) * 0)


@fault("implicit", "an implicit step is damped by half the key's square")
def _(patch: Patch) -> None:
    made = implicit_step.contract
    patch.setattr(implicit_step, "contract", lambda *given: made(*given) * 0.5)


@fault("implicit", "an implicit step is damped whatever its rate")
def _(patch: Patch) -> None:
    made = implicit_step._rule
    patch.setattr(implicit_step, "_rule", lambda model, weight: (ONE, made(model, weight)[1]))


# ------------------------------------------------------------ proximal steps


@fault("penalty", "a proximal step passes zero")
def _(patch: Patch) -> None:
    patch.setattr(scalars, "maximum", lambda a, b: a)
    patch.setattr(closed_form_inverse, "holds_on_samples", lambda *given: True)


@fault("penalty", "a proximal step goes up the gradient")
def _(patch: Patch) -> None:
    made = proximal_step.proximal_step
    patch.setattr(
        token_step, "proximal_step", lambda m, w, slope, before: made(m, w, -slope, before)
    )


@fault("penalty", "a proximal step is pulled to zero, not to where the weight was")
def _(patch: Patch) -> None:
    made = proximal_step.proximal_step
    patch.setattr(
        token_step, "proximal_step", lambda model, w, slope, before: made(model, w, slope, ZERO)
    )


# ------------------------------------------------------------ potentials inverted by Newton steps

Slope = Callable[[Tensor], Tensor]


@fault("potential", "an inverted potential is off by a millionth")
def _(patch: Patch) -> None:
    made: Any = tensor_ops.monotone_inverse
    patch.setattr(
        tensor_ops, "monotone_inverse", lambda *given, **ends: made(*given, **ends) * (1 + 1e-6)
    )


@fault("potential", "an inverted potential has the slope of the potential")
def _(patch: Patch) -> None:
    made: Any = tensor_ops.monotone_inverse

    def steep_way(slope: Slope, steep: Slope, a: Tensor, **ends: Any) -> Tensor:
        found = made(slope, steep, a, **ends).detach()
        return found + (a - a.detach()) * steep(found)

    patch.setattr(tensor_ops, "monotone_inverse", steep_way)


@fault("potential at blocks", "an inverted potential is sought among positive weights")
def _(patch: Patch) -> None:
    made: Any = tensor_ops.monotone_inverse
    patch.setattr(
        tensor_ops, "monotone_inverse", lambda slope, steep, a: made(slope, steep, a, low=0.0)
    )


@fault("potential at blocks", "reverse of an inverted potential: twice its slope")
def _(patch: Patch) -> None:
    made = autodiff.derivative

    def twice(expr: sp.Expr, slot: sp.Symbol) -> sp.Expr:
        return made(expr, slot) * (2 if expr.has(monotone_inverse.monotone_inverse) else 1)

    patch.setattr(autodiff, "derivative", twice)


# ------------------------------------------------------------ orthogonal factors


@fault("orthogonal", "an orthogonal factor takes four steps of five")
def _(patch: Patch) -> None:
    made: Any = lower.orthogonal
    patch.setattr(lower, "orthogonal", lambda x, steps: made(x, int(str(steps)) - 1))


@fault("orthogonal", "a matrix is not scaled before it is made orthogonal")
def _(patch: Patch) -> None:
    patch.setattr(lower, "unscaled_norm", lambda x, axes, p: ONE)


@fault("orthogonal", "the quintic's last coefficient has the wrong sign")
def _(patch: Patch) -> None:
    first, second, third = lower.QUINTIC
    patch.setattr(lower, "QUINTIC", (first, second, -third))
