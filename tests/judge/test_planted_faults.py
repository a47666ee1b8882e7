"""A judge that can fail: every planted fault, alone, turns a certificate red.

`--update-golden` writes `docs/planted-faults.md`, the table of what caught each of them (in one
process: `-n 0`).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch

from miras_dsl.runtime import build
from miras_dsl.runtime.certificate import Certificate, certify
from miras_dsl.spec import MemorySpec
from tests.judge import faults_derived, faults_running
from tests.judge.faults import FAULTS, TEXTS, Fault, cases, spec_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "planted-faults.md"
PLACES = {faults_derived: "derivation", faults_running: "runtime"}
PLANTED = sorted(FAULTS, key=lambda f: list(TEXTS).index(f.memory))
CAUGHT: dict[str, str] = {}


@cache
def spec_named(name: str) -> MemorySpec:
    return spec_of(name)


def certified(memory: str) -> Certificate:
    """A memory compiled afresh, with whatever is patched, and judged."""
    spec = spec_named(memory)
    rule, module = build._compiled.__wrapped__(spec)
    return certify(
        spec,
        lambda sizes: build.bound(rule, spec, module, sizes),
        dtype=torch.float64,
        cases=cases(spec),
    )


@pytest.mark.parametrize("memory", TEXTS)
def test_without_a_fault_it_is_green(memory: str) -> None:
    certificate = certified(memory)
    assert certificate.green, str(certificate)


@pytest.mark.parametrize("fault", PLANTED, ids=lambda fault: fault.name)
def test_a_planted_fault_is_caught(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    fault.plant(monkeypatch)
    certificate = certified(fault.memory)
    red = [row for row in certificate.failures if row.result.verdict == "red"]
    assert red and not certificate.green
    checks = dict.fromkeys(row.check for row in red)
    CAUGHT[fault.name] = ", ".join(
        f"{check} ({', '.join(sorted({row.result.name for row in red if row.check == check}))})"
        for check in checks
    )
