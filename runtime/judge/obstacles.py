"""Why a comparison is not judged, where it begins, and what to change, in words of the language."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf

import torch
from torch import Tensor

from miras_dsl.runtime.judge.oracle.decays import decays
from miras_dsl.runtime.judge.oracle.run import State, run
from miras_dsl.runtime.judge.oracle.token_inputs import leaf_axes
from miras_dsl.spec import Expr, Loss, MemorySpec, Ref, iter_nodes

from .case_data import Data
from .cases import Case, parameters
from .reference import Reach, other_gates, reference, rounding_error
from .tolerance import ILL_CONDITIONED, Comparison, largest, unjudged

GROWN = 1e3
"""A memory that is this much larger than it began is told to grow."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a whole case cannot be judged.

    token  the first token, from 0, at which the rule is not finite or larger than the type holds
    why    a sentence with a way out
    """

    token: int
    why: str


@lru_cache(maxsize=64)
def obstacle(spec: MemorySpec, case: Case, dtype: torch.dtype, seed: int) -> Obstacle | None:
    """What keeps a case from being judged: a memory that is not finite, or too large for its type."""
    expected = reference(spec, case, dtype, seed)
    limit = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).max
    over = [reach for reach in expected.track if reach.size > limit]
    if not over:
        return None
    first = min(over, key=lambda reach: reach.token)
    own = [r.size for r in expected.track if r.sequence == first.sequence and r.token < first.token]
    held = _type_name(torch.float64 if dtype == torch.float64 else torch.float32)
    if first.size == inf and (not own or own[-1] < GROWN * max(1.0, own[0])):
        return Obstacle(
            first.token,
            f"the rule itself is not finite at token {first.token}, where nothing has grown before: a "
            "formula leaves its domain there; guard its divisions, logarithms and roots",
        )
    sizes = f"from {_size(own[0])} to {_size(own[-1])} before it" if len(own) > 1 else "at once"
    said = (
        f"the memory itself grows without bound: it is more than {held} holds from token "
        f"{first.token} on ({sizes})"
    )
    return Obstacle(first.token, said + _overshoot(spec, case, expected.data, first, own))


def _overshoot(spec: MemorySpec, case: Case, drawn: Data, first: Reach, sizes: list[float]) -> str:
    """How one token stretches the memory where it grows, and what bounds that."""
    rates, keys = _gates_of_steps(spec), _tokens_of_bias(spec)
    forgetting = sorted(decays(spec))
    ways = [f"bound {' and '.join(rates)}"] if rates else ["write a smaller rate"]
    ways += [f"normalise {' and '.join(keys)}"] if keys else []
    ways += [f"let {' or '.join(forgetting)} stay below 1"] if forgetting and not rates else []
    way = "; " + " or ".join(ways)
    at = max((t for t, size in enumerate(sizes) if size < 1e6), default=0)
    stretch = _stretch(spec, case, drawn, first.sequence, at)
    if stretch is None or stretch <= 1.05:
        return way
    step = " and ".join(rates) or "the rate"
    return (
        f": token {at} stretches a change of the memory {_size(stretch)}-fold, as a step does when "
        f"{step} times the curvature of the bias (of a squared error: |key|^2) exceeds 2{way}"
    )


def _stretch(spec: MemorySpec, case: Case, drawn: Data, sequence: int, token: int) -> float | None:
    """The largest factor by which one token stretches a small change of the weights: the norm of the
    map from state to state, by power iteration.  None for rules that learn at an anchor."""
    if spec.algorithm.anchored is not None:
        return None
    sizes, timed = parameters(spec, case), {name for _, name in leaf_axes(spec)}
    start = 0 if drawn.offsets is None else drawn.offsets[sequence]
    row = slice(sequence, sequence + 1) if drawn.offsets is None else slice(0, 1)

    def cut(low: int, high: int) -> dict[str, Tensor]:
        return {
            n: x[row, start + low : start + high] if n in timed else x
            for n, x in drawn.inputs.items()
        }

    before: State | None = None
    if drawn.state is not None:
        before = {n: x[sequence : sequence + 1] for n, x in drawn.state.items()}
    with torch.no_grad():
        _, before = run(spec, sizes, cut(0, token), before)
    weights = [weight.name for weight in spec.states]
    leaves = {w: before[w].detach().requires_grad_() for w in weights}
    _, after = run(spec, sizes, cut(token, token + 1), {**before, **leaves})
    ends = [after[w] for w in weights]
    probes = [torch.zeros_like(x).requires_grad_() for x in ends]
    pulled = torch.autograd.grad(
        ends, list(leaves.values()), probes, create_graph=True, allow_unused=True
    )
    if any(p is None for p in pulled):
        return None
    random = torch.Generator().manual_seed(0)
    v = [torch.randn(x.shape, generator=random, dtype=x.dtype) for x in leaves.values()]
    stretch = 0.0
    for _ in range(12):
        size = torch.stack([x.square().sum() for x in v]).sum().sqrt()
        if not bool(size > 0):
            break
        v = [x / size for x in v]
        pushed = torch.autograd.grad(pulled, probes, v, retain_graph=True, allow_unused=True)
        pushed = [
            torch.zeros_like(e) if p is None else p for p, e in zip(pushed, ends, strict=True)
        ]
        stretch = float(torch.stack([x.square().sum() for x in pushed]).sum().sqrt())
        v = list(torch.autograd.grad(ends, list(leaves.values()), pushed, retain_graph=True))
    return stretch


def _gates_of_steps(spec: MemorySpec) -> list[str]:
    """The gates that are rates of a step, as the text names them."""
    keeping = decays(spec)
    formulas = [formula for _, formula in spec.algorithm.rules] + [t.rate for t in spec.terms]
    return [shown(spec, n) for n in _names(formulas, "gate") if n not in keeping]


def _tokens_of_bias(spec: MemorySpec) -> list[str]:
    """The tokens along `key` that the bias reads."""
    formulas = [term.loss if isinstance(term, Loss) else term.place for term in spec.terms]
    along = {token.name for token in spec.tokens if "key" in token.axes and token.name != "query"}
    return [shown(spec, n) for n in _names(formulas, "token") if n in along]


def _names(formulas: list[Expr], kind: str) -> list[str]:
    found = [
        n.name for f in formulas for n in iter_nodes(f) if isinstance(n, Ref) and n.kind == kind
    ]
    return list(dict.fromkeys(found))


def explained(
    spec: MemorySpec, case: Case, dtype: torch.dtype, seed: int, row: Comparison
) -> Comparison:
    """A comparison with the reason why it was not judged."""
    if row.verdict != "not judged" or row.why:
        return row
    what = row.name if row.name == "y" else f"`{row.name}`"
    if not row.size <= largest(row.kind, dtype):
        held = "is not finite" if row.size == inf else f"reaches {_size(row.size)}"
        why = (
            f"{what} of the rule itself {held}, which {_type_name(dtype)} cannot hold: smaller rates, "
            "decays or inputs keep it in range"
        )
        return replace(row, why=why)
    part = (
        f"{100 * row.reference_rms:.0f} %" if row.reference_rms < 10 else "far more than its size"
    )
    why = f"{_type_name(dtype)} rounds {what} of this rule by {part} here{_ends(spec, case, dtype, seed)}"
    return replace(row, why=f"{why}; {_wider(spec, case, dtype, seed, row.name)}")


@lru_cache(maxsize=64)
def _ends(spec: MemorySpec, case: Case, dtype: torch.dtype, seed: int) -> str:
    """Which gates must be at the ends of their ranges for that, if it is not so at the default ones."""
    if case.default or not spec.gates:
        return ""
    usual = replace(case, gates=None)
    if _rounding(spec, usual, dtype, seed) > ILL_CONDITIONED:
        return ""
    names = [gate.name for gate in spec.gates]
    alone = [n for n in names if other_gates(spec, case, dtype, seed, n) > ILL_CONDITIONED]
    said = " and ".join(shown(spec, name) for name in alone or names)
    return f", with {said} at the ends of the range"


@lru_cache(maxsize=64)
def _wider(spec: MemorySpec, case: Case, dtype: torch.dtype, seed: int, name: str) -> str:
    """What to change: a wider type where that is enough."""
    if dtype not in (torch.float32, torch.float64):
        narrow = rounding_error(spec, case, torch.float32, seed, name)
        if narrow <= ILL_CONDITIONED:
            return "float32 is judged"
    if dtype != torch.float64:
        double = rounding_error(spec, case, torch.float64, seed, name)
        if double <= ILL_CONDITIONED:
            return "float64 is judged"
    return "two ways of computing it part exponentially: make the steps or the inputs smaller"


def _rounding(spec: MemorySpec, case: Case, dtype: torch.dtype, seed: int) -> float:
    expected = reference(spec, case, dtype, seed)
    names = [n for n, x in expected.exact.values.items() if x.is_floating_point() and x.numel()]
    return max(rounding_error(spec, case, dtype, seed, name) for name in names)


def blocked(rows: list[Comparison], found: Obstacle | None) -> list[Comparison]:
    """The comparisons of a case, none of them judged if there is an obstacle."""
    if found is None:
        return rows
    return [
        unjudged(row.name, row.kind, row.size, row.finite, found.why, found.token) for row in rows
    ]


def shown(spec: MemorySpec, name: str) -> str:
    """A gate, token or quantity of the memory as its file names it: what has no name there is shown as
    the formula that it stands for."""
    leaf = name.removeprefix("d ").split(".")[0]
    owner = next((o for o in (*spec.tokens, *spec.gates) if o.name == leaf), None)
    if owner is None or not leaf.startswith("_") or not owner.span.text:
        return name
    text = " ".join(owner.span.text.split())
    return name.replace(leaf, f"({text})" if len(text) <= 32 else f"({text[:29]}...)", 1)


def _size(value: float) -> str:
    return f"{value:.2g}"


def _type_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
