"""A judge that can fail: every planted fault, alone, turns a certificate red.

`--update-golden` writes `docs/planted-faults.md`, the table of what caught each of them (in one
process: `-n 0`).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from miras_dsl.runtime.judge import bench
from miras_dsl.runtime.judge.cases import Case
from miras_dsl.runtime.judge.certificate import Certificate, certify
from miras_dsl.runtime.load import loader
from miras_dsl.source import Source
from miras_dsl.spec import MemorySpec
from tests.judge import (
    faults_blocks,
    faults_derived,
    faults_module,
    faults_reach,
    faults_reverse,
    faults_rules,
    faults_running,
    faults_states,
)
from tests.judge.fault_memories import IN_BLOCKS, LAYERS, MODELS, TEXTS
from tests.judge.faults import FAULTS, Fault, cases, spec_of
from tests.judge.opened_programs import wrong_in_blocks
from tests.module.layer_certificate import wrong, wrong_model

PAGE = Path(__file__).resolve().parents[2] / "docs" / "planted-faults.md"
PLACES = {
    faults_derived: "derivation",
    faults_reverse: "reverse mode",
    faults_running: "runtime",
    faults_reach: "far out",
    faults_rules: "algorithm, retention",
    faults_module: "module",
    faults_blocks: "blocks",
    faults_states: "several weights",
}
SUBJECTS = [*TEXTS, *LAYERS, *MODELS, *IN_BLOCKS]
PLANTED = sorted(FAULTS, key=lambda f: SUBJECTS.index(f.memory))
CAUGHT: dict[str, str] = {}


@pytest.fixture(autouse=True)
def one_more_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is red the reference is drawn once more, not eight times: this file is full
    of red, and without a fault once is enough."""
    monkeypatch.setattr(bench, "MAX_REFERENCE_DRAWS", 1)


@cache
def spec_named(name: str) -> MemorySpec:
    return spec_of(name)


def certified(memory: str, where: tuple[Case, ...] = (), dtype: str = "float64") -> Certificate:
    """A memory compiled afresh, with whatever is patched, and judged in the usual cases or others."""
    spec = spec_named(memory)
    memory, module = loader.compiled.__wrapped__(spec)
    return certify(
        spec,
        lambda sizes: loader.with_sizes(memory, module, sizes),
        dtype=getattr(torch, dtype),
        cases=where or cases(spec),
    )


def judged(subject: str, *where: Any) -> list[tuple[str, str]]:
    """What is red in a memory, layer, model or program in blocks: check and quantity."""
    if subject in TEXTS:
        return [(r.check, r.result.name) for r in certified(subject, *where).failures]
    if subject in IN_BLOCKS:
        return wrong_in_blocks(spec_named(IN_BLOCKS[subject]))
    library = loader._load.__wrapped__(Source("<fault>", (LAYERS | MODELS)[subject]))
    found = wrong(library, "Whole") if subject in LAYERS else wrong_model(library, "All")
    return [(w.check, w.name) for w in found]


@pytest.mark.parametrize("memory", TEXTS)
def test_without_a_fault_it_is_green(memory: str) -> None:
    certificate = certified(memory)
    assert certificate.green, str(certificate)


ELSEWHERE = sorted({(f.memory, f.dtype, f.cases) for f in FAULTS if f.cases}, key=repr)


@pytest.mark.parametrize(("memory", "dtype", "where"), ELSEWHERE, ids=lambda x: str(x)[:40])
def test_without_a_fault_it_is_green_there(
    memory: str, dtype: str, where: tuple[Case, ...]
) -> None:
    certificate = certified(memory, where, dtype)
    assert certificate.green and not certificate.unjudged, str(certificate)


@pytest.mark.parametrize("subject", [*LAYERS, *MODELS, *IN_BLOCKS])
def test_without_a_fault_nothing_is_wrong(subject: str) -> None:
    assert judged(subject) == []


@pytest.mark.parametrize("fault", PLANTED, ids=lambda fault: fault.name)
def test_a_planted_fault_is_caught(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    fault.plant(monkeypatch)
    red = judged(fault.memory, fault.cases, fault.dtype)
    assert red
    CAUGHT[fault.name] = "; ".join(
        f"{check}: {summary([name for own, name in red if own == check])}"
        for check in dict.fromkeys(own for own, _ in red)
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
        "which comparisons turned red (`tests/judge/fault_memories.py` has the memories).",
        "",
        "A certificate takes tokens and gates as given. Faults of what makes them, and of what",
        "stands around a memory, are planted under whole layers and models, whose meaning",
        "`tests/module/layer_meaning.py` computes from their formulas: what is fed, outputs, gradients.",
        "",
        "No generated module has its rows in blocks yet. Faults of what opens them, and of the reverse",
        "mode of operations that only blocks have, are planted under chunk programs, compared in blocks",
        "and without (`tests/judge/opened_programs.py`).",
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
    assert len(set(names)) == len(names) >= 100
    if update_golden:
        assert set(CAUGHT) == set(names), "all faults are planted in one process: -n 0"
        PAGE.write_text(page(), encoding="utf-8")
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| ")][1:]
    assert [row.split(" | ")[1] for row in rows] == [fault.name for fault in PLANTED]
