"""The code that runs on a GPU, layers with kernels, equals their chunk form in Triton's interpreter."""

from __future__ import annotations

import pytest

from tests.kernels.kernel_cases import interpreted

LAYERS = (
    "gated_deltanet.GatedDeltaNetLayer", "delta_product.DeltaProductLayer", "rwkv7.RWKV7Layer",
    "hgrn.HGRNLayer",
)  # fmt: skip


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    """Everything that the process of its own compared."""
    return interpreted("compare_layers", *LAYERS)


@pytest.mark.slow
@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_computes_the_same_with_kernels(rows: list[dict], layer: str) -> None:
    """Answers, states and gradients; sequences in one backward launch or in several."""
    mine = {r["case"]: r for r in rows if r["layer"] == layer and r["case"] != "debug"}
    assert {case: r["launched"] for case, r in mine.items()} == {
        "a batch": 2, "packed": 2, "a batch, one after the other": 3,
        "packed, one after the other": 5,
    }  # fmt: skip
    for row in mine.values():
        assert {"y", "d x"} < row["errors"].keys()
        assert any(n.startswith("d state ") and "/memory/" in n for n in row["errors"])
        assert {n: e for n, e in row["errors"].items() if not e < 2e-5} == {}


@pytest.mark.slow
@pytest.mark.parametrize("layer", LAYERS)
def test_debug_mode_sees_what_kernels_compute(rows: list[dict], layer: str) -> None:
    (said,) = (r["said"] for r in rows if r["layer"] == layer and r["case"] == "debug")
    assert said.startswith("1 launched; ")
    assert "is not finite at token 7 of sequence 1" in said
