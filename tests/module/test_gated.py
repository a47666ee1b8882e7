"""Products with a decay per channel against the sum written out, for any number of rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from miras_dsl.runtime.gated import gated_apply, gated_contract

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
        other = [torch.where(later, 3 * t, t) for t in (x, y, a)]
        m2 = torch.where(later, 3 * m, m)
        after = (
            gated_contract(*other[:2], other[2], other[2], False),
            gated_apply(m2, other[1], other[2], other[2], False, False),
        )
        for old, new in zip(before, after, strict=True):
            assert torch.equal(old[..., :cut, :], new[..., :cut, :])
