"""Products with a decay per channel against the sum written out, for any number of rows."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import sympy as sp
import torch
from torch import Tensor

import miras_dsl
from miras_dsl.check import read
from miras_dsl.codegen.emit.torch.functions import FunctionEmitter
from miras_dsl.codegen.passes.factor_decays import factor_decay_products
from miras_dsl.codegen.pipeline import compile_file
from miras_dsl.codegen.plan.build import PlanBuilder
from miras_dsl.codegen.plan.kernel_plan import Phase
from miras_dsl.codegen.plan.pieces import straight_kernel
from miras_dsl.ir import (
    KEY,
    Cumsum,
    GatedApply,
    GatedContract,
    GatedSpan,
    I,
    Input,
    J,
    Map,
    Node,
    Program,
    Reduce,
    Role,
    Triangle,
    elementwise,
    postorder,
    rename,
)
from miras_dsl.runtime.ops import tensor_ops
from miras_dsl.runtime.ops.gated_products import gated_apply, gated_contract, gated_span
from miras_dsl.scalar.functions import OPERANDS
from miras_dsl.source import Source
from miras_dsl.spec import Interval

ROWS = [1, 3, 4, 5, 16, 63, 64]
BATCH, CHANNELS = (2, 3), 7


def drawn(rows: int, steep: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, y, m and the running sum of logarithms of a decay; float64."""
    torch.manual_seed(rows)
    log = -steep * torch.rand(*BATCH, rows, CHANNELS, dtype=torch.float64)
    x, y = torch.randn(2, *BATCH, rows, CHANNELS, dtype=torch.float64)
    return x, y, torch.randn(*BATCH, rows, rows, dtype=torch.float64), log.cumsum(-2)


def weights(a: Tensor, strict: bool) -> Tensor:
    """``e^(a_i - a_j)`` on the triangle, [.., i, j, d]."""
    rows = a.shape[-2]
    keep = torch.ones(rows, rows).tril(-1 if strict else 0).bool()[..., None]
    return (a[..., :, None, :] - a[..., None, :, :]).masked_fill(~keep, float("-inf")).exp()


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("rows", ROWS)
def test_products_equal_the_sum_written_out(rows, strict):
    x, y, m, a = drawn(rows, 5.0)
    w = weights(a, strict)
    for found, letters, operands in (
        (gated_contract(x, y, a, a, strict), "...id,...jd,...ijd->...ij", (x, y)),
        (gated_apply(m, y, a, a, strict, False), "...ij,...jd,...ijd->...id", (m, y)),
        (gated_apply(m, y, a, a, strict, True), "...ij,...id,...ijd->...jd", (m, y)),
    ):
        torch.testing.assert_close(
            found, torch.einsum(letters, *operands, w), rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize("inclusive", [False, True])
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("rows", ROWS)
def test_pairs_that_span_a_token(rows, strict, inclusive):
    x, y, m, a = drawn(rows, 5.0)
    pairs = torch.einsum("...ij,...id,...jd,...ijd->...ijd", m, x, y, weights(a, strict))
    i, j, s = torch.meshgrid(*[torch.arange(rows)] * 3, indexing="ij")
    spans = (j < s) & ((s <= i) if inclusive else (s < i))
    wanted = torch.einsum("...ijd,ijs->...sd", pairs, spans.double())
    found = gated_span(m, x, y, a, a, strict, inclusive)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_a_sum_of_pairs_is_as_small_as_the_decay_that_they_span():
    """Single precision keeps the digits of each row, whatever the other rows hold."""
    x, y, m, a = drawn(64, 0.1)
    log = a.diff(dim=-2, prepend=torch.zeros_like(a[..., :1, :]))
    log[..., 5::9, :] -= 60.0
    a = log.cumsum(-2)
    exact = gated_span(m, x, y, a, a, False, True)
    found = gated_span(m.float(), x.float(), y.float(), a, a, False, True)
    small = exact[..., 5::9, :]
    assert small.abs().max() < 1e-20
    torch.testing.assert_close(found[..., 5::9, :].double(), small, rtol=1e-3, atol=1e-30)


def test_a_decay_that_forgets_everything_overflows_nowhere():
    """Logarithms that fall by hundreds a token: no factor of the exponent fits a float32."""
    x, y, m, a = (t.float() for t in drawn(64, 400.0))
    for found in (
        gated_contract(x, y, a, a, False),
        gated_apply(m, y, a, a, False, False),
        gated_apply(m, y, a, a, False, True),
    ):
        assert found.isfinite().all()


def test_later_rows_change_nothing_before_them():
    """Bit for bit, wherever the cut lies in the halving."""
    x, y, m, a = (t.float() for t in drawn(64, 0.5))
    before = gated_contract(x, y, a, a, False), gated_apply(m, y, a, a, False, False)
    for cut in (1, 3, 17, 32, 50):
        later = torch.arange(64)[:, None] >= cut
        x2, y2, a2, m2 = (torch.where(later, 3 * t, t) for t in (x, y, a, m))
        after = (
            gated_contract(x2, y2, a2, a2, False),
            gated_apply(m2, y2, a2, a2, False, False),
        )
        for old, new in zip(before, after, strict=True):
            assert torch.equal(old[..., :cut, :], new[..., :cut, :])


# ------------------------------------------------------------ one product, where ranges allow it

NEAR, FAR = Interval(-0.1, 0.0), Interval(-1.0, 0.0)
QUERY, KEYS = (Input(name, (I, KEY), Role.TOKEN) for name in ("query", "key"))
LOG = Input("log_alpha", (I, KEY), Role.GATE)


def scored(strict: bool) -> Program:
    """Query and key through a decay per channel, then applied to keys both ways round."""
    total = Cumsum(LOG, I)
    a, b = total, rename(total, {I: J})
    score = GatedContract(QUERY, rename(KEYS, {I: J}), a, b, KEY, Triangle(I, J, strict))
    y = rename(KEYS, {I: J})
    onto = GatedApply(score, y, a, b, KEY, Triangle(I, J, strict), J)
    into = rename(GatedApply(score, QUERY, a, b, KEY, Triangle(I, J, strict), I), {J: I})
    spans = GatedSpan(score, QUERY, y, a, b, KEY, Triangle(I, J, strict), not strict)
    results = (("score", score), ("onto", onto), ("into", into), ("spans", spans))
    return Program((QUERY, KEYS, LOG), results, ())


def nodes_of(program: Program) -> list[Node]:
    return postorder(root for _, root in program.results)


def gated(program: Program) -> list[Node]:
    return [
        node
        for node in nodes_of(program)
        if isinstance(node, GatedContract | GatedApply | GatedSpan)
    ]


def values(program: Program, query: Tensor, key: Tensor, log: Tensor) -> tuple[Tensor, ...]:
    """The results of a program through its generated text."""
    built = PlanBuilder("made", {}, {"log_alpha"})
    kernel = straight_kernel(built, "token", Phase.STEP, program)
    made = FunctionEmitter(built.values, (), "made").token(kernel)
    assert set(made.params) == {"query", "key", "log_alpha"}
    given = {"query": query, "key": key, "log_alpha": log.double()}
    names = {
        "ops": tensor_ops,
        "torch": torch,
        "size": tensor_ops.Sizes({}, query.dtype, query.device),
        **given,
    }
    for line in ast.parse("\n".join(made.lines)).body:
        assert isinstance(line, ast.Assign)
        names[ast.unparse(line.targets[0])] = run_text(ast.unparse(line.value), names)
    return tuple(run_text(word, names) for word in made.returns)


def run_text(text: str, names: dict[str, Any]) -> Any:
    """A line of generated text, which this test has made itself."""
    return eval(text, names)


def test_near_decays_become_one_product_and_far_ones_do_not():
    program = scored(False)
    assert len(gated(program)) == 4
    assert gated(factor_decay_products(program, {"log_alpha": NEAR}, 64)) == []
    assert factor_decay_products(program, {"log_alpha": FAR}, 64).results == program.results
    assert factor_decay_products(program, {}, 64).results == program.results


@pytest.mark.parametrize("tokens", [1, 59, 61, 600])
def test_the_chunk_decides_how_far_a_decay_reaches(tokens):
    """60 steps of e^-1 are the limit."""
    assert bool(gated(factor_decay_products(scored(False), {"log_alpha": FAR}, tokens))) == (
        tokens > 59
    )


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("rows", [1, 5, 64])
def test_one_product_is_the_same_product(rows, strict):
    torch.manual_seed(rows)
    query, key = torch.randn(2, 3, rows, 7, dtype=torch.float64)
    log = -0.9 * torch.rand(3, rows, 7, dtype=torch.float64)
    program = scored(strict)
    short = factor_decay_products(program, {"log_alpha": Interval(-0.9, 0.0)}, rows)
    assert not gated(short)
    for found, exact in zip(
        values(short, query, key, log), values(program, query, key, log), strict=True
    ):
        torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-12)
    meant = values(program, query, key, log)
    scale = max(exact.abs().max() for exact in meant)  # spans of one row are 0
    for found, exact in zip(values(short, query.float(), key.float(), log), meant, strict=True):
        assert (found - exact).abs().max() <= 1e-5 * (exact.abs().max() or scale)


def test_later_tokens_change_no_bit_of_one_product():
    torch.manual_seed(0)
    query, key = torch.randn(2, 3, 64, 7)
    log = -0.9 * torch.rand(3, 64, 7)
    short = factor_decay_products(scored(False), {"log_alpha": Interval(-0.9, 0.0)}, 64)
    before = values(short, query, key, log)[:2]
    for cut in (1, 17, 63):
        later = torch.arange(64)[:, None] >= cut
        after = values(short, *(torch.where(later, x / 3, x) for x in (query, key, log)))[:2]
        for old, new in zip(before, after, strict=True):
            assert torch.equal(old[..., :cut, :], new[..., :cut, :])


def test_exponentials_of_logarithms_are_shared():
    """Two products of maps with the same decay: one exponential, and none of a difference."""
    total = Cumsum(LOG, I)
    whole = Reduce("sum", LOG, (I,))
    left = elementwise(sp.exp(OPERANDS[0]) * OPERANDS[1], whole - total, QUERY)
    right = elementwise(OPERANDS[0] * sp.exp(-OPERANDS[1]), KEYS, total)
    program = Program((QUERY, KEYS, LOG), (("left", left), ("right", right)), ())
    made = factor_decay_products(program, {"log_alpha": NEAR}, 64)
    grown = {n for n in nodes_of(made) if isinstance(n, Map) and n.formula.has(sp.exp)}
    assert {n.args for n in grown} == {(whole,), (total,)}
    query, key = torch.randn(2, 3, 8, 7, dtype=torch.float64)
    log = -0.1 * torch.rand(3, 8, 7, dtype=torch.float64)
    for a, b in zip(values(made, query, key, log), values(program, query, key, log), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("yaad", "decays by alpha of W1 stay within e^6.74 over a chunk: one product each"),
        ("gla", "decays by alpha have no bound over a chunk: products halve the triangle"),
    ],
)
def test_the_generated_text_says_what_was_decided(name, said):
    (path,) = Path(miras_dsl.__file__).parents[1].glob(f"specs/{name}.mem")
    text = compile_file(read(Source(str(path), path.read_text()))).text
    assert f"#   {said}\n" in text
    assert ("ops.gated" in text) == (name == "gla")
