"""The certificate: green for the rule itself, red for each of many small changes of its results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor

import miras_dsl as miras
from miras_dsl.runtime.judge.bench import Implementation
from miras_dsl.runtime.judge.cases import covering
from miras_dsl.runtime.judge.certificate import Certificate, certify
from miras_dsl.runtime.judge.oracle import run as oracle
from miras_dsl.runtime.judge.oracle.run import State
from miras_dsl.runtime.judge.oracle.token_inputs import leaf_axes
from miras_dsl.runtime.judge.side_by_side import side_by_side
from miras_dsl.runtime.load.loader import implementation
from miras_dsl.spec import MemorySpec
from tests.judge.handwritten_specs import matrix

Change = Callable[[dict[str, Tensor], Tensor, State], tuple[Tensor, State]]


def naive(
    spec: MemorySpec, sizes: Mapping[str, int], change: Change | None = None
) -> Implementation:
    """The oracle itself as an implementation, packed sequences and masks included; ``change`` spoils it."""
    timed = {name for _, name in leaf_axes(spec)}

    def run(
        inputs: Mapping[str, Tensor],
        state: State | None,
        cu_seqlens: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        if attention_mask is not None:
            kept = {n: t[attention_mask][None] if n in timed else t for n, t in inputs.items()}
            ends = torch.cat([torch.zeros(1), attention_mask.sum(1).cumsum(0)]).long()
            y, after = run(kept, state, ends)
            blank = y.new_zeros(*attention_mask.shape, *y.shape[2:])
            return blank.masked_scatter(attention_mask[..., None, None], y), after
        if cu_seqlens is None:
            y, after = oracle.run(spec, sizes, inputs, state)
            return change(dict(inputs), y, after) if change else (y, after)
        parts = []
        for row, (low, high) in enumerate(pairwise(cu_seqlens)):
            own = {n: t[:, low:high] if n in timed else t for n, t in inputs.items()}
            parts.append(run(own, {n: t[row : row + 1] for n, t in state.items()}))
        ends = {n: torch.cat([after[n] for _, after in parts]) for n in parts[0][1]}
        return torch.cat([y for y, _ in parts], 1), ends

    return run


def certified(change: Change | None = None, dtype: torch.dtype = torch.float32) -> Certificate:
    spec = matrix()
    cases = tuple(case for case in covering(16) if "long" not in case.checks)
    build = partial(naive, spec, change=change)
    return certify(spec, build, dtype=dtype, chunk=16, cases=cases)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_meaning_is_green(dtype: torch.dtype) -> None:
    certificate = certified(dtype=dtype)
    assert certificate.green, str(certificate)
    assert {check for check, _, _ in certificate.expected} == {
        "whole",
        "split",
        "masked",
        "reordered",
        "steps",
        "causal",
        "carried",
    }
    assert Certificate.from_json(certificate.to_json()) == certificate
    assert "green" in str(certificate)


def test_an_absent_case_is_not_green() -> None:
    certificate = certified()
    text = certificate.to_json()
    held = Certificate.from_json(text)
    short = Certificate(**{f: getattr(held, f) for f in held.__slots__} | {"rows": held.rows[40:]})
    assert short.missing and not short.green
    assert "MISSING" in str(short)
    blind = tuple(row for row in held.rows if not row.result.name.startswith("d "))
    short = Certificate(**{f: getattr(held, f) for f in held.__slots__} | {"rows": blind})
    assert short.missing and not short.green


class _Louder(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return 1.001 * gradient


def _peek(inputs: dict[str, Tensor], y: Tensor, state: State) -> tuple[Tensor, State]:
    late = torch.cat([inputs["value"][:, 1:], inputs["value"][:, -1:]], 1)
    return y + 1e-7 * late, state


LIES: dict[str, Change] = {
    "output a little too large": lambda x, y, s: (y * (1 + 1e-4), s),
    "gradient a little too large": lambda x, y, s: (_Louder.apply(y), s),
    "state not carried": lambda x, y, s: (y, {"W": torch.zeros_like(s["W"])}),
    "state carried without gradient": lambda x, y, s: (y, {"W": s["W"].detach()}),
    "state in half precision": lambda x, y, s: (y, {"W": s["W"].bfloat16().to(y.dtype)}),
    "state missing": lambda x, y, s: (y, {"V": s["W"]}),
    "looks ahead": _peek,
    "not a number at the end": lambda x, y, s: (
        torch.cat([y[:, :-1], y[:, -1:] * torch.nan], 1),
        s,
    ),
    "output without gradient": lambda x, y, s: (y.detach(), {"W": s["W"].detach()}),
}


@pytest.mark.parametrize("name", LIES)
def test_a_changed_result_is_red(name: str) -> None:
    certificate = certified(LIES[name])
    assert not certificate.green and certificate.failures


DEEP = """
memory Deep(d) {{
  architecture mlp(hidden = 2 * d, activation = gelu, depth = {depth}, residual, layernorm)
  bias         l2
  retention    decay alpha
  algorithm    {algorithm}
  order        decay, predict, write, read
  gates        {{ alpha = exp(-softplus(param(-4)))   eta = softplus(param(1)) / 64
                 mu = 0.8 * sigmoid(linear(x)) }}
}}
"""


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore::miras_dsl.exceptions.SpecWarning")
@pytest.mark.parametrize("depth", [3, 4])
@pytest.mark.parametrize("algorithm", ["gd(eta), exact", "momentum(eta, mu), anchored(16)"])
def test_a_deep_network_is_green(depth: int, algorithm: str) -> None:
    """Token by token and in blocks, with rates and decays that are free positive numbers."""
    (proof,) = miras.certify(DEEP.format(depth=depth, algorithm=algorithm)).values()
    assert proof.green, proof.red


def test_cases_may_be_judged_side_by_side() -> None:
    """Another process judges some of them, and the certificate is the same, row by row."""
    spec = miras.parse(miras.find("gated_deltanet")).memories["GatedDeltaNet"]
    chosen = covering(8)[3:7]
    alone, shared = (
        certify(spec, partial(implementation, spec), cases=chosen, workers=workers)
        for workers in (1, 2)
    )
    assert shared == alone
    assert shared.green


def test_a_failure_beside_is_raised_here() -> None:
    def work(number: int) -> int:
        if number == 3:
            raise ValueError("the third")
        return 10 * number

    assert side_by_side(work, [2, 1, 0], 2) == {0: 0, 1: 10, 2: 20}
    with pytest.raises(ValueError, match="the third"):
        side_by_side(work, [0, 1, 2, 3], 3)
