"""Random specs through the whole compiler: text, derivation, generated code, certificate.

Every commit draws its own specs; the seed is printed, and `MIRAS_SEED` repeats a run or, as `new`,
draws others.  They are judged in float64 and float32 in turn.  A failure is shrunk to the plainest
recipe that still fails and kept as a `.mem` under `.pytest_cache/random`; a file moved from there to
`tests/judge/kept` is checked for ever.
"""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from functools import lru_cache, partial
from pathlib import Path
from random import Random
from zlib import crc32

import pytest
import torch

from miras_dsl.check import read
from miras_dsl.diagnostics import SpecErrors
from miras_dsl.runtime.judge.cases import Case
from miras_dsl.runtime.judge.certificate import Certificate, Row, certify
from miras_dsl.runtime.judge.tolerance import ILL_CONDITIONED, precision
from miras_dsl.runtime.load.loader import implementation
from miras_dsl.source import Source
from miras_dsl.spec import MemorySpec
from tests.judge.random_specs.draw import (
    SpecRecipe,
    legal,
    sample,
    sample_covering,
    shrink,
    space,
    text,
    values,
)

COUNT, SEED = 50, 101
CHECKED = ("whole", "split", "steps", "causal")
REFUSALS = {"M0512", "M0513", "M0610", "M0611"}
"""What the derivation may say it has no formula for: a coded diagnostic is an answer."""
ROOT = Path(__file__).resolve().parents[2]
FOUND, KEPT = ROOT / ".pytest_cache" / "random", Path(__file__).with_name("kept")


@lru_cache
def seed() -> int:
    """The same in every worker of a run: `MIRAS_SEED`, a fresh one for `new`, else the commit's own,
    and `SEED` where there is no repository."""
    given = os.environ.get("MIRAS_SEED")
    if given == "new":
        return crc32(os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid())).encode())
    if given is not None:
        return int(given)
    try:
        asked = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
        return crc32(subprocess.run(asked, capture_output=True, check=True).stdout)
    except (OSError, subprocess.CalledProcessError):
        return SEED


@lru_cache
def recipes() -> tuple[tuple[SpecRecipe, ...], Counter[tuple[str, str]]]:
    coverage: Counter[tuple[str, str]] = Counter()
    drawn = tuple(sample_covering(Random(seed()), COUNT, coverage))
    return drawn, coverage


def spec_of(recipe: SpecRecipe) -> MemorySpec:
    return read(Source("random.mem", text(recipe))).memories["Random"]


def cases(spec: MemorySpec) -> tuple[Case, ...]:
    """Short and small: three chunks and a part of one; a rule that runs token by token has none."""
    bent = spec.retention.at == "token" or spec.algorithm.implicit
    anchored = spec.algorithm.anchored
    long = 12 if bent else 3 * anchored.block + 2 if anchored else 67
    return (
        Case("long", (long,), (5, 3), keys=0.5, checks=CHECKED),
        Case("two tokens, warm", (2, 2), (3, 6), warm=True, keys=None, strided=True),
        Case("packed", (0, 1, 9, 3), (4, 4), packed=True, warm=True, checks=CHECKED),
    )


def certified(spec: MemorySpec, dtype: torch.dtype = torch.float64) -> Certificate:
    return certify(spec, partial(implementation, spec), dtype=dtype, cases=cases(spec))


def sensitivity(row: Row, dtype: str) -> float:
    """How far off the oracle itself is in single precision, relative to the size of its values."""
    wide = precision(torch.float64) / precision(torch.float32) if dtype == "float64" else 1.0
    return row.result.reference_rms / wide


def wrong(certificate: Certificate) -> list[Row]:
    """The rows that are red, but for those of chaotic specs.

    A network that learns from every token may be chaotic: two correct computations part
    exponentially.  Where single precision is off by a thousandth, only what no rounding explains is
    wrong: a wrong term shows in the leading digits, and a thousand times the allowance is far from
    both.  Where it is off by more than 5 % there is nothing to compare, in float64 as in float32.
    """

    def excused(row: Row) -> bool:
        off = sensitivity(row, certificate.dtype)
        near = row.result.finite and row.result.error <= 1e3 * row.result.allowed
        return off > ILL_CONDITIONED or (off > 1e-3 and near)

    return [row for row in certificate.failures if row.result.verdict == "red" and not excused(row)]


def fails(recipe: SpecRecipe, dtype: torch.dtype) -> bool:
    try:
        return bool(wrong(certified(spec_of(recipe), dtype)))
    except SpecErrors:
        return False


def shrunk(recipe: SpecRecipe, dtype: torch.dtype) -> SpecRecipe:
    """The plainest recipe that still fails, one axis at a time."""
    while (smaller := next((r for r in shrink(recipe) if fails(r, dtype)), None)) is not None:
        recipe = smaller
    return recipe


@pytest.mark.parametrize("number", range(COUNT))
def test_a_random_spec(number: int) -> None:
    recipe, dtype = recipes()[0][number], (torch.float64, torch.float32)[number % 2]
    try:
        certificate = certified(spec_of(recipe), dtype)
    except SpecErrors as errors:
        assert {d.code for d in errors.diagnostics} <= REFUSALS
        return
    if wrong(certificate):
        small = shrunk(recipe, dtype)
        FOUND.mkdir(parents=True, exist_ok=True)
        kept = FOUND / f"{seed()}-{number}.mem"
        kept.write_text(text(small), encoding="utf-8")
        pytest.fail(
            f"MIRAS_SEED={seed()}, recipe {number}; kept {kept}\n{text(small)}\n{certificate}"
        )
    assert not certificate.missing


def test_coverage(capsys: pytest.CaptureFixture[str]) -> None:
    """Every axis value and every class of rule occurs in a run."""
    _, coverage = recipes()
    with capsys.disabled():
        print(f"\nrandom specs: MIRAS_SEED={seed()}, {COUNT} specs")
        for axis in sorted({axis for axis, _ in coverage}):
            counts = sorted((v, n) for (a, v), n in coverage.items() if a == axis)
            print(f"  {axis}: " + ", ".join(f"{value} {n}" for value, n in counts))
    assert not space() - set(coverage)


def test_every_recipe_is_accepted() -> None:
    """What the generator calls legal, the checker reads; nothing here is compiled."""
    random = Random(seed())
    for _ in range(150):
        spec_of(sample(random))


def test_shrinking_stays_legal_and_ends() -> None:
    random = Random(seed())
    for _ in range(20):
        recipe = sample(random)
        steps = 0
        while (smaller := next(shrink(recipe), None)) is not None:
            assert legal(smaller) and len(values(smaller)) >= 10
            recipe, steps = smaller, steps + 1
        assert steps <= 40


@pytest.mark.parametrize("path", sorted(KEPT.glob("*.mem")), ids=lambda path: path.stem)
def test_a_kept_failure_stays_mended(path: Path) -> None:
    for spec in read(Source(path.name, path.read_text(encoding="utf-8"))).memories.values():
        assert certified(spec).green
