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
from tests.judge import faults_derived, faults_reverse, faults_running
from tests.judge.faults import FAULTS, TEXTS, Fault, cases, spec_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "planted-faults.md"
PLACES = {faults_derived: "derivation", faults_reverse: "reverse mode", faults_running: "runtime"}
PLANTED = sorted(FAULTS, key=lambda f: list(TEXTS).index(f.memory))
CAUGHT: dict[str, str] = {}


@cache
def spec_named(name: str) -> MemorySpec:
    return spec_of(name)


def certified(memory: str) -> Certificate:
    """A memory compiled afresh, with whatever is patched, and judged."""
    spec = spec_named(memory)
    made, module = build.compiled.__wrapped__(spec)
    return certify(
        spec,
        lambda sizes: build.bound(made.rule, spec, module, sizes),
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
    CAUGHT[fault.name] = "; ".join(
        f"{check}: {summary([row.result.name for row in red if row.check == check])}"
        for check in dict.fromkeys(row.check for row in red)
    )


def summary(names: list[str]) -> str:
    """A few names of what was red, or how many there were."""
    found = sorted(set(names))
    return ", ".join(found) if len(found) <= 4 else f"{len(found)} quantities"


def page() -> str:
    """The table of what caught each fault."""
    lines = [
        "# Planted faults",
        "",
        "Each fault is planted alone, in the compiler or in the runtime under it, and a memory",
        "that goes through the faulty place is certified. `tests/judge/test_planted_faults.py`",
        "plants them again in every run and fails if a certificate stays green; this table says",
        "which comparisons turned red (`tests/judge/faults.py` has the memories).",
        "",
        "| place | fault | memory | caught by |",
        "|---|---|---|---|",
    ]
    for fault in PLANTED:
        place = next(said for m, said in PLACES.items() if fault.plant.__module__ == m.__name__)
        lines.append(f"| {place} | {fault.name} | {fault.memory} | {CAUGHT[fault.name]} |")
    return "\n".join(lines) + "\n"


def test_the_table_is_kept(update_golden: bool) -> None:
    """Every fault is in the table, and nothing else; their names are their own."""
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names) >= 40
    if update_golden:
        assert set(CAUGHT) == set(names), "all faults are planted in one process: -n 0"
        PAGE.write_text(page(), encoding="utf-8")
    rows = PAGE.read_text(encoding="utf-8").splitlines()[9:]
    assert [row.split(" | ")[1] for row in rows] == [fault.name for fault in PLANTED]
