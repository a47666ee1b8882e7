"""What every case is checked for: one call, several calls in a row, padding, rows in another order,
token by token, and causality.

Each check runs the implementation on a case.  All but causality compare with the oracle's outcome for
the whole sequence, so calls that are split in any way must give the same numbers as one call.
`special_checks` has those that belong to one case each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from miras_dsl.runtime.judge.oracle.run import State
from miras_dsl.runtime.judge.oracle.token_inputs import leaf_axes

from .bench import Bench, in_parts
from .cases import Case
from .obstacles import blocked
from .reference import Outcome, differentiable_state
from .special_checks import check_carried, check_links, check_long, check_projections
from .tolerance import Comparison, identical


def check_whole(bench: Bench, case: Case) -> list[Comparison]:
    """One call, packed if the case is: output, final state and every gradient."""
    run = bench.implementation(case)
    return bench.comparisons(case, bench.outcome(case, run))


def check_split(bench: Bench, case: Case) -> list[Comparison] | None:
    """Four calls that carry the state, one of them empty: output, final state, every gradient."""
    if case.packed or case.tokens < 2:
        return None
    run = bench.implementation(case)
    third = max(1, case.tokens // 3)
    cuts = [0, third, third, case.tokens - 1, case.tokens]

    def apply(
        inputs: Mapping[str, Tensor], state: State | None, offsets: Tensor | None
    ) -> tuple[Tensor, State]:
        return in_parts(bench, run, inputs, state, cuts)

    return bench.comparisons(case, bench.outcome(case, apply))


def check_masked(bench: Bench, case: Case) -> list[Comparison] | None:
    """Packed sequences as the rows of a padded batch, padding before every other one and behind the
    rest: output, final state, every gradient.  Padding is NaN."""
    if not case.packed:
        return None
    run = bench.implementation(case)
    timed = {name for _, name in leaf_axes(bench.spec)}
    length = max(case.lengths) + 2
    mask = torch.zeros(len(case.lengths), length, dtype=torch.bool, device=bench.device)
    for row, own in enumerate(case.lengths):
        mask[row, slice(length - own, None) if row % 2 else slice(own)] = True

    def apply(
        inputs: Mapping[str, Tensor], state: State | None, offsets: Tensor | None
    ) -> tuple[Tensor, State]:
        def padded(x: Tensor) -> Tensor:
            blank = x.new_full((*mask.shape, *x.shape[2:]), torch.nan)
            there = mask.reshape(*mask.shape, *[1] * (x.dim() - 2))
            return blank.masked_scatter(there, x)

        given = {name: padded(x) if name in timed else x for name, x in inputs.items()}
        y, after = run(given, state, None, mask)
        return y[mask][None], after

    return bench.comparisons(case, bench.outcome(case, apply))


def check_reordered(bench: Bench, case: Case) -> list[Comparison] | None:
    """Rows change places on the way, after a draft was read and refused: output, final state, every
    gradient."""
    if case.packed or case.tokens < 2 or len(case.lengths) < 2:
        return None
    run = bench.implementation(case)
    half, rows = case.tokens // 2, len(case.lengths)
    order = torch.arange(rows, device=bench.device).roll(1)
    back = order.argsort()
    timed = {name for _, name in leaf_axes(bench.spec)}

    def apply(
        inputs: Mapping[str, Tensor], state: State | None, offsets: Tensor | None
    ) -> tuple[Tensor, State]:
        first, middle = run(bench.cut(inputs, 0, half), state)
        rest = bench.cut(inputs, half, case.tokens)
        run({name: x.flip(0) if name in timed else x for name, x in rest.items()}, middle)
        turned = {name: x[order] if name in timed else x for name, x in rest.items()}
        second, after = run(turned, {name: x[order] for name, x in middle.items()})
        return torch.cat([first, second[back]], 1), {name: x[back] for name, x in after.items()}

    return bench.comparisons(case, bench.outcome(case, apply))


def check_decode(bench: Bench, case: Case) -> list[Comparison] | None:
    """Token by token, as in decoding: output and final state."""
    if case.packed or not case.warm or not 2 <= case.tokens <= 70:
        return None
    run = bench.implementation(case)
    inputs, state, _, _ = bench.leaves(case)
    with torch.no_grad():
        y, after = in_parts(bench, run, inputs, state, list(range(case.tokens + 1)))
    values = {
        "y": y,
        **{f"state {n}": t for n, t in differentiable_state(bench.spec, after).items()},
    }
    return bench.comparisons(case, Outcome({n: t.cpu() for n, t in values.items()}), forward=True)


def check_causal(bench: Bench, case: Case) -> list[Comparison] | None:
    """Other inputs from one token on: every output before it must stay the same bit for bit."""
    if case.packed or case.tokens < 2:
        return None
    run = bench.implementation(case)
    inputs, state, _, _ = bench.leaves(case)
    at = case.tokens // 2
    timed = {name for _, name in leaf_axes(bench.spec)}
    mask = (torch.arange(case.tokens, device=bench.device) >= at)[None, :, None]
    changed = {
        name: torch.where(mask.reshape(1, -1, *([1] * (t.dim() - 2))), t / 2 + t.flip(1) / 4, t)
        if name in timed
        else t
        for name, t in inputs.items()
    }
    with torch.no_grad():
        before, _ = run(inputs, state)
        after, _ = run(changed, state)
    row = identical(f"y before token {at}", "output", before[:, :at], after[:, :at])
    found = bench.obstacle(case)
    return [row] if found is None or found.token >= at else blocked([row], found)


CHECKS: Mapping[str, Callable[[Bench, Case], list[Comparison] | None]] = {
    "whole": check_whole,
    "split": check_split,
    "masked": check_masked,
    "reordered": check_reordered,
    "steps": check_decode,
    "causal": check_causal,
    "carried": check_carried,
    "links": check_links,
    "long": check_long,
    "projections": check_projections,
}
"""Name -> check; a check returns None for a case to which it does not apply."""
