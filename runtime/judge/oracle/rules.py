"""The oracle's parts of one token: gradients by autograd, rules, links, penalties, implicit steps.

Every tensor is [batch, head, *axes of its weight].  Formulas are evaluated by `oracle_algebra`; the
gradient of the loss is always torch's own, with its graph kept so that the outer gradient flows on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from miras_dsl.spec import Axes, Expr, Loss, MemorySpec, Write

from .evaluate import ANY, NamedTensor, Scope, evaluate
from .solvers import implicit_step, invert, minimise, slope_of

Weights = dict[str, Tensor]


def axes_of(spec: MemorySpec) -> dict[str, Axes]:
    """The axes of each weight."""
    return {state.name: state.axes for state in spec.states}


def weights_as_read(spec: MemorySpec, scope: Scope, weights: Mapping[str, Tensor]) -> Scope:
    """The scope in which the weights have these values."""
    axes = axes_of(spec)
    return scope.with_names(
        {("state", w): NamedTensor(data, axes[w]) for w, data in weights.items()}
    )


def gradients(
    spec: MemorySpec, scope: Scope, weights: Mapping[str, Tensor], track: bool
) -> Weights:
    """The gradient of the bias for each weight at ``weights``, the rates of its terms applied."""
    axes = axes_of(spec)
    probes = {w: d if d.requires_grad else d.detach().requires_grad_() for w, d in weights.items()}
    inside = weights_as_read(spec, scope, probes)
    total = {w: torch.zeros_like(d) for w, d in probes.items()}
    for term in spec.terms:
        for name, found in zip(
            probes, _term(term, inside, list(probes.values()), track), strict=True
        ):
            if found is not None:
                rate = evaluate(term.rate, inside.with_names({}, name)).on(axes[name])
                total[name] = total[name] + rate * found
    return total


def _term(
    term: Loss | Write, scope: Scope, probes: list[Tensor], track: bool
) -> Sequence[Tensor | None]:
    """The gradient of one term; None for a weight that it does not touch."""
    cotangent = None
    if isinstance(term, Loss):
        outputs = evaluate(term.loss, scope).data.sum()
    else:
        given, reply = evaluate(term.error, scope), evaluate(term.answer, scope)
        outputs = reply.data
        cotangent = given.on(reply.axes).expand(outputs.shape)
    if not outputs.requires_grad:
        return [None for _ in probes]
    return torch.autograd.grad(
        outputs, probes, cotangent, create_graph=track, retain_graph=True, allow_unused=True
    )


def apply_rule(
    spec: MemorySpec,
    scope: Scope,
    kept: Mapping[str, Tensor],
    carries: Mapping[str, Tensor],
    slopes: Mapping[str, Tensor],
) -> tuple[Weights, Weights]:
    """New weights and carried tensors (`S.W`) by the algorithm's rules."""
    axes = axes_of(spec)
    weights, carried = dict(kept), dict(carries)
    for target, formula in spec.algorithm.rules:
        for w, on in axes.items():
            names = {
                ("keep", ANY): NamedTensor(kept[w], on),
                ("weight", ANY): NamedTensor(weights[w], on),
                ("grad", ANY): NamedTensor(slopes[w], on),
                **{
                    ("carry", s): NamedTensor(carried[f"{s}.{w}"], on) for s in spec.algorithm.carry
                },
            }
            new = evaluate(formula, scope.with_names(names, w)).on(on).expand(kept[w].shape)
            if target in spec.algorithm.carry:
                carried[f"{target}.{w}"] = new
            else:
                weights[w] = new
    return weights, carried


def linked(spec: MemorySpec, scope: Scope, duals: Mapping[str, Tensor]) -> Weights:
    """The weights that belong to these carried states, by the stated link or the potential."""
    retention, axes = spec.retention, axes_of(spec)
    result: Weights = {}
    for w, dual in duals.items():
        if retention.link is not None:
            names = {("dual", "a"): NamedTensor(dual, axes[w])}
            value = evaluate(retention.link, scope.with_names(names, w))
            result[w] = value.on(axes[w]).expand(dual.shape)
        elif retention.simplex is not None:
            total = evaluate(retention.simplex, scope.with_names({}, w)).on(axes[w])
            result[w] = total * torch.softmax(dual / _entropy(spec, scope, w, dual), -1)
        elif retention.bregman is not None:
            potential = retention.bregman
            kinks = _kinks_of(potential, scope, w, axes[w])
            result[w] = invert(_of_weight(potential, scope, w, axes[w]), dual, kinks)
        else:
            result[w] = dual
    return result


def _of_weight(formula: Expr, scope: Scope, w: str, on: Axes) -> Callable[[Tensor], Tensor]:
    partial = replace(scope, partial=True)
    return lambda x: evaluate(
        formula, partial.with_names({("dual", "w"): NamedTensor(x, on)}, w)
    ).on(on)


def _kinks_of(formula: Expr, scope: Scope, w: str, on: Axes) -> Callable[[Tensor], list[Tensor]]:
    def kinks(x: Tensor) -> list[Tensor]:
        found: list[NamedTensor] = []
        inside = replace(scope.with_names({("dual", "w"): NamedTensor(x, on)}, w), kinks=found)
        evaluate(formula, inside)
        return [value.on(on) for value in found]

    return kinks


def _entropy(spec: MemorySpec, scope: Scope, w: str, dual: Tensor) -> Tensor:
    """The c of a potential c w log w + b w, whose second derivative is c / w: on a simplex only such
    a one has a softmax as its link."""
    assert spec.retention.bregman is not None
    start = 0.1 + 0.8 * torch.rand(dual.shape, generator=torch.Generator().manual_seed(0))
    point = start.to(dual).requires_grad_()
    slope = slope_of(_of_weight(spec.retention.bregman, scope, w, axes_of(spec)[w]))(point)
    (second,) = torch.autograd.grad(slope.sum(), point, create_graph=True)
    factor = second * point
    flat = False
    if second.requires_grad:
        (third,) = torch.autograd.grad(second.sum(), point, retain_graph=True)
        flat = torch.allclose(third * point, -second, rtol=1e-3)
    if not flat or not bool((factor > 0).all()):
        raise ValueError("a simplex is defined for the potential w*log(w) only, times a number")
    return factor


def proximal(
    spec: MemorySpec, scope: Scope, kept: Mapping[str, Tensor], slopes: Mapping[str, Tensor]
) -> Weights:
    """argmin over w of <grad, w> + penalty(w, kept), element by element."""
    axes = axes_of(spec)
    assert spec.retention.penalty is not None
    result: Weights = {}
    for w, old in kept.items():
        inside = scope.with_names({("dual", "w0"): NamedTensor(old, axes[w])}, w)
        penalty = _of_weight(spec.retention.penalty, inside, w, axes[w])
        result[w] = minimise(
            lambda x, pull=slopes[w], penalty=penalty: pull * x + penalty(x),
            old,
            _kinks_of(spec.retention.penalty, inside, w, axes[w]),
        )
    return result


def implicit(spec: MemorySpec, scope: Scope, kept: Mapping[str, Tensor]) -> Weights:
    """argmin of the bias + |W - start|^2 / (2 eta); eta is the coefficient of `grad` in the rule, and
    the start is what the rule gives without a gradient."""
    zeros = {w: torch.zeros_like(d) for w, d in kept.items()}
    ones = {w: torch.ones_like(d) for w, d in kept.items()}
    rates, _ = apply_rule(spec, scope, zeros, {}, ones)
    kept, _ = apply_rule(spec, scope, kept, {}, zeros)
    names = list(kept)

    def loss(values: list[Tensor]) -> Tensor:
        inside = weights_as_read(spec, scope, dict(zip(names, values, strict=True)))
        total = torch.zeros((), dtype=values[0].dtype, device=values[0].device)
        for term in spec.terms:
            if isinstance(term, Write):
                raise ValueError("a given write has no loss, so no implicit step")
            total = (
                total
                + (evaluate(term.rate, inside).on(()) * evaluate(term.loss, inside).data).sum()
            )
        return total

    found = implicit_step(loss, [kept[w] for w in names], [-rates[w] for w in names])
    return dict(zip(names, found, strict=True))


def decayed(spec: MemorySpec, scope: Scope, weights: Mapping[str, Tensor]) -> Weights:
    """The weights times the decay of this token."""
    if spec.retention.decay is None:
        return dict(weights)
    axes = axes_of(spec)
    return {
        w: evaluate(spec.retention.decay, scope.with_names({}, w)).on(axes[w]) * data
        for w, data in weights.items()
    }
