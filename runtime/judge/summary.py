"""A certificate as lines: the worst comparison of each check and case, what was not judged, a verdict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .half_life import FADED, HORIZON

if TYPE_CHECKING:
    from .certificate import Certificate
    from .tolerance import Comparison

RANK = {"green": 0, "not judged": 1, "red": 2}
REASONS = 3
"""How many reasons why something was not judged are printed."""


def lines(proof: Certificate) -> Iterator[str]:
    """The table, reasons and the verdict of a certificate."""
    yield (f"{'check':<12}{'case':<26}{'worst':<24}{'size':>9}{'error':>9}{'allowed':>9}  verdict")
    missing = {(check, case): name for check, case, name in proof.missing}
    for check, case in dict.fromkeys((check, case) for check, case, _ in proof.expected):
        if (check, case) in missing:
            yield f"{check:<12}{case:<26}{missing[check, case]:<24}{'':>27}  MISSING"
            continue
        rows = [r.result for r in proof.rows if (r.check, r.case) == (check, case)]
        worst = max(rows, key=_rank)
        numbers = f"{worst.size:>9.1e}{worst.error:>9.1e}{worst.allowed:>9.1e}"
        if worst.verdict == "not judged":
            numbers = f"{worst.size:>9.1e}{'-':>9}{'-':>9}"
        yield f"{check:<12}{case:<26}{worst.name:<24}{numbers}  {worst.verdict}"
    yield from _half_lives(proof)
    yield from _reasons(proof)
    yield _verdict(proof)


def _rank(result: Comparison) -> tuple[int, float]:
    share = result.error / result.allowed if result.allowed else float(result.error > 0)
    return RANK[result.verdict], max(share, result.rms / max(result.rms_allowed, 1e-30))


def _half_lives(proof: Certificate) -> Iterator[str]:
    """The half-lives of a new layer, and what is wrong with them."""
    if not proof.half_lives:
        return
    told = ", ".join(f"{life.weight} {life.told}" for life in proof.half_lives)
    yield f"half-life of a new layer, in tokens: {told}"
    fading = [life for life in proof.half_lives if life.fades]
    if fading:
        names = " and ".join(life.weight for life in fading)
        left = max(life.left for life in fading)
        yield (
            f"warning: the learned start of {names} fades to {left:.1e} within {HORIZON:,} tokens (less "
            f"than {FADED:.0%}): add a constant to the gate of its decay, so that it starts nearer to 1"
        )


def _reasons(proof: Certificate) -> Iterator[str]:
    """The different reasons why something was not judged, those at the default gates first."""
    rows = sorted(proof.unjudged, key=lambda row: (not row.default, row.result.token is None))
    reasons: dict[str, str] = {}
    for row in rows:
        where = f"{row.check}, {row.case}, {row.result.name}"
        reasons.setdefault(
            row.result.why.partition(";")[0].partition(":")[0], f"{where}: {row.result.why}"
        )
    for reason in list(reasons.values())[:REASONS]:
        yield f"not judged: {reason}"
    if len(reasons) > REASONS:
        yield f"not judged: {len(reasons) - REASONS} other reasons; the JSON has them all"


def _verdict(proof: Certificate) -> str:
    count = len(proof.expected)
    left = len(proof.unjudged)
    aside = f", {left} not judged at the ends of ranges" if left else ""
    if proof.red:
        bad = len(proof.failures) + len(proof.missing)
        also = f", {left} not judged" if left else ""
        return f"RED: {bad} of {count} comparisons failed{also}"
    if proof.unjudged_at_default:
        usual = len(proof.unjudged_at_default)
        return f"NOT JUDGED: {left} of {count} comparisons, {usual} of them at the default gates"
    return f"green: {count - left} comparisons{aside}"
