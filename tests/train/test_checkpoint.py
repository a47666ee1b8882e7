"""A checkpoint is whole or it is the one before."""

from __future__ import annotations

import dataclasses
import errno
import os

import pytest
import torch

from miras_dsl.runtime.train import checkpoint
from miras_dsl.runtime.train.checkpoint import CheckpointError, Origin
from miras_dsl.runtime.train.dataset import Text
from tests.train.damage import rewrite
from tests.train.tiny import Tiny, tiny

READ = Text("book.txt", "ab12", "/books/book.txt")
ORIGIN = Origin("aa", "memory A {\n  bias l2\n}", {"seed": 0, "steps": 5}, READ)


def trained(seed: int = 0) -> tuple[Tiny, torch.optim.AdamW]:
    """A model and an optimiser with state in it."""
    model = tiny(seed=seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(3):
        model(torch.randint(0, 256, (2, 8)))[0].square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    return model, optimiser


def test_everything_comes_back(tmp_path):
    """Weights, moments, counts and the random state."""
    path = tmp_path / checkpoint.NAME
    model, optimiser = trained()
    checkpoint.save(path, model, optimiser, 3, ORIGIN)
    following = torch.rand(3)

    other = tiny(seed=9)
    fresh = torch.optim.AdamW(other.parameters(), lr=1e-2)
    assert checkpoint.load(path, other, fresh, ORIGIN) == 3

    assert torch.equal(torch.rand(3), following)
    for x, y in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(x, y)
    for index, state in optimiser.state_dict()["state"].items():
        for key, value in state.items():
            assert torch.equal(value, fresh.state_dict()["state"][index][key])


def test_a_full_disk_leaves_the_last_one(tmp_path, monkeypatch):
    """The write fails half-way; the file is the old one, and nothing is left beside it."""
    path = tmp_path / checkpoint.NAME
    model, optimiser = trained()
    checkpoint.save(path, model, optimiser, 3, ORIGIN)
    before = path.read_bytes()

    def full(tensors, name, metadata=None):
        with open(name, "wb") as file:
            file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(
        CheckpointError, match=r"step 4 .*No space left.*the one before it is whole"
    ):
        checkpoint.save(path, model, optimiser, 4, ORIGIN)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_before_the_rename_leaves_the_last_one(tmp_path, monkeypatch):
    """What dies between writing and renaming has changed nothing that is read."""
    path = tmp_path / checkpoint.NAME
    model, optimiser = trained()
    checkpoint.save(path, model, optimiser, 3, ORIGIN)

    def killed(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path, model, optimiser, 4, ORIGIN)
    assert checkpoint.facts(path).step == 3


def test_an_edited_spec_with_the_same_weights_is_warned_of(tmp_path):
    """It loads; the reader sees which line of the memory changed."""
    path = tmp_path / checkpoint.NAME
    model, optimiser = trained()
    checkpoint.save(path, model, optimiser, 3, ORIGIN)
    spec = ORIGIN.spec.replace("l2", "huber(1)")
    changed = dataclasses.replace(ORIGIN, digest="bb", spec=spec)
    other = tiny(seed=9)
    with pytest.warns(UserWarning, match="goes on with them") as told:
        assert checkpoint.load(path, other, torch.optim.AdamW(other.parameters()), changed) == 3
    assert "-  bias l2" in str(told[0].message)
    assert "+  bias huber(1)" in str(told[0].message)
    for x, y in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(x, y)


def test_another_compiler_is_warned_of(tmp_path):
    path = tmp_path / checkpoint.NAME
    model, optimiser = trained()
    checkpoint.save(path, model, optimiser, 3, ORIGIN)
    with pytest.warns(UserWarning, match="same text, but another version of the compiler"):
        checkpoint.load(path, tiny(), None, dataclasses.replace(ORIGIN, digest="bb"))


def test_an_edited_spec_with_other_weights_says_which_and_why(tmp_path):
    """Every weight that differs with its shape and type, and the lines of the spec that changed."""
    path = tmp_path / checkpoint.NAME
    model, optimiser = trained()
    checkpoint.save(path, model, optimiser, 3, ORIGIN)
    changed = dataclasses.replace(ORIGIN, digest="bb", spec=ORIGIN.spec.replace("l2", "l1"))
    other = tiny(width=8)
    other.extra = torch.nn.Parameter(torch.zeros(3))
    other.head.bias.data = other.head.bias.data.double()
    del other.mixer.cell.bias_ih_l0
    before = [p.clone() for p in other.parameters()]
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(path, other, None, changed)
    said = str(caught.value)
    assert "extra is missing: the model has (3,) of torch.float32" in said
    assert "mixer.cell.bias_ih_l0 is not in the model: the checkpoint has (48,)" in said
    assert "embed.weight is (256, 16), the model's is (256, 8)" in said
    assert "head.bias is torch.float32, the model's is torch.float64" in said
    assert "-  bias l2" in said and "+  bias l1" in said
    for p, q in zip(other.parameters(), before, strict=True):
        assert torch.equal(p, q)


def test_a_checkpoint_of_the_earlier_format_loads(tmp_path):
    """Format 2 had no checksums."""
    path = tmp_path / checkpoint.NAME
    model, optimiser = trained()
    checkpoint.save(path, model, optimiser, 3, ORIGIN)

    def earlier(about: dict[str, object]) -> None:
        about["format"] = 2
        for key in ("sha256", "tensors", "log", "device"):
            del about[key]

    rewrite(path, earlier)
    other = tiny(seed=9)
    assert checkpoint.load(path, other, torch.optim.AdamW(other.parameters()), ORIGIN) == 3
    for x, y in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(x, y)


def test_other_settings_are_named(tmp_path):
    path = tmp_path / checkpoint.NAME
    model, optimiser = trained()
    checkpoint.save(path, model, optimiser, 3, ORIGIN)
    with pytest.raises(CheckpointError, match="seed: 0 then, 1 now"):
        checkpoint.load(
            path, model, optimiser, dataclasses.replace(ORIGIN, config={"seed": 1, "steps": 5})
        )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (Text("other.txt", "cd34", "/books/other.txt"), "book.txt, not on /books/other.txt; give"),
        (Text("book.txt", "cd34", READ.file), "book.txt, which has changed since; give the same"),
        (Text("the library", "cd34"), "/books/book.txt, not on the library; give the same text"),
    ],
)
def test_another_text_is_named(tmp_path, given, said):
    """By its path, not by two hashes."""
    path = tmp_path / checkpoint.NAME
    model, optimiser = trained()
    checkpoint.save(path, model, optimiser, 3, ORIGIN)
    with pytest.raises(CheckpointError, match=said):
        checkpoint.load(path, model, optimiser, dataclasses.replace(ORIGIN, text=given))


def test_a_text_may_move(tmp_path):
    """What it says decides, not where it lies."""
    path = tmp_path / checkpoint.NAME
    model, optimiser = trained()
    checkpoint.save(path, model, optimiser, 3, ORIGIN)
    moved = dataclasses.replace(ORIGIN, text=Text("moved.txt", READ.sha256, "/moved.txt"))
    assert checkpoint.load(path, model, optimiser, moved) == 3
    assert checkpoint.facts(path).origin == ORIGIN


def test_another_width_is_named(tmp_path):
    path = tmp_path / checkpoint.NAME
    model, optimiser = trained()
    checkpoint.save(path, model, optimiser, 3, ORIGIN)
    with pytest.raises(
        CheckpointError, match=r"embed.weight is \(256, 16\), the model's is \(256, 8\)"
    ):
        checkpoint.load(path, tiny(width=8), None, None)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all, but long enough to be read"])
def test_something_else_is_refused(tmp_path, content):
    path = tmp_path / checkpoint.NAME
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        checkpoint.facts(path)


def test_a_missing_one_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no checkpoint at .* without --resume"):
        checkpoint.facts(tmp_path / "nothing.safetensors")
