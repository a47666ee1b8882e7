"""The oracle's parts of one token: gradients, rules, links, penalties, implicit steps.

Every tensor is [batch, head, *axes of its weight].  Formulas are evaluated by `evaluate`.  The gradient
of the loss is torch's autograd, with its graph kept (``track``) for the gradients of the outer loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from miras_dsl.spec import Axes, Expr, Loss, MemorySpec, Write

from .evaluate import ANY, NamedTensor, Scope, evaluate
from .implicit_step import implicit_step
from .solvers import invert, minimise, slope_of

Weights = dict[str, Tensor]


def axes_of(spec: MemorySpec) -> dict[str, Axes]:
    """The axes of each weight."""
    return {state.name: state.axes for state in spec.states}


def weights_as_read(spec: MemorySpec, scope: Scope, weights: Mapping[str, Tensor]) -> Scope:
    """The scope with these values for the weights."""
    axes = axes_of(spec)
    return scope.with_names(
        {("state", w): NamedTensor(data, axes[w]) for w, data in weights.items()}
    )


def gradients(
    spec: MemorySpec, scope: Scope, weights: Mapping[str, Tensor], track: bool
) -> Weights:
    """The gradient of the bias at ``weights``, for each of them; each term times its rate."""
    axes = axes_of(spec)
    probes = {w: d if d.requires_grad else d.detach().requires_grad_() for w, d in weights.items()}
    inside = weights_as_read(spec, scope, probes)
    total = {w: torch.zeros_like(d) for w, d in probes.items()}
    for term in spec.terms:
        for name, found in zip(
            probes, _term(term, inside, list(probes.values()), track), strict=True
        ):
            if found is not None:
                rate = evaluate(term.rate, inside.with_names({}, name)).align_to(axes[name])
                total[name] = total[name] + rate * found
    return total


def _term(
    term: Loss | Write, scope: Scope, probes: list[Tensor], track: bool
) -> Sequence[Tensor | None]:
    """The gradient of one term for each weight; None for a weight that it does not depend on."""
    cotangent = None
    if isinstance(term, Loss):
        outputs = evaluate(term.loss, scope).data.sum()
    else:
        given, reply = evaluate(term.error, scope), evaluate(term.answer, scope)
        outputs = reply.data
        cotangent = given.align_to(reply.axes).expand(outputs.shape)
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
    gradient: Mapping[str, Tensor],
) -> tuple[Weights, Weights]:
    """The weights and the carried tensors (`S.W`) after the rules of the algorithm.

    kept      the weights before the write; gradient: that of the bias for each
    """
    axes = axes_of(spec)
    weights, carried = dict(kept), dict(carries)
    if spec.algorithm.by_weight:
        for w, formula in spec.algorithm.rules:
            weights[w] = _by_weight(w, formula, axes, scope, kept, weights, gradient)
        return weights, carried
    for target, formula in spec.algorithm.rules:
        for w, on in axes.items():
            names = {
                ("keep", ANY): NamedTensor(kept[w], on),
                ("weight", ANY): NamedTensor(weights[w], on),
                ("grad", ANY): NamedTensor(gradient[w], on),
                **{
                    ("carry", s): NamedTensor(carried[f"{s}.{w}"], on) for s in spec.algorithm.carry
                },
            }
            new = evaluate(formula, scope.with_names(names, w)).align_to(on).expand(kept[w].shape)
            if target in spec.algorithm.carry:
                carried[f"{target}.{w}"] = new
            else:
                weights[w] = new
    return weights, carried


def _by_weight(
    w: str,
    formula: Expr,
    axes: Mapping[str, Axes],
    scope: Scope,
    kept: Mapping[str, Tensor],
    newest: Mapping[str, Tensor],
    gradient: Mapping[str, Tensor],
) -> Tensor:
    """The new value of one weight, by a rule that may read all of them."""
    names = {("grad", w): NamedTensor(gradient[w], axes[w])}
    for other, on in axes.items():
        names["keep", other] = NamedTensor(kept[other], on)
        names["newest", other] = NamedTensor(newest[other], on)
    made = evaluate(formula, scope.with_names(names, w))
    return made.align_to(axes[w]).expand(kept[w].shape)


def linked(spec: MemorySpec, scope: Scope, duals: Mapping[str, Tensor]) -> Weights:
    """The weights of these carried states: by the link, or by inverting the slope of the potential."""
    retention, axes = spec.retention, axes_of(spec)
    result: Weights = {}
    for w, dual in duals.items():
        if retention.link is not None:
            names = {("dual", "a"): NamedTensor(dual, axes[w])}
            value = evaluate(retention.link, scope.with_names(names, w))
            result[w] = value.align_to(axes[w]).expand(dual.shape)
        elif retention.simplex is not None:
            total = evaluate(retention.simplex, scope.with_names({}, w)).align_to(axes[w])
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
    ).align_to(on)


def _kinks_of(formula: Expr, scope: Scope, w: str, on: Axes) -> Callable[[Tensor], list[Tensor]]:
    def kinks(x: Tensor) -> list[Tensor]:
        found: list[NamedTensor] = []
        inside = replace(scope.with_names({("dual", "w"): NamedTensor(x, on)}, w), kinks=found)
        evaluate(formula, inside)
        return [value.align_to(on) for value in found]

    return kinks


def _entropy(spec: MemorySpec, scope: Scope, w: str, dual: Tensor) -> Tensor:
    """The c of a potential ``c w log(w) + b w``, the one whose link on a simplex is a softmax.

    Its second derivative is c / w.  Raises ValueError for any other potential.
    """
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
    spec: MemorySpec, scope: Scope, kept: Mapping[str, Tensor], gradient: Mapping[str, Tensor]
) -> Weights:
    """``argmin_w <grad, w> + penalty(w, kept)``, for each element of each weight."""
    axes = axes_of(spec)
    assert spec.retention.penalty is not None
    result: Weights = {}
    for w, old in kept.items():
        inside = scope.with_names({("dual", "w0"): NamedTensor(old, axes[w])}, w)
        penalty = _of_weight(spec.retention.penalty, inside, w, axes[w])
        result[w] = minimise(
            lambda x, pull=gradient[w], penalty=penalty: pull * x + penalty(x),
            old,
            _kinks_of(spec.retention.penalty, inside, w, axes[w]),
        )
    return result


def implicit(spec: MemorySpec, scope: Scope, kept: Mapping[str, Tensor]) -> Weights:
    """``argmin_W bias(W) + |W - start|^2 / (2 eta)``: eta is the coefficient of -grad in the rule, and
    start is the weight after the rule with a gradient of 0."""
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
                + (
                    evaluate(term.rate, inside).align_to(()) * evaluate(term.loss, inside).data
                ).sum()
            )
        return total

    found = implicit_step(loss, [kept[w] for w in names], [-rates[w] for w in names])
    return dict(zip(names, found, strict=True))


def decayed(spec: MemorySpec, scope: Scope, weights: Mapping[str, Tensor]) -> Weights:
    """The weights after the decay of this token."""
    axes = axes_of(spec)
    left: Weights = {}
    for w, data in weights.items():
        for factor in spec.retention.factors(w):
            data = evaluate(factor, scope.with_names({}, w)).align_to(axes[w]) * data
        left[w] = data
    for turn in spec.retention.turns if left else ():
        re, im = left[turn.real], left[turn.imaginary]
        angle = evaluate(turn.angle, scope.with_names({}, turn.real)).align_to(axes[turn.real])
        left[turn.real] = torch.cos(angle) * re - torch.sin(angle) * im
        left[turn.imaginary] = torch.sin(angle) * re + torch.cos(angle) * im
    return left
