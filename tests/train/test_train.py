"""The loop learns, and what it wrote can be trusted after any kind of end."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

from miras_dsl.failures import Unusable
from miras_dsl.runtime import checkpoint, journal
from miras_dsl.runtime.train import (
    TrainConfig,
    TrainError,
    evaluate,
    generate,
    paced,
    rate_at,
    train,
)
from miras_dsl.runtime.watch import first_bad
from tests.train.tiny import CONFIG, Tiny, corpus, tiny

ROOT = Path(__file__).resolve().parents[2]


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
    rows = journal.read(out.log)
    assert [s for s, _ in journal.series(rows, "bits")] == list(range(1, 31))
    assert [s for s, _ in journal.series(rows, "held_out")] == [10, 20, 30]
    assert {k for row in rows for k in row} == {"step", "bits", "norm", "held_out", "sample"}
    assert out.picture is not None
    assert out.picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert checkpoint.facts(tmp_path / checkpoint.NAME)["step"] == 30
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


def program(out: Path, *extra: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.train.tiny", str(out), *extra]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})


def fingerprint(out: Path) -> tuple[str, str]:
    """Hashes of the weights (with the optimiser and the random state) and of the log."""
    kept, log = (out / checkpoint.NAME).read_bytes(), (out / "log.jsonl").read_bytes()
    return hashlib.sha256(kept).hexdigest(), hashlib.sha256(log).hexdigest()


@pytest.mark.slow
def test_killed_three_times_and_resumed(tmp_path):
    """SIGKILL at three random steps; the end is the end of a run that nobody touched."""
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert program(straight).wait() == 0
    seed = random.randrange(10**6)
    print("seed", seed)
    for goal in sorted(random.Random(seed).sample(range(5, 56), 3)):
        resume = ["--resume"] if (broken / checkpoint.NAME).exists() else []
        process = program(broken, *resume)
        while process.poll() is None and steps_logged(broken) < goal:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    resume = ["--resume"] if (broken / checkpoint.NAME).exists() else []
    assert program(broken, *resume).wait() == 0
    assert fingerprint(broken) == fingerprint(straight)


def steps_logged(out: Path) -> int:
    log = out / "log.jsonl"
    return log.read_text().count('"norm"') if log.exists() else 0


def test_a_run_is_not_overwritten(tmp_path):
    """A second run in the same folder needs to be told to go on."""
    train(tiny(), corpus(), CONFIG, tmp_path)
    before = fingerprint(tmp_path)
    with pytest.raises(TrainError, match="already holds a run, at step 30"):
        train(tiny(), corpus(), CONFIG, tmp_path)
    assert fingerprint(tmp_path) == before


def test_resuming_forgets_what_the_log_had_beyond_the_checkpoint(tmp_path):
    """Rows after the checkpoint's step, and a torn last line, are of a run that did not happen."""
    with journal.Journal(tmp_path / "log.jsonl") as log:
        for step in range(1, 6):
            log.append({"step": step, "bits": 1.0})
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 6, "bi')
    with journal.Journal(tmp_path / "log.jsonl", keep_to=3):
        pass
    assert [r["step"] for r in journal.read(tmp_path / "log.jsonl")] == [1, 2, 3]


def test_a_damaged_line_in_the_middle_is_told(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(ValueError, match="line 2"):
        journal.read(tmp_path / "log.jsonl")


def test_a_full_disk_stops_the_log_with_a_sentence(tmp_path):
    """Not a traceback: which file, which step, what to do."""
    sentence = r"log\.jsonl could not be written at step 2: No space"
    with pytest.raises(Unusable, match=sentence), journal.Journal(tmp_path / "log.jsonl") as log:
        log.append({"step": 1, "bits": 1.0})
        log.file = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115
        log.append({"step": 2, "bits": 1.0})
    assert [r["step"] for r in journal.read(tmp_path / "log.jsonl")] == [1]


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
    config = paced(model, corpus(), CONFIG, minutes=0.05)
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
    assert "head.bias" in first_bad(model, torch.zeros(1, 4, dtype=torch.int64))


def test_progress_is_shown(tmp_path):
    """The measurements are printed with the baseline beside them."""
    console = Console(record=True, width=100, file=io.StringIO())
    train(tiny(), corpus(), CONFIG, tmp_path, console=console)
    shown = console.export_text()
    assert "held out" in shown
    assert "bigram" in shown
