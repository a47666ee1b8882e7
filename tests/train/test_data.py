"""Text in, batches out: deterministic, held out honestly, and clear about bad input."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
import torch

from miras_dsl.runtime.train import dataset


def test_the_standard_library_is_enough_text():
    """Megabytes, a twentieth held out, the same hash every time."""
    first, again = dataset.standard_library(), dataset.standard_library()
    assert first.text == again.text
    assert "Python" in first.text.name
    assert first.text.file is None
    assert len(first.train) > 2_000_000
    assert 0.01 < len(first.held_out) / len(first.train) < 0.15


def test_a_batch_depends_on_seed_and_step_alone():
    text = np.arange(5000, dtype=np.uint8)
    x, y = dataset.batch(text, 4, 16, seed=1, step=7)
    again, _ = dataset.batch(text, 4, 16, seed=1, step=7)
    other, _ = dataset.batch(text, 4, 16, seed=1, step=8)
    assert torch.equal(x, again)
    assert not torch.equal(x, other)
    assert torch.equal(y[:, :-1], x[:, 1:])
    assert x.shape == y.shape == (4, 16)


def test_held_out_windows_span_the_part():
    text = np.arange(100, dtype=np.uint8)
    x, y = dataset.held_out(text, 3, 10)
    assert x[0, 0] == 0
    assert y[-1, -1] == 99


def test_the_bigram_is_the_one_counted_by_hand():
    """Text `abab…`: after a comes b every time; what is left goes to single bytes, then to all."""
    text = np.frombuffer(b"ab" * 50, np.uint8)
    x, y = dataset.held_out(text, 1, 2)
    single = (50 + 2 / 256) / (100 + 2)
    ab, ba = (50 + single) / (50 + 1), (49 + single) / (49 + 1)
    assert dataset.bigram_bits(text, x, y) == pytest.approx(-(math.log2(ab) + math.log2(ba)) / 2)


def test_a_byte_never_seen_is_no_surprise_without_end():
    """Neither the byte nor the one before it was counted: the single bytes' rest, over all."""
    text = np.frombuffer(b"ab" * 50, np.uint8)
    x, y = torch.tensor([[ord("z")]]), torch.tensor([[ord("y")]])
    assert dataset.bigram_bits(text, x, y) == pytest.approx(-math.log2(2 / 256 / (100 + 2)))


def add_one(counts: np.ndarray) -> np.ndarray:
    """Bits of each choice when every count is one more than it is."""
    return -np.log2((counts + 1) / (counts + 1).sum(-1, keepdims=True))


def baselines(text: np.ndarray, x: torch.Tensor, y: torch.Tensor) -> tuple[float, float, float]:
    """The bigram, single bytes by add-one, pairs by add-one."""
    single = np.bincount(text, minlength=256)
    pairs = np.bincount(text[:-1].astype(np.int64) * 256 + text[1:], minlength=256 * 256)
    plain = add_one(pairs.reshape(256, 256))[x, y].mean()
    return dataset.bigram_bits(text, x, y), add_one(single)[y].mean(), plain


@pytest.mark.parametrize("size", [3_000, 10_000, 100_000, 4_000_000])
def test_the_bigram_is_a_fair_baseline_on_any_amount_of_text(size):
    """Below the single bytes and below add-one always; beside add-one on much text."""
    library = dataset.standard_library()
    middle = len(library.train) // 2
    x, y = dataset.held_out(library.held_out, 64, 128)
    found, single, plain = baselines(library.train[middle : middle + size], x, y)
    assert found < single
    assert found < plain
    if size >= 4_000_000:
        assert found == pytest.approx(plain, rel=0.01)


def test_on_a_page_add_one_would_be_an_easy_rival(root):
    """Most pairs of a page were seen once or never; that is no reason to call them unlikely."""
    page = dataset.text_file(root / "LICENSE")
    found, single, plain = baselines(page.train, *dataset.held_out(page.held_out, 64, 32))
    assert found < min(single, plain) - 0.5


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(bytes(range(1, 256)) * 40)
    corpus = dataset.text_file(path)
    assert len(corpus.train) + len(corpus.held_out) == 255 * 40
    assert len(corpus.held_out) == 255 * 40 // 20
    assert corpus.text.file == str(path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty; training needs 4096 bytes"),
        (b"ten bytes.", "has 10 bytes; training needs 4096 bytes"),
        (b"\x89PNG\r\n\x1a\n\0\0" + bytes(5000), r"is no text \(byte 8 is zero\)"),
        (None, "no text file at"),
    ],
)
def test_bad_files_get_a_sentence(tmp_path, content, sentence):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(dataset.TextError, match=sentence) as caught:
        dataset.text_file(path)
    assert str(path) in str(caught.value)
    assert "with --text" in str(caught.value)


def test_a_directory_gets_a_sentence(tmp_path):
    with pytest.raises(dataset.TextError, match="is a directory; name one text file with --text"):
        dataset.text_file(tmp_path)


def test_a_window_longer_than_the_text_gets_a_sentence():
    short = np.zeros(50, np.uint8)
    with pytest.raises(dataset.TextError, match="the training part of the text has 50 bytes"):
        dataset.batch(short, 1, 100, 0, 0)
    with pytest.raises(
        dataset.TextError, match=r"the held-out part .* a window needs 101; .*--length"
    ):
        dataset.held_out(short, 1, 100)


@pytest.mark.skipif(os.name != "posix", reason="pipes have names")
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_a_device_is_no_text(tmp_path, kind):
    """Nothing waits for ever, or reads without an end."""
    path = tmp_path / "text.txt"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(dataset.TextError, match=r"is no regular file.*--text"):
        dataset.text_file(path)
