"""Checks of one case each: carried states, links, long sequences, and the projections of gates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from miras_dsl.runtime.judge.oracle import run as oracle
from miras_dsl.runtime.judge.oracle.run import State

from .bench import MAX_REFERENCE_DRAWS, Bench, Layer, in_parts
from .case_data import data
from .cases import DUALS, Case, parameters
from .obstacles import blocked
from .reference import (
    Outcome,
    differentiable_state,
    kind_of,
    leaves,
    redraw,
    reference,
)
from .tolerance import Comparison, Kind, Verdict, is_wide, judge, missing

PARTED = 1e-3
"""How far float32 may be off, in shares of the size of all answers, for its error to show rounding."""
STRONG = 6.0
"""The standard deviation of a gate's preactivations."""


def check_carried(bench: Bench, case: Case) -> list[Comparison] | None:
    """Calls cut at the ends of chunks against one call: what is carried has the precision of a state.

    Both round in the same way but for what a state loses between two chunks, so they must agree as two
    computations in the state's own type do, which is float32 where tokens are in 16 bits.
    """
    if bench.by_token:
        return None
    run = bench.implementation(case)
    inputs, state, _, _ = bench.leaves(case)
    cuts = [*range(0, case.tokens, bench.chunk), case.tokens]
    with torch.no_grad():
        y, after = run(inputs, state)
        parts, ends = in_parts(bench, run, inputs, state, cuts)
    held = torch.float64 if bench.dtype == torch.float64 else torch.float32
    expected = reference(bench.spec, case, bench.dtype, bench.seed)
    low = expected.low if is_wide(bench.dtype) else _in_single(bench, case)
    after, ends = (differentiable_state(bench.spec, s) for s in (after, ends))
    rows = []
    for name in expected.exact.values:
        kind, weight = kind_of(bench.spec, name), name.removeprefix("state ")
        if kind == "state" and not (weight in after and weight in ends):
            rows.append(missing(name, kind))
        elif kind == "state" or (name == "y" and is_wide(bench.dtype)):
            cut, whole = (parts, y) if name == "y" else (ends[weight], after[weight])
            cut, whole = cut.cpu(), whole.double().cpu()
            off = low.values[name].double() - expected.exact.values[name].double()
            rows.append(judge(name, kind, cut, whole, [whole + off], held, case.tokens))
    found = [*rows, *_precise(bench, expected.exact, ends)]
    return blocked(found, bench.obstacle(case))


def _in_single(bench: Bench, case: Case) -> Outcome:
    """The oracle in float32 on the same numbers, without gradients."""
    drawn = reference(bench.spec, case, bench.dtype, bench.seed).data
    inputs = {n: x.float() if x.is_floating_point() else x for n, x in drawn.inputs.items()}
    state = drawn.state and {
        n: x.float() if x.is_floating_point() else x for n, x in drawn.state.items()
    }
    with torch.no_grad():
        y, after = oracle.run(bench.spec, parameters(bench.spec, case), inputs, state)
    after = differentiable_state(bench.spec, after)
    return Outcome({"y": y, **{f"state {n}": x for n, x in after.items()}})


def _precise(bench: Bench, exact: Outcome, state: State) -> Iterator[Comparison]:
    """Of a state in float32 few numbers are also numbers of 16 bits, unless the rule's own are.

    The error is the share of those that are, beyond the share of the rule's; a quarter is allowed.
    """
    if bench.dtype == torch.float64:
        return
    for name, tensor in state.items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        if (right := exact.values.get(f"state {name}")) is None:
            continue
        known = right.float()
        for narrow_type in (torch.bfloat16, torch.float16):
            shares = [
                float((x == x.to(narrow_type).to(x.dtype)).double().mean())
                for x in (tensor.cpu(), known)
            ]
            beyond = max(0.0, shares[0] - shares[1])
            short = str(narrow_type).removeprefix("torch.")
            verdict: Verdict = "green" if beyond <= 0.25 else "red"
            size = float(known.abs().max())
            label = f"{short} in state {name}"
            yield Comparison(label, "state", size, beyond, 0.25, 0.0, 0.0, 0.0, True, verdict)


def check_links(bench: Bench, case: Case) -> list[Comparison] | None:
    """One token from states of every size: the link, and its slope as the gradient of the first state.

    Sizes are compared one by one, so that small numbers are not hidden by large ones.
    """
    retention = bench.spec.retention
    if retention.link is None and retention.bregman is None:
        return None
    expected = reference(bench.spec, case, bench.dtype, bench.seed)
    run = bench.implementation(case)
    found = bench.outcome(case, run)
    draws, rows = [expected.low], _links(bench, expected.exact, found, [expected.low])
    while (
        is_wide(bench.dtype)
        and len(draws) <= MAX_REFERENCE_DRAWS
        and any(row.verdict == "red" for row in rows)
    ):
        draws.append(redraw(bench.spec, case, bench.dtype, bench.seed, len(draws)))
        rows = _links(bench, expected.exact, found, draws)
    return rows


def _links(bench: Bench, exact: Outcome, found: Outcome, lows: list[Outcome]) -> list[Comparison]:
    """The answers and the gradients of carried states, for each size of these."""
    weights = {weight.name for weight in bench.spec.states}
    carried = {f"{w}.dual" for w in weights} if bench.spec.retention.at == "chunk" else weights
    rows = []
    for name in ("y", *(f"d state {w}" for w in sorted(carried))):
        kind = kind_of(bench.spec, name)
        for place, dual in enumerate((*DUALS, *(-dual for dual in DUALS))):
            here, right, *low = (x.values[name][place] for x in (found, exact, *lows))
            unit = min(1.0, abs(dual)) if name == "y" else 1.0
            row = judge(f"{name} at {dual:+.0e}", kind, here, right, low, bench.dtype, 1, unit)
            where = f"for carried states near {dual:+.0e}"
            rows.append(_with_reason(row, bench.dtype, where))
    return rows


def _with_reason(row: Comparison, dtype: torch.dtype, where: str) -> Comparison:
    """Why a comparison of a state or gate far out is not judged."""
    if row.verdict != "not judged":
        return row
    held = str(dtype).removeprefix("torch.")
    if row.size == float("inf") or row.reference_rms == 0:
        why = f"the rule itself is larger than {held} holds {where}"
    else:
        why = f"{held} rounds this rule by {100 * row.reference_rms:.1f} % {where}"
    return replace(row, why=f"{why}; a bounded rate and a decay keep a memory away from there")


def check_long(bench: Bench, case: Case) -> list[Comparison] | None:
    """One call over a long sequence against the step function, token by token, both in float64.

    The same steps in float32 show how rounding adds up over the sequence.  A network that learns from
    every token may be chaotic: then float32 and float64 part exponentially, and what comes before they
    are `PARTED` is compared.
    """
    if bench.by_token:
        return None
    run = bench.implementation(case)
    drawn = data(bench.spec, case, torch.float32, bench.seed)

    def given(dtype: torch.dtype) -> tuple[dict[str, Tensor], State | None]:
        inputs, state, _, _ = leaves(bench.spec, drawn, lambda name: dtype, bench.device)
        return inputs, state

    inputs, state = given(torch.float64)
    with torch.no_grad():
        whole, steps = run(inputs, state), list(range(case.tokens + 1))
        exact = in_parts(bench, run, inputs, state, steps)
        low = in_parts(bench, run, *given(torch.float32), steps)
    off = (low[0].double() - exact[0]).square().mean((0, 2, 3)).sqrt().cpu()
    apart = off > PARTED * float(exact[0].square().mean().sqrt())
    upto = int(apart.int().argmax()) if bool(apart.any()) else case.tokens
    ys = [y[:, :upto].cpu() for y, _ in (whole, exact, low)]
    rows = [judge(f"y of {upto} tokens", "output", *ys[:2], ys[2:], torch.float64, case.tokens)]
    if upto < case.tokens:
        return rows
    ends = [differentiable_state(bench.spec, after) for _, after in (whole, exact, low)]
    for name in ends[0]:
        x, right, rough = (end[name].cpu() for end in ends)
        rows.append(judge(f"state {name}", "state", x, right, [rough], torch.float64, case.tokens))
    return rows


def check_projections(bench: Bench, case: Case) -> list[Comparison] | None:
    """The gates of a layer at strong preactivations: answers, and the gradient of each gate's own
    learned parts, which multiplies the gradient of the gate by whatever slope its formula has.

    The oracle takes the tokens that the layer computes in the type under test, and the gates that it
    computes in float64 from preactivations rounded to that type.  None if the memory
    has no layer or no learned gate.
    """
    of, spec, dtype = bench.layer, bench.spec, bench.dtype
    if of is None:
        return None
    width = case.sizes[0] * case.heads
    random = torch.Generator().manual_seed(bench.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(bench.seed)
        layer = of.new(width, case.heads).double()
    x = torch.randn(len(case.lengths), case.tokens, width, generator=random).to(dtype).double()
    if not of.gates(layer):
        return None
    _strengthen(of, layer, x, dtype)
    learned = {name: parameter.detach().clone() for name, parameter in layer.named_parameters()}
    sizes = {name: case.sizes[0] for name, default in spec.params if default is None}

    with torch.no_grad():
        layer.to(dtype)
        made, _ = of.inputs(layer, x.to(dtype))
        tokens = {t.name: made[t.name] for t in spec.tokens if t.name in made}

    def by_oracle(kind: torch.dtype) -> dict[str, Tensor]:
        rounding = None if kind == torch.float64 else dtype if is_wide(kind) else kind
        single = kind if is_wide(kind) else torch.float32

        def answer(own: nn.Module, given: Tensor) -> Tensor:
            inputs, state = of.inputs(own, given)
            inputs |= {n: inputs[n] + (t.to(kind) - inputs[n]).detach() for n, t in tokens.items()}
            wide = {n: t.to(single) if t.is_floating_point() else t for n, t in inputs.items()}
            state = {n: t.to(single) if t.is_floating_point() else t for n, t in state.items()}
            return oracle.run(spec, sizes, wide, state, rounding=rounding)[0]

        with _rounded_maps(layer, dtype) if kind == torch.float64 else nullcontext():
            return gradients(answer, kind, "cpu")

    def gradients(
        answer: Callable[[nn.Module, Tensor], Tensor], kind: torch.dtype, device: str
    ) -> dict[str, Tensor]:
        layer.to(device=device, dtype=kind)
        layer.load_state_dict(learned)
        layer.zero_grad()
        y = answer(layer, x.to(device, kind))
        weights = torch.Generator().manual_seed(7)
        cotangent = torch.randn(y.shape, generator=weights).to(dtype).double().to(device)
        (y.double() * cotangent).sum().backward()
        own = of.gates(layer).items()
        found = {f"d {n}": torch.zeros_like(p) if p.grad is None else p.grad for n, p in own}
        return {n: t.detach().cpu() for n, t in {"y": y, **found}.items()}

    exact = by_oracle(torch.float64)
    low = by_oracle(torch.float32 if dtype == torch.float64 else dtype)
    found = gradients(of.answer, dtype, bench.device)
    rows = []
    for name, right in exact.items():
        kind: Kind = "output" if name == "y" else "decay gradient"
        row = judge(name, kind, found[name], right, [low[name]], dtype, case.tokens)
        if not is_wide(dtype) and row.finite and row.reference_rms > row.rms_allowed:
            # Gates are rounded where their formulas are steep: here the reference misses the limit too.
            row = replace(row, verdict="not judged" if row.verdict == "red" else row.verdict)
        where = f"with preactivations of standard deviation {STRONG:.0f}"
        rows.append(_with_reason(row, dtype, where))
    return rows


def _strengthen(of: Layer, layer: nn.Module, x: Tensor, dtype: torch.dtype) -> None:
    """Scale the learned maps of gates so that their results have the standard deviation `STRONG`, and
    round every parameter to ``dtype``."""
    own = set(map(id, of.gates(layer).values()))

    def scale(module: nn.Module, given: object, result: Tensor) -> Tensor:
        factor = STRONG / result.std()
        module.weight.data *= factor
        return result * factor

    maps = [m for m in layer.modules() if id(getattr(m, "weight", None)) in own]
    hooks = [module.register_forward_hook(scale) for module in maps]
    with torch.no_grad():
        of.inputs(layer, x)
        for hook in hooks:
            hook.remove()
        for parameter in layer.parameters():
            parameter.copy_(parameter.to(dtype).double())


@contextmanager
def _rounded_maps(layer: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """A layer whose learned maps give what they give in ``dtype``; gradients pass as they are."""

    def rounded(_: nn.Module, given: object, y: Tensor) -> Tensor:
        return y + (y.to(dtype).to(y.dtype) - y).detach()

    maps = [module for module in layer.modules() if hasattr(module, "weight")]
    hooks = [module.register_forward_hook(rounded) for module in maps]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
