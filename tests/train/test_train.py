"""The loop learns, and what it wrote can be trusted after any kind of end."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import warnings
from pathlib import Path

import pytest
import torch
from rich.console import Console

from miras_dsl.runtime.threads import on_threads
from miras_dsl.runtime.train import checkpoint, metrics_log
from miras_dsl.runtime.train import loop as trainer
from miras_dsl.runtime.train.evaluate import evaluate, generate
from miras_dsl.runtime.train.loop import (
    Interrupted,
    TrainConfig,
    TrainError,
    rate_at,
    train,
    update,
)
from miras_dsl.runtime.train.nonfinite import first_nonfinite
from miras_dsl.runtime.train.time_budget import steps_for_budget
from tests.train.tiny import CONFIG, Tiny, corpus, tiny


def test_training_beats_the_bigram(tmp_path):
    """The text's rule needs more than one byte of memory; a recurrent model finds it."""
    config = dataclasses.replace(CONFIG, steps=150, batch=8, evaluate=150, keep=150)
    out = train(tiny(), corpus(), config, tmp_path)
    assert out.bigram_bits > 0.5
    assert out.bits < 0.7 * out.bigram_bits
    assert out.tokens_per_second > 0


def test_a_run_leaves_log_picture_and_checkpoint(tmp_path):
    """The log has a row per step, measurements with samples, and nothing that a clock decides."""
    out = train(tiny(), corpus(), CONFIG, tmp_path)
    rows = metrics_log.read(out.log)
    assert [s for s, _ in metrics_log.series(rows, "bits")] == list(range(1, 31))
    assert [s for s, _ in metrics_log.series(rows, "held_out")] == [10, 20, 30]
    assert {k for row in rows for k in row} == {"step", "bits", "norm", "held_out", "sample"}
    assert out.picture is not None
    assert out.picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert checkpoint.facts(tmp_path / checkpoint.NAME).step == 30
    assert len(out.sample) > 0


def test_two_runs_are_one(tmp_path):
    """Equal settings, equal weights, equal log, bit for bit."""
    first, second = tiny(), tiny()
    a, b = (
        train(first, corpus(), CONFIG, tmp_path / "a"),
        train(second, corpus(), CONFIG, tmp_path / "b"),
    )
    assert a.log.read_bytes() == b.log.read_bytes()
    for x, y in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(x, y)


def fingerprint(out: Path) -> tuple[str, str]:
    """Hashes of the weights (with the optimiser and the random state) and of the log."""
    kept, log = (out / checkpoint.NAME).read_bytes(), (out / "log.jsonl").read_bytes()
    return hashlib.sha256(kept).hexdigest(), hashlib.sha256(log).hexdigest()


def test_a_run_is_not_overwritten(tmp_path):
    """A second run in the same folder needs to be told to go on."""
    train(tiny(), corpus(), CONFIG, tmp_path)
    before = fingerprint(tmp_path)
    with pytest.raises(TrainError, match="already holds a run, at step 30"):
        train(tiny(), corpus(), CONFIG, tmp_path)
    assert fingerprint(tmp_path) == before


def cut_short(out: Path, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of CONFIG that dies when it logs ``step``."""

    def dying(log, row):
        if row["step"] == step:
            raise MemoryError
        append(log, row)

    append = metrics_log.MetricsLog.append
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(metrics_log.MetricsLog, "append", dying)
        train(tiny(), corpus(), CONFIG, out)


@pytest.mark.parametrize("step", [1, 7])
def test_a_run_that_died_early_can_go_on(tmp_path, monkeypatch, step):
    """Before its first row or after its first checkpoint, at step 4: the end is the same."""
    cut_short(tmp_path / "cut", step, monkeypatch)
    assert checkpoint.facts(tmp_path / "cut" / checkpoint.NAME).step == step // 4 * 4
    train(tiny(seed=5), corpus(), CONFIG, tmp_path / "cut", resume=True)
    train(tiny(), corpus(), CONFIG, tmp_path / "whole")
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "whole")


def test_a_run_keeps_the_threads_that_it_began_with(tmp_path, monkeypatch):
    """Also where torch would choose otherwise now; and outside nothing changes."""
    used = []

    def watched(*arguments):
        used.append(torch.get_num_threads())
        return update(*arguments)

    monkeypatch.setattr(trainer, "update", watched)
    with on_threads(2):
        cut_short(tmp_path, 7, monkeypatch)
    with on_threads(1):
        train(tiny(), corpus(), CONFIG, tmp_path, resume=True)
        assert torch.get_num_threads() == 1
    assert set(used) == {2}
    assert checkpoint.facts(tmp_path / checkpoint.NAME).origin.config["threads"] == 2


def test_another_torch_is_warned_of(tmp_path, monkeypatch):
    """Bit for bit is not promised then; the run goes on all the same."""
    cut_short(tmp_path, 7, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "9.9.9")
        with pytest.warns(
            UserWarning, match=r"written with torch 2.* and this is 9\.9\.9: the run"
        ):
            out = train(tiny(), corpus(), CONFIG, tmp_path, resume=True)
    assert out.steps == 30


def test_the_same_torch_is_not_warned_of(tmp_path, monkeypatch):
    cut_short(tmp_path, 7, monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(tiny(), corpus(), CONFIG, tmp_path, resume=True)


def test_ctrl_c_says_where_the_run_stands(tmp_path, monkeypatch):
    """In the middle of a step the weights are half of one and half of the other: not kept."""

    def interrupted(model, optimiser, config, step, x, y):
        if step == 9:
            raise KeyboardInterrupt
        return update(model, optimiser, config, step, x, y)

    with (
        monkeypatch.context() as patch,
        pytest.raises(
            Interrupted, match=r"checkpoint\.safetensors holds step 8 of 30: go on with --resume"
        ),
    ):
        patch.setattr(trainer, "update", interrupted)
        train(tiny(), corpus(), CONFIG, tmp_path)
    train(tiny(), corpus(), CONFIG, tmp_path, resume=True)
    assert checkpoint.facts(tmp_path / checkpoint.NAME).step == 30


def test_a_folder_that_cannot_be_made_gets_a_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(TrainError, match=r"cannot be made: .*; choose another \(--out\)"):
            train(tiny(), corpus(), CONFIG, out)


@pytest.mark.parametrize("name", ["steps", "batch", "length", "evaluate", "keep", "windows"])
def test_settings_that_mean_nothing_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, not 0"):
        dataclasses.replace(CONFIG, **{name: 0})


def test_the_rate_warms_up_and_falls():
    config = TrainConfig(steps=100, warmup=10, rate=1.0, floor=0.1)
    rates = [rate_at(config, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == max(rates[8:12])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=0.01)


def test_decoding_carries_the_state():
    """The sample equals one made by running the whole prefix again for every byte."""
    model = tiny(seed=3)
    prompt = torch.arange(97, 107)[None]
    fast = generate(model, prompt, 8, seed=5)
    source, tokens, written = torch.Generator().manual_seed(5), prompt, []
    with torch.no_grad():
        for _ in range(8):
            chances = (model(tokens)[0][:, -1] / 0.8).softmax(-1)
            token = torch.multinomial(chances, 1, generator=source)
            written.append(int(token))
            tokens = torch.cat([tokens, token], 1)
    assert fast == bytes(written).decode("utf-8", errors="replace")


def test_evaluation_does_not_depend_on_the_batch():
    x = torch.randint(0, 256, (7, 16))
    bits = [evaluate(tiny(), x, x.roll(-1, 1), batch) for batch in (1, 3, 7)]
    assert bits[0] == pytest.approx(bits[1], rel=1e-5) == pytest.approx(bits[2], rel=1e-5)


def test_pacing_leaves_no_trace():
    """Steps are measured on a copy: weights, random state and threads are as they were."""
    model, fresh, threads = tiny(), tiny(), torch.get_num_threads()
    random_state = torch.get_rng_state()
    config = steps_for_budget(model, corpus(), CONFIG, minutes=0.05)
    assert config.steps >= 10
    assert 1 <= config.threads <= max(1, threads)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), random_state)
    for x, y in zip(model.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(x, y)


class Explodes(Tiny):
    """Its mixer's state overflows once the bytes are large."""

    def forward(self, tokens, state=None):
        x = self.embed(tokens)
        y, state = self.mixer(x * 1e38 * 1e38, state)
        return self.head(x + y), state


def test_a_run_that_blows_up_names_step_and_tensor(tmp_path):
    """Not "nan" for hours: the step and the first tensor."""
    with pytest.raises(TrainError, match=r"step 1: mixer.*is not finite"):
        train(Explodes(), corpus(), CONFIG, tmp_path)


def test_the_first_bad_tensor_is_a_parameter_if_one_is():
    model = tiny()
    with torch.no_grad():
        model.head.bias[3] = float("nan")
    assert "head.bias" in first_nonfinite(model, torch.zeros(1, 4, dtype=torch.int64))


def test_progress_is_shown(tmp_path):
    """The measurements are printed with the baseline beside them."""
    console = Console(record=True, width=100, file=io.StringIO())
    train(tiny(), corpus(), CONFIG, tmp_path, console=console)
    shown = console.export_text()
    assert "held out" in shown
    assert "bigram" in shown
