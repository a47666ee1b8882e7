"""What `miras check` certifies is what `load` runs: kernels where there are any, and the chunk form."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import miras_dsl as miras
from miras_dsl.runtime.judge.certificate import Certificate
from miras_dsl.runtime.kernels import recurrent
from miras_dsl.runtime.load import certify_file
from miras_dsl.runtime.load.loader import compiled
from miras_dsl.spec import MemorySpec

Judged = list[tuple[str, bool]]


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Judged:
    """Certificates are made out without measuring, on a machine that has a GPU: (way, kernels)."""
    found: Judged = []

    def certify(spec: MemorySpec, build: Any, **given: Any) -> Certificate:
        found.append((given["way"], build.args[0].kernels))
        place = (str(given["dtype"]), given["device"])
        return Certificate(spec.name, given["digest"], *place, True, {}, (), (), given["way"])

    monkeypatch.setattr(certify_file, "certify", certify)
    monkeypatch.setattr(recurrent, "installed", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    return found


def test_on_a_gpu_a_matrix_memory_has_two_certificates(judged: Judged) -> None:
    proofs = miras.certify("deltanet", device="cuda")
    assert judged == [("kernels", True), ("chunk form", False)]
    assert list(proofs) == ["DeltaNet", "DeltaNet, chunk form"]
    assert str(proofs["DeltaNet"]).startswith("DeltaNet · kernels · torch.float32 · cuda")


def test_a_network_has_one(judged: Judged) -> None:
    assert list(miras.certify("yaad", device="cuda", only=["Yaad"])) == ["Yaad"]
    assert judged == [("chunk form", False)]


@pytest.mark.parametrize("why", ["a CPU", "double precision", "MIRAS_KERNELS=off"])
def test_kernels_that_would_not_run_are_not_certified(
    judged: Judged, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "MIRAS_KERNELS=off":
        monkeypatch.setenv("MIRAS_KERNELS", "off")
    dtype = "float64" if why == "double precision" else "float32"
    proofs = miras.certify("deltanet", dtype=dtype, device="cpu" if why == "a CPU" else "cuda")
    assert list(proofs) == ["DeltaNet"]
    assert judged == [("chunk form", False)]


def test_what_is_judged_as_kernels_has_them() -> None:
    spec = miras.parse("deltanet").memories["DeltaNet"]
    for kernels in (True, False):
        _, module = compiled(spec, kernels)
        assert hasattr(module, "_delta_net_kernels") == kernels


def test_a_certificate_keeps_its_way() -> None:
    made = Certificate("A", "", "float32", "cpu", True, {}, (), (), "kernels")
    assert Certificate.from_json(made.to_json()) == made
    assert str(made).startswith("A · kernels · float32")
