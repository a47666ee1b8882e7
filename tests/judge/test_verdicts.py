"""Three verdicts: green, red, and not judged, with the place, the reason and a way out."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial

import pytest
import torch

import miras_dsl as miras
from miras_dsl.check import read
from miras_dsl.runtime.judge.cases import Case, covering
from miras_dsl.runtime.judge.certificate import Certificate, Row, certify
from miras_dsl.runtime.judge.half_life import half_lives
from miras_dsl.runtime.judge.oracle.decays import decays
from miras_dsl.runtime.judge.tolerance import judge
from miras_dsl.runtime.load.loader import implementation
from miras_dsl.source import Source
from miras_dsl.spec import MemorySpec

DIVERGING = """memory Coupled(d) {
  architecture { A: matrix[value, key]   B: matrix[value, key]   M(z) = B @ (A @ z) }
  bias         sum((A @ key - value)^2) / 2 + sum((B @ (A @ key) - value)^2) / 2
  retention    decay alpha
  algorithm    gd(STEP), exact
  order        decay, predict, write, read
  gates        { alpha = sigmoid(linear(x) + 3)  eta = sigmoid(linear(x)) }
}"""
FOUND = """memory A(d) {
  architecture h: vector[d]
  bias         sum(0.5 * (1 - c) * h^2) - sum(h * value)
  retention    none
  algorithm    gd(1), exact
  order        predict, write, read
  gates        { c[d] = sigmoid(param[d]) }
}"""
UNNAMED = """memory M(dk, dv) {
  architecture W: matrix[value, key]
  bias         sum((W @ key - value)^2) / 2
  retention    decay 0.9 + 0.1 * sigmoid(linear(x))
  algorithm    gd(sigmoid(linear(x))), exact
  order        decay, predict, write, read
}"""
NETWORK = """memory N(d) {
  architecture mlp(hidden = 2 * d, residual)
  bias         l2
  retention    l2(alpha)
  algorithm    gd(eta), anchored(16)
  order        predict, decay, write, read
  gates        { alpha = 0.9 + 0.1 * sigmoid(linear(x) + START)   eta = sigmoid(linear(x)) / 64 }
}"""
SHORT = Case("short", (12,), (4, 3), warm=True, keys=0.5, gates=None)


@cache
def memory(text: str) -> MemorySpec:
    (spec,) = read(Source("m.mem", text)).memories.values()
    return spec


def certified(text: str, *cases: Case, dtype: torch.dtype = torch.float32) -> Certificate:
    spec = memory(text)
    return certify(spec, partial(implementation, spec), dtype=dtype, cases=cases)


# ------------------------------------------------------------ not judged


def test_a_memory_that_diverges_is_not_judged() -> None:
    """The place, the cause and what to change; its code is blamed for nothing."""
    usual = replace(SHORT, lengths=(24,))
    proof = certified(DIVERGING.replace("STEP", "2 * eta"), usual)
    assert not proof.failures and proof.unjudged_at_default and not proof.green and not proof.red
    reason = next(row.result for row in proof.unjudged if row.check == "whole")
    assert reason.token is not None and 0 < reason.token < 24
    assert f"grows without bound: it is more than float32 holds from token {reason.token} on" in (
        reason.why
    )
    assert "-fold, as a step does when eta times the curvature" in reason.why
    assert reason.why.endswith("bound eta or normalise key")
    assert "NOT JUDGED" in str(proof) and "compare your formulas" not in str(proof)
    kept = Certificate.from_json(proof.to_json())
    assert kept == proof and not kept.green


def test_at_the_ends_of_ranges_it_stays_green() -> None:
    proof = certified(
        DIVERGING.replace("STEP", "2 * eta"), replace(SHORT, lengths=(24,), gates=0.2)
    )
    assert proof.unjudged and proof.green
    assert "not judged at the ends of ranges" in str(proof).splitlines()[-1]


def test_a_formula_that_leaves_its_domain() -> None:
    text = UNNAMED.replace("write, read\n", "write, read\n  read log(W @ query - 100)\n")
    reason = certified(text, SHORT).unjudged[0].result
    assert "not finite at token 0, where nothing has grown before" in reason.why


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_is_not_finite_is_red_where_the_rule_is(dtype: torch.dtype) -> None:
    exact = torch.tensor([1.0, 2.0], dtype=torch.float64)
    wrong = torch.tensor([1.0, torch.inf], dtype=torch.float64)
    assert judge("y", "output", wrong, exact, [exact], dtype).verdict == "red"
    assert judge("y", "output", wrong, exact, [9 * exact], dtype).verdict == "red"


def test_what_the_type_cannot_hold_is_not_judged() -> None:
    exact = torch.tensor([1.0, 1e39], dtype=torch.float64)
    assert judge("y", "output", exact, exact, [exact], torch.float32).verdict == "not judged"
    assert judge("y", "output", exact, exact, [exact], torch.float64).verdict == "green"
    lost = exact * torch.nan
    assert judge("y", "output", exact, lost, [lost], torch.float64).verdict == "not judged"


def test_where_the_type_rounds_the_rule_away_only_what_agrees_is_green() -> None:
    exact = torch.linspace(1, 2, 64, dtype=torch.float64)
    rough = [1.3 * exact]
    assert judge("y", "output", 1.001 * exact, exact, rough, torch.bfloat16).verdict == "green"
    assert judge("y", "output", 1.1 * exact, exact, rough, torch.bfloat16).verdict == "not judged"
    spike = exact.clone()
    spike[3] += 0.06
    assert judge("y", "output", spike, exact, rough, torch.bfloat16).verdict == "not judged"


# ------------------------------------------------------------ one yardstick, names and sizes


def test_a_decay_that_is_written_in_a_bias_is_one() -> None:
    """One token at c = 0 leaves nothing: its gradient is that of its logarithm, as of a declared decay."""
    assert decays(memory(FOUND)) == {"c"}
    assert decays(memory(UNNAMED)) == {memory(UNNAMED).retention.decays[0].factor.name}
    ends = replace(SHORT, gates=0.6)
    for dtype in (torch.float32, torch.float64):
        assert certified(FOUND, SHORT, ends, dtype=dtype).green


def test_names_are_those_of_the_text() -> None:
    proof = certified(UNNAMED, SHORT)
    names = {row.result.name for row in proof.rows}
    assert {"d (sigmoid(linear(x)))", "d (0.9 + 0.1 * sigmoid(linear(x)))"} <= names
    assert not any("_" in name for name in names)


def test_the_size_stands_beside_the_error() -> None:
    """A larger cotangent would make every gradient larger: an error alone says nothing."""
    proof = certified(UNNAMED, SHORT)
    sizes = {row.result.name: row.result.size for row in proof.rows if row.check == "whole"}
    assert 0.01 < sizes["y"] < 10 and sizes["d query"] > 0.01
    table = str(proof).splitlines()
    assert table[1].split() == ["check", "case", "worst", "size", "error", "allowed", "verdict"]


# ------------------------------------------------------------ exit status


@pytest.mark.parametrize(("text", "status"), [(UNNAMED, 0), (DIVERGING, 5)], ids=["0", "5"])
def test_exit_statuses(miras_check, text: str, status: int) -> None:
    shown = miras_check(text.replace("STEP", "2 * eta"))
    assert shown.exit_code == status, shown.output


@pytest.fixture
def miras_check(tmp_path, monkeypatch):
    """Runs `miras check` on a text, in one short case at the default gates."""
    from typer.testing import CliRunner

    from miras_dsl.cli.app import app
    from miras_dsl.runtime.judge import certificate

    monkeypatch.setattr(certificate, "covering", lambda chunk: (replace(SHORT, lengths=(24,)),))

    def run(text: str):
        path = tmp_path / "m.mem"
        path.write_text(text)
        return CliRunner().invoke(app, ["check", str(path)])

    return run


# ------------------------------------------------------------ half-lives


def test_a_learned_start_that_fades_is_told() -> None:
    fading, lasting = (half_lives(memory(NETWORK.replace("START", n))) for n in ("0", "6"))
    assert {life.weight for life in fading} == {"W1", "W2"}
    assert all(life.fades and 12 < life.slowest < 16 for life in fading)
    assert not any(life.fades for life in lasting)
    (zero,) = half_lives(memory(UNNAMED))
    assert not zero.fades and 11 < zero.slowest < 16
    proof = certified(NETWORK.replace("START", "0"), SHORT)
    assert "warning: the learned start of W1 and W2 fades" in str(proof) and proof.green


@pytest.mark.parametrize("file", ["yaad", "titans", "memora", "ttt_mlp"])
def test_no_shipped_start_fades(file: str) -> None:
    for spec in miras.parse(miras.find(file)).memories.values():
        assert not any(life.fades for life in half_lives(spec)), spec.name


# ------------------------------------------------------------ the cases


def test_the_cases_hold_what_they_promise() -> None:
    cases = covering(64)
    assert any(c.tokens > 4 * 64 and c.heads == 3 and "carried" in c.checks for c in cases)
    assert {"normal", "ending", "tiny", "activations"} == {c.values for c in cases}
    assert {0.0, 0.5, 0.95, 1.0, None} == {c.keys for c in cases}
    checks = {check for c in cases for check in c.checks}
    assert {"carried", "links", "long", "projections"} < checks
    assert max(c.tokens for c in cases) == 2048


def test_in_bf16_a_network_is_judged_at_the_default_gates() -> None:
    usual = [c for c in covering(16) if c.default and "long" not in c.checks]
    proof = certified(NETWORK.replace("START", "4"), *usual, dtype=torch.bfloat16)
    assert proof.green and not proof.unjudged, str(proof)
    assert isinstance(proof.rows[0], Row) and proof.rows[0].default
