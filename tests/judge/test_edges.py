"""Calls without tokens, uninitialised memory, and repeated runs, for every class of rules."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial

import pytest
import torch
from torch import Tensor

import miras_dsl as miras
from miras_dsl.runtime.judge.case_data import Data, data
from miras_dsl.runtime.judge.cases import Case, parameters
from miras_dsl.runtime.judge.certificate import certify
from miras_dsl.runtime.layers import state_tree as states
from miras_dsl.runtime.load.loader import implementation
from tests.judge.fault_memories import TEXTS
from tests.judge.faults import cases, spec_of

ANY = tuple(TEXTS)
SEVERAL = ("sum", "channels", "delta", "pairs", "rows", "momentum", "window, anchored", "network",
           "sweeps", "link", "by token")  # fmt: skip
"""A memory of each class, with and without blocks."""


@cache
def drawn_of(name: str, case: Case) -> Data:
    return data(spec_of(name), case, torch.float32)


def everything(name: str, case: Case) -> dict[str, Tensor]:
    """Output, states and all gradients of a memory on a case, in single precision."""
    spec, drawn = spec_of(name), drawn_of(name, case)

    def leaf(x: Tensor) -> Tensor:
        return x.to(torch.float32, copy=True).requires_grad_() if x.is_floating_point() else x

    inputs = {n: leaf(x) for n, x in drawn.inputs.items()}
    state = {n: leaf(x) for n, x in (drawn.state or {}).items()}
    offsets = None if drawn.offsets is None else torch.tensor(drawn.offsets)
    y, after = implementation(spec, parameters(spec, case))(inputs, state, offsets)
    ends = {n: x for n, x in after.items() if x.is_floating_point()}
    loss = (y * drawn.cotangent.float()).sum() + sum((x * x).sum() for x in ends.values())
    leaves = inputs | {f"state {n}": x for n, x in state.items() if x.is_floating_point()}
    slopes = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    found = {f"d {n}": g for n, g in zip(leaves, slopes, strict=True) if g is not None}
    return {"y": y, **{f"state {n}": x for n, x in after.items()}, **found}


# ------------------------------------------------------------ no token


@pytest.mark.parametrize("name", ANY)
def test_no_token_changes_nothing(name: str) -> None:
    spec, case = spec_of(name), Case("no token", (0, 0), (4, 3), warm=True)
    drawn, sizes = data(spec, case, torch.float64), parameters(spec, case)
    state = {
        n: x.clone().requires_grad_() if x.is_floating_point() else x
        for n, x in (drawn.state or {}).items()
    }
    y, after = implementation(spec, sizes)(drawn.inputs, state)
    assert y.shape == drawn.cotangent.shape and y.shape[1] == 0
    assert after.keys() == state.keys()
    for key, x in state.items():
        assert torch.equal(after[key], x), key
        if x.is_floating_point():
            cotangent = torch.randn_like(x)
            (slope,) = torch.autograd.grad((after[key] * cotangent).sum(), x, retain_graph=True)
            assert torch.equal(slope, cotangent), key


@pytest.mark.parametrize("file", ["rwkv7", "yaad", "delta_product"])
def test_no_token_changes_no_layer(file: str) -> None:
    library = miras.load(file)
    layer = library[next(iter(library.spec.layers))](width=8, heads=2)
    _, state = layer(torch.randn(2, 5, 8))
    y, after = layer(torch.randn(2, 0, 8), state)
    assert y.shape == (2, 0, 8)
    before = states.flatten(state)
    for key, x in states.flatten(after).items():
        assert torch.equal(x, before[key]), key


# ------------------------------------------------------------ poison


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Memory that torch hands out without writing it is NaN."""
    torch.use_deterministic_algorithms(True)
    try:
        blank = torch.ones(2)
        fresh = (torch.empty(2), blank.new_empty(2), torch.empty_like(blank))
        assert all(bool(x.isnan().all()) for x in fresh)
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", SEVERAL)
def test_nothing_is_read_before_it_is_written(name: str, poisoned: None) -> None:
    """Green, and to the bit what it is without the poison."""
    spec = spec_of(name)
    certificate = certify(spec, partial(implementation, spec), cases=cases(spec))
    assert certificate.green, str(certificate)
    for case in cases(spec):
        torch.use_deterministic_algorithms(True)
        ours = everything(name, case)
        torch.use_deterministic_algorithms(False)
        clean = everything(name, case)
        assert ours.keys() == clean.keys()
        for key, x in ours.items():
            assert torch.equal(x, clean[key]), key


# ------------------------------------------------------------ repetition


@pytest.mark.parametrize("name", ["momentum", "network"])
def test_a_hundred_runs_are_one(name: str) -> None:
    """One thread, the same numbers: the same bits, forwards and backwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        case = Case("again", (19,), (5, 3), warm=True, keys=0.5)
        first = everything(name, case)
        assert {"y", "d key", "d value"} <= first.keys()
        for _ in range(99):
            again = everything(name, case)
            assert again.keys() == first.keys()
            assert all(torch.equal(x, first[key]) for key, x in again.items())
    finally:
        torch.set_num_threads(threads)
