"""One run at a time in a folder, and the device that a run asks for."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from miras_dsl.exceptions import EnvironmentFailure, UsageError
from miras_dsl.runtime.train.config import TrainError
from miras_dsl.runtime.train.device import choose_device, device_of
from miras_dsl.runtime.train.loop import train
from miras_dsl.runtime.train.run_folder import place
from tests.train.tiny import CONFIG, corpus, tiny

ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import pathlib, sys, time
from miras_dsl.runtime.train.run_folder.place import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.fixture(params=["folder", "file"])
def lockable(request, monkeypatch):
    """The folder itself is locked, or, where a file system cannot do that, a file in it."""
    if request.param == "file":
        if os.name == "posix":
            monkeypatch.setattr(place, "_lock_folder", lambda out, held: False)
    elif os.name != "posix":
        pytest.skip("folders can be locked on POSIX systems only")


@pytest.mark.parametrize("resume", [False, True])
def test_two_runs_in_one_folder(tmp_path, lockable, resume):
    """The second is told so, whatever the first has written so far, and changes nothing."""
    if resume:
        train(tiny(), corpus(), CONFIG, tmp_path)
    with place.locked(tmp_path):
        before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
        with pytest.raises(TrainError, match=r"another process is training in .*--out"):
            train(tiny(), corpus(), CONFIG, tmp_path, resume=resume)
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    train(tiny(), corpus(), CONFIG, tmp_path, resume=resume)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoint.safetensors",
        "log.jsonl",
        "loss.png",
    ]


def test_a_run_that_was_killed_lets_go(tmp_path):
    held = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert held.stdout is not None
    assert held.stdout.readline() == "held\n"
    with pytest.raises(TrainError, match="another process is training"):
        place.require_free(tmp_path)
    held.kill()
    held.wait()
    place.require_free(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="folders can be locked on POSIX systems only")
def test_a_file_system_without_locks_of_folders(tmp_path, monkeypatch):
    import fcntl

    flock = fcntl.flock

    def refusing(handle: int, way: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(handle, way)

    monkeypatch.setattr(fcntl, "flock", refusing)
    with place.locked(tmp_path):
        assert [p.name for p in tmp_path.iterdir()] == [place.LOCK]
        with pytest.raises(TrainError, match="another process is training"):
            place.require_free(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wished", "gpus", "device"),
    [
        ("auto", 0, "cpu"),
        ("auto", 1, "cuda"),
        ("auto", 8, "cuda"),
        ("cpu", 0, "cpu"),
        ("cpu", 2, "cpu"),
        ("cuda", 1, "cuda"),
        ("cuda:0", 1, "cuda:0"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_the_device_of_a_wish(wished, gpus, device):
    assert choose_device(wished, gpus) == device


@pytest.mark.parametrize(
    ("wished", "gpus", "said"),
    [
        ("cuda", 0, "torch finds none on this machine; choose --device cpu"),
        ("cuda:0", 0, "torch finds none"),
        ("cuda:2", 2, "needs a GPU and torch finds 2 on"),
        ("cuda:9999", 8, "torch finds 8"),
    ],
)
def test_a_gpu_that_is_not_there(wished, gpus, said):
    with pytest.raises(EnvironmentFailure, match=said) as caught:
        choose_device(wished, gpus)
    assert caught.value.status == 3


@pytest.mark.parametrize(
    "wished", ["gpu", "", "CUDA", "cuda:", "cuda:x", "cuda:-1", "mps", "cuda:٣", "cuda:1\n"]
)
def test_no_device(wished):
    with pytest.raises(UsageError, match="choose auto, cpu or cuda"):
        choose_device(wished, 1)


def test_where_a_model_lies():
    assert device_of(tiny()) == torch.device("cpu")
    assert device_of(tiny().to("meta")) == torch.device("meta")


@pytest.mark.gpu
def test_a_run_on_a_gpu_is_resumed_there_and_on_the_cpu(tmp_path):
    """Weights, optimiser and sample go there and back."""
    out = train(tiny().to("cuda"), corpus(), CONFIG, tmp_path)
    assert out.bits < 8
    model = tiny(seed=5).to("cuda")
    train(model, corpus(), CONFIG, tmp_path, resume=True)
    assert device_of(model).type == "cuda"
    with pytest.warns(UserWarning, match="written with device cuda and this is device cpu"):
        train(tiny(seed=5), corpus(), CONFIG, tmp_path, resume=True)
